"""Who gets which records, and when they come again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline import Broker, open_broker
from trunkline.errors import InvalidTopicName, QueueInUse, UnknownQueue
from trunkline.queues import QueueConfig, QueueSource, SharedPrefetch

if TYPE_CHECKING:
    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with open_broker() as broker:
        yield broker


async def test_a_whole_batch_is_given_out_untouched(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.taker(queue)
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    await taker.wait(3)
    (block,) = taker.blocks
    assert block.batch() == await broker.partition("jobs", 0).read(0, 1)


async def test_part_of_a_batch_is_given_out_as_a_batch_of_its_own(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    for compression in (0, 1):
        await bench.publish(broker, "jobs", [b"a", b"b", b"c", b"d"], compression=compression)
    taker = bench.taker(queue, prefetch=3)
    await taker.wait(3)
    taker.settle(0, 1, 2)
    await taker.wait(6)
    parts = [bench.decoded(block.batch()) for block in taker.blocks]
    assert parts == [[(0, b"a"), (1, b"b"), (2, b"c")], [(3, b"d")], [(4, b"a"), (5, b"b")]]


async def test_what_is_released_returns_to_its_place_and_counts(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    taker = await bench.taker(queue, prefetch=2).wait(2)
    assert taker.hold.release([(0, 1)]) == 1
    await taker.wait(3)
    assert taker.got == [(0, b"a", 0), (1, b"b", 0), (0, b"a", 1)]
    taker.hold.release([(0, 1)], count=False)
    await taker.wait(4)
    assert taker.got[-1] == (0, b"a", 1)


async def test_a_consumer_that_goes_gives_back_what_it_holds(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    first = await bench.taker(queue).wait(3)
    first.settle(1)
    first.hold.close()
    assert first.settle(0) == 0
    second = await bench.taker(queue).wait(2)
    assert second.got == [(0, b"a", 1), (2, b"c", 1)]


async def test_prefetch_bounds_what_a_consumer_holds_and_may_change(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"%d" % n for n in range(10)])
    taker = await bench.taker(queue, prefetch=2).wait(2)
    await bench.rounds(broker)
    assert taker.hold.unacked == 2
    taker.hold.set_prefetch(5)
    await taker.wait(5)
    taker.hold.pause()
    taker.settle(0, 1, 2)
    await bench.rounds(broker)
    assert len(taker.got) == 5
    taker.hold.resume()
    await taker.wait(8)


async def test_prefetch_in_bytes_bounds_what_a_consumer_holds_but_for_the_last_record(
    broker: Broker, bench: QueueBench
) -> None:
    queue = await broker.queues.declare("jobs")
    for _ in range(3):
        await bench.publish(broker, "jobs", [bytes(100_000)] * 3)
    small = await bench.taker(queue, prefetch_bytes=250_000).wait(3)
    await bench.rounds(broker)
    assert len(small.got) == 3
    small.settle(0)
    await bench.rounds(broker)
    assert len(small.got) == 4
    small.hold.release([(1, 4)], count=False)
    await small.wait(7)
    await bench.rounds(broker)
    assert len(small.got) == 7
    tiny = await bench.taker(queue, prefetch_bytes=1).wait(1)
    await bench.rounds(broker)
    assert len(tiny.got) == 1


async def test_a_shared_prefetch_bounds_several_consumers(broker: Broker, bench: QueueBench) -> None:
    one, two = await broker.queues.declare("one"), await broker.queues.declare("two")
    for name in ("one", "two"):
        await bench.publish(broker, name, [b"%d" % n for n in range(5)])
    shared = SharedPrefetch(6)
    first, second = bench.taker(one, shared=shared), bench.taker(two, shared=shared)
    await bench.rounds(broker)
    assert (len(first.got), len(second.got)) == (5, 1)
    first.settle(0, 1)
    await second.wait(3)
    shared.set_limit(8)
    await second.wait(5)


async def test_what_is_ready_is_shared_among_consumers_and_priorities_come_first(
    broker: Broker, bench: QueueBench
) -> None:
    queue = await broker.queues.declare("jobs")
    low, *high = bench.taker(queue), bench.taker(queue, priority=1, prefetch=3), bench.taker(queue, priority=1)
    await bench.publish(broker, "jobs", [b"%d" % n for n in range(8)])
    assert [len(taker.got) for taker in (low, *high)] == [0, 3, 5]
    high[1].hold.pause()
    await bench.publish(broker, "jobs", [b"8"])
    assert low.values == [b"8"]


async def test_a_single_active_consumer_gets_everything_until_it_goes(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(single_active=True))
    first, second = bench.taker(queue), bench.taker(queue, priority=5)
    await bench.publish(broker, "jobs", [b"a", b"b"])
    await first.wait(2)
    first.settle(0)
    first.hold.close()
    await second.wait(1)
    assert second.got == [(1, b"b", 1)]


async def test_an_exclusive_consumer_is_the_only_one(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.taker(queue, exclusive=True)
    with pytest.raises(QueueInUse):
        bench.taker(queue)
    taker.hold.close()
    bench.taker(queue)
    with pytest.raises(QueueInUse):
        bench.taker(queue, exclusive=True)


async def test_auto_settled_records_are_finished_with_when_they_are_delivered(
    broker: Broker, bench: QueueBench
) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.taker(queue, auto_settle=True, prefetch=2)
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    await taker.wait(3)
    assert (queue.statistics().unacked, queue.statistics().acknowledged) == (0, 3)


async def test_a_consumer_that_fails_is_closed_and_others_get_its_records(
    broker: Broker, bench: QueueBench, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await broker.queues.declare("jobs")
    bad = bench.taker(queue, priority=1)
    bad.failure = ValueError("cannot take it")
    good = bench.taker(queue)
    await bench.publish(broker, "jobs", [b"a"])
    await good.wait(1)
    assert good.got == [(0, b"a", 1)]
    assert "cannot take it" in caplog.text


async def test_deleting_a_queue_cancels_its_consumers_and_keeps_the_topic(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.taker(queue)
    await bench.publish(broker, "jobs", [b"a"])
    await taker.wait(1)
    with pytest.raises(QueueInUse):
        await broker.queues.delete("jobs", if_unused=True)
    with pytest.raises(QueueInUse):
        await broker.queues.delete("jobs", if_empty=True)
    assert await broker.queues.delete("jobs") == 1
    assert isinstance(taker.error, UnknownQueue)
    assert taker.settle(0) in (0, 1)
    with pytest.raises(UnknownQueue):
        broker.queues.get("jobs")
    assert [record.value async for record in broker.read("jobs", follow=False)] == [b"a"]


async def test_records_are_matched_by_key_and_headers(broker: Broker, bench: QueueBench) -> None:
    mail = await broker.queues.declare("mail", bench.config("jobs", "mail.#"))
    urgent = await broker.queues.declare("urgent", bench.config("jobs", headers={"urgent": "yes"}))
    await broker.create_topic("jobs")
    for key, headers in [(b"mail.a", ()), (b"sms.b", ()), (b"mail.c", [("urgent", b"yes")]), (None, ())]:
        await broker.publish("jobs", key, key=key, headers=headers)
    assert (await bench.taker(mail).wait(2)).values == [b"mail.a", b"mail.c"]
    assert (await bench.taker(urgent).wait(1)).values == [b"mail.c"]


async def test_filters_of_both_syntaxes_take_a_record_once(broker: Broker, bench: QueueBench) -> None:
    sources = [*bench.config("jobs", "a/+", "mqtt").sources, *bench.config("jobs", "#.a/b.#").sources]
    config = QueueConfig(sources=tuple(sources))
    queue = await broker.queues.declare("both", config)
    await broker.publish("jobs", b"1", key=b"a/b")
    await broker.publish("jobs", b"2", key=b"a/c")
    assert (await bench.taker(queue).wait(2)).values == [b"1", b"2"]
    assert queue.state.next_sequence == 2


async def test_a_queue_may_begin_with_what_a_topic_holds_already(broker: Broker, bench: QueueBench) -> None:
    for n in range(5):
        await broker.publish("jobs", b"%d" % n, key=b"k%d" % (n % 2))
    everything = await broker.queues.declare("all", bench.config("jobs", start="earliest"))
    odd = await broker.queues.declare("odd", bench.config("jobs", "k1", start={0: 2}))
    new = await broker.queues.declare("new", bench.config("jobs"))
    await broker.publish("jobs", b"5", key=b"k1")
    assert (await bench.taker(everything).wait(6)).values == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert (await bench.taker(odd).wait(2)).values == [b"3", b"5"]
    assert (await bench.taker(new).wait(1)).values == [b"5"]


async def test_a_slow_reader_of_the_past_is_not_overtaken(broker: Broker, bench: QueueBench) -> None:
    """Order within a partition holds over what comes from the log and what is committed meanwhile."""
    for n in range(300):
        await bench.publish(broker, "jobs", [b"%d" % n])
    queue = await broker.queues.declare("all", bench.config("jobs", start="earliest"))
    taker = bench.taker(queue, prefetch=7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.settle_all, taker, 400)
        for n in range(300, 400):
            await bench.publish(broker, "jobs", [b"%d" % n])
    assert taker.values == [b"%d" % n for n in range(400)]


async def test_waiting_for_a_queue_that_is_deleted_ends(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b"])
    taker = await bench.taker(queue).wait(2)
    await broker.queues.delete("jobs")
    taker.settle(0)
    with pytest.raises(UnknownQueue):
        await queue.wait_durable()


async def test_names_of_the_broker_s_own_are_refused(broker: Broker) -> None:
    with pytest.raises(InvalidTopicName):
        await broker.queues.declare("__jobs")


async def test_a_queue_explains_itself(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", bench.config("missing"))
    assert queue.explain() == ["These of its topics do not exist yet: missing.", "It is empty."]
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    assert "3 records are ready, but no consumer is attached." in queue.explain()
    taker = await bench.taker(queue, prefetch=1, name="bob").wait(1)
    assert any("hold as many as their prefetch allows" in sentence for sentence in queue.explain())
    assert taker.hold.unacked == 1
    await broker.publish("jobs", b"later", headers=[("trunkline.deliver-at", b"99999999999999")])
    taker.hold.set_prefetch(0)
    await taker.wait(3)
    assert queue.explain()[1:3] == [
        "Nothing is ready; 1 records are delayed.",
        "Nothing is ready; 3 records are with consumers, or on their way out.",
    ]


async def test_a_queue_takes_from_partitions_that_are_added(broker: Broker, bench: QueueBench) -> None:
    await broker.create_topic("events")
    await broker.publish("events", b"before")
    queue = await broker.queues.declare("jobs", QueueConfig(sources=(QueueSource("events", start="latest"),)))
    taker = bench.taker(queue)
    await broker.alter_topic("events", partitions=3)
    await broker.publish("events", b"a", partition=2)
    await broker.publish("jobs", b"b")
    await broker.alter_topic("jobs", partitions=2)
    await broker.publish("jobs", b"c", partition=1)
    await taker.wait(3)
    assert sorted(value or b"" for value in taker.values) == [b"a", b"b", b"c"]


async def test_a_taker_gets_what_it_asks_for_and_is_no_consumer(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.detached(queue)
    assert taker.hold.take() is False
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    await bench.rounds(broker)
    assert taker.hold.take() is True
    assert taker.hold.take(5) is True
    assert taker.got == [(0, b"a", 0), (1, b"b", 0), (2, b"c", 0)]
    assert queue.statistics().consumers == 0
    assert taker.settle(0) == 1
    taker.hold.close()
    assert (await bench.taker(queue).wait(2)).got == [(1, b"b", 1), (2, b"c", 1)]


async def test_a_taker_passes_over_what_has_expired(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(ttl_ms=0, dead_letter_topic=""))
    await bench.publish(broker, "jobs", [b"a"])
    taker = bench.detached(queue)
    assert taker.hold.take() is False
    assert taker.got == []


async def test_who_retires_keeps_what_it_has_and_gets_no_more(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(single_active=True))
    first = bench.taker(queue, prefetch=1)
    second = bench.taker(queue)
    await bench.publish(broker, "jobs", [b"a", b"b"])
    await first.wait(1)
    first.hold.retire()
    await second.wait(1)
    assert (first.values, second.values) == ([b"a"], [b"b"])
    assert queue.statistics().consumers == 1
    assert first.settle(0) == 1
    first.hold.close()
    assert queue.statistics().acknowledged == 1
