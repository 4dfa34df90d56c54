"""Records that leave a queue other than by being settled: expired, too many, delivered too often, rejected, moved."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from trunkline import Broker, open_broker
from trunkline.errors import QueueFull
from trunkline.queues import QueueConfig
from trunkline.testing import SimulatedDisk
from trunkline.testing.batches import unreadable_batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.queues.conftest import QueueBench

pytestmark = pytest.mark.trio

START_MS = 1_700_000_000_000


@pytest.fixture
async def broker(mock_clock: MockClock) -> AsyncIterator[Broker]:
    """Its wall clock goes with trio's, which stands still until a test lets it jump."""
    async with open_broker(now_ms=lambda: START_MS + round(mock_clock.current_time() * 1000)) as broker:
        yield broker


async def dead_letters(broker: Broker, topic: str, number: int) -> list[tuple[bytes | None, dict[str, str]]]:
    """Wait for so many: values, and headers without the common beginning."""
    while topic not in broker.topics:
        await trio.lowlevel.checkpoint()
    found = []
    async for record in broker.read(topic):
        headers = {name.removeprefix("trunkline.dead."): (value or b"").decode() for name, value in record.headers}
        found.append((record.value, headers))
        if len(found) == number:
            break
    return found


async def test_what_is_rejected_is_dead_lettered_with_its_story(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await broker.publish("jobs", b"a", key=b"k", headers=[("h", b"1"), ("trunkline.deliver-at", b"5")])
    taker = await bench.taker(queue).wait(1)
    assert taker.hold.reject([(0, 1)], "no good") == 1
    assert taker.settle(0) == 0
    ((value, headers),) = await dead_letters(broker, "jobs.dead", 1)
    assert value == b"a"
    assert headers.pop("time").startswith("17000000")
    assert headers == {
        "h": "1",
        "reason": "no good",
        "queue": "jobs",
        "topic": "jobs",
        "partition": "0",
        "offset": "0",
        "sequence": "0",
        "deliveries": "0",
    }
    await bench.rounds(broker)
    statistics = queue.statistics()
    assert (statistics.rejected, statistics.dead_lettered, statistics.leaving, statistics.unacked) == (1, 1, 0, 0)


async def test_without_a_dead_letter_topic_they_are_dropped(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(dead_letter_topic=""))
    await bench.publish(broker, "jobs", [b"a", b"b"])
    taker = await bench.taker(queue).wait(2)
    taker.hold.reject([(0, 2)])
    assert queue.statistics().dead_lettered == 2
    assert set(broker.topics) == {"jobs"}


async def test_a_record_that_was_delivered_too_often_is_dead_lettered(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(delivery_limit=2))
    await bench.publish(broker, "jobs", [b"a", b"b"])
    taker = await bench.taker(queue).wait(2)
    for times in (1, 2, 3):
        taker.hold.release([(0, 1)])
        await taker.wait(min(2 + times, 4))
    ((value, headers),) = await dead_letters(broker, "jobs.dead", 1)
    assert (value, headers["reason"], headers["deliveries"]) == (b"a", "delivery-limit", "2")
    assert taker.hold.unacked == 1


async def test_a_consumer_that_keeps_failing_does_not_escape_the_limit(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(delivery_limit=1))
    await bench.publish(broker, "jobs", [b"a"])
    for _ in range(2):
        taker = await bench.taker(queue).wait(1)
        taker.hold.close()
    assert (await dead_letters(broker, "jobs.dead", 1))[0][1]["reason"] == "delivery-limit"


async def test_records_expire_by_the_queue_s_time_or_their_own(
    broker: Broker, mock_clock: MockClock, bench: QueueBench
) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(ttl_ms=60_000))
    own = b"%d" % (START_MS + 10_000)
    await broker.publish("jobs", b"own", headers=[("trunkline.expires-at", own)])
    await broker.publish("jobs", b"queue")
    mock_clock.jump(11)
    assert [value for value, _ in await dead_letters(broker, "jobs.dead", 1)] == [b"own"]
    assert queue.state.ready == 1
    mock_clock.jump(50)
    dead = await dead_letters(broker, "jobs.dead", 2)
    assert [(value, headers["reason"]) for value, headers in dead] == [(b"own", "expired"), (b"queue", "expired")]
    await bench.rounds(broker)
    assert (queue.state.ready, queue.statistics().expired) == (0, 2)


async def test_delayed_records_come_when_they_are_due(broker: Broker, mock_clock: MockClock, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    taker = bench.taker(queue)
    await broker.publish("jobs", b"later", headers=[("trunkline.deliver-at", b"%d" % (START_MS + 30_000))])
    await broker.publish("jobs", b"now")
    await taker.wait(1)
    assert (taker.values, queue.state.delayed) == ([b"now"], 1)
    mock_clock.jump(29)
    await bench.rounds(broker)
    assert queue.state.delayed == 1
    mock_clock.jump(1)
    await taker.wait(2)
    assert taker.got[1] == (0, b"later", 0)
    taker.hold.release([(0, 1)], delay_s=5)
    await bench.rounds(broker)
    assert queue.state.delayed == 1
    mock_clock.jump(5)
    await taker.wait(3)


async def test_higher_priorities_come_first(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(max_priority=5))
    for value, priority in [(b"low", b"0"), (b"high", b"9"), (b"middle", b"3"), (b"none", b"x"), (b"top", b"5")]:
        await broker.publish("jobs", value, headers=[("trunkline.priority", priority)])
    assert (await bench.taker(queue).wait(5)).values == [b"high", b"top", b"middle", b"low", b"none"]


async def test_a_consumer_that_keeps_a_record_too_long_loses_it(
    broker: Broker, mock_clock: MockClock, bench: QueueBench
) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(lock_timeout_ms=10_000))
    await bench.publish(broker, "jobs", [b"a", b"b"])
    slow = await bench.taker(queue).wait(2)
    mock_clock.jump(5)
    await bench.rounds(broker)
    assert slow.hold.extend([(1, 2)], 20) == 1
    slow.hold.pause()
    mock_clock.jump(6)
    other = await bench.taker(queue).wait(1)
    assert other.got == [(0, b"a", 1)]
    assert (slow.settle(0), slow.settle(1), slow.hold.unacked) == (0, 1, 0)
    other.settle(0)


async def test_a_queue_that_is_too_long_drops_the_oldest(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(max_length=2))
    await bench.publish(broker, "jobs", [b"%d" % n for n in range(5)])
    assert queue.state.ready == 2
    dead = await dead_letters(broker, "jobs.dead", 3)
    assert [(value, headers["reason"]) for value, headers in dead] == [(b"%d" % n, "max-length") for n in range(3)]
    assert (await bench.taker(queue).wait(2)).values == [b"3", b"4"]


async def test_a_queue_that_is_too_large_drops_the_oldest(broker: Broker) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(max_length_bytes=1000, dead_letter_topic=""))
    for _ in range(10):
        await broker.publish("jobs", bytes(300))
    assert 300 < queue.state.live_bytes <= 1000


async def test_a_full_queue_refuses_what_is_published_for_it(broker: Broker, bench: QueueBench) -> None:
    config = bench.config("events", "a.#", max_length=2, overflow="reject")
    queue = await broker.queues.declare("jobs", config)
    await broker.create_topic("events")
    await broker.publish("events", b"1", key=b"a.x")
    await broker.publish("jobs", b"2")
    for refused in (broker.publish("events", b"3", key=b"a.y"), bench.publish(broker, "jobs", [b"3"])):
        with pytest.raises(QueueFull):
            await refused
    await broker.publish("events", b"for others", key=b"b")
    taker = await bench.taker(queue).wait(2)
    await broker.publish("events", b"3", key=b"a.y")
    assert (await taker.wait(3)).values == [b"1", b"2", b"3"]
    assert queue.statistics().refused_publishes == 2


async def test_a_queue_that_refuses_keeps_what_comes_back_when_it_is_full(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(max_length=2, overflow="reject"))
    await bench.publish(broker, "jobs", [b"1", b"2"])
    taker = await bench.taker(queue).wait(2)
    taker.hold.set_prefetch(2)
    await bench.publish(broker, "jobs", [b"3", b"4"])
    taker.hold.close()
    await bench.rounds(broker)
    assert (queue.statistics().ready, queue.statistics().dropped) == (4, 0)


async def test_what_expired_behind_a_head_that_was_dropped_goes_too(
    broker: Broker, bench: QueueBench, mock_clock: MockClock
) -> None:
    queue = await broker.queues.declare("jobs", QueueConfig(max_length=2, dead_letter_topic=""))
    await broker.publish("jobs", b"1")
    await broker.publish("jobs", b"2", headers=[("trunkline.expires-at", b"%d" % (START_MS + 1))])
    mock_clock.jump(1)
    assert queue.statistics().ready == 2  # it waits behind one that stays
    await bench.publish(broker, "jobs", [b"3"])
    await bench.rounds(broker)
    statistics = queue.statistics()
    assert (statistics.ready, statistics.dropped, statistics.expired) == (1, 1, 1)


async def test_what_is_on_its_way_counts_for_a_full_queue(broker: Broker, bench: QueueBench) -> None:
    await broker.queues.declare("jobs", QueueConfig(max_length=3, overflow="reject"))
    await broker.create_topic("jobs")
    partition = broker.partition("jobs", 0)
    for _ in range(3):
        partition.stage_record(0, None, b"x")
    with pytest.raises(QueueFull):
        partition.stage_record(0, None, b"x")
    await bench.rounds(broker)
    with pytest.raises(QueueFull):
        partition.stage_record(0, None, b"x")


async def test_dead_letters_are_written_once_there_is_room_again(
    mock_clock: MockClock, bench: QueueBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimulatedDisk(1)
    async with open_broker(tmp_path, disk=disk) as broker:
        queue = await broker.queues.declare("jobs")
        await broker.create_topic("jobs.dead")
        await bench.publish(broker, "jobs", [b"a"])
        taker = await bench.taker(queue).wait(1)
        disk.fail("append", errno.ENOSPC)  # the next is that of the dead letter
        taker.hold.reject([(0, 1)])
        while "cannot be written" not in caplog.text:
            await trio.lowlevel.checkpoint()
        assert queue.statistics().leaving == 1
        mock_clock.jump(1)
        assert (await dead_letters(broker, "jobs.dead", 1))[0][0] == b"a"
        await bench.rounds(broker)
        assert queue.statistics().leaving == 0


async def test_purging_finishes_with_what_nobody_holds(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    taker = await bench.taker(queue, prefetch=1).wait(1)
    assert await queue.purge() == 2
    assert taker.settle(0) == 1
    assert queue.statistics().size_bytes == 0


async def test_peeking_shows_records_and_changes_nothing(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    await bench.taker(queue, prefetch=1).wait(1)
    seen = await queue.peek(2)
    assert [(one.sequence, one.state, one.record.value) for one in seen] == [(0, "unacked", b"a"), (1, "ready", b"b")]
    assert [one.record.value for one in await queue.peek(5, after_sequence=1)] == [b"c"]
    assert queue.state.ready == 2


async def test_moving_copies_what_is_ready_to_another_topic(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a", b"b", b"c"])
    await bench.taker(queue, prefetch=1).wait(1)
    assert await queue.move("other", 1) == 1
    assert await queue.move("other") == 1
    assert [record.value async for record in broker.read("other", follow=False)] == [b"b", b"c"]
    assert (queue.state.ready, queue.statistics().leaving) == (0, 0)


async def test_what_cannot_be_read_is_not_moved_and_keeps_nothing_else(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs")
    await bench.publish(broker, "jobs", [b"a"])
    broker.partition("jobs", 0).stage_batch(unreadable_batch())
    await bench.publish(broker, "jobs", [b"b"])
    assert await queue.move("other") == 2
    assert [record.value async for record in broker.read("other", follow=False)] == [b"a", b"b"]
    assert (queue.state.ready, queue.statistics().leaving) == (1, 0)


async def test_a_reset_gives_everything_again_from_there_on(broker: Broker, bench: QueueBench) -> None:
    for n in range(6):
        await broker.publish("jobs", b"%d" % n, timestamp=1000 * n)
    queue = await broker.queues.declare("copy", bench.config("jobs"))
    await broker.publish("jobs", b"6", timestamp=6000)
    taker = await bench.taker(queue).wait(1)
    assert await queue.reset(4) == 1
    assert taker.settle(0) == 0
    assert (await taker.wait(4)).values == [b"6", b"4", b"5", b"6"]
    await queue.reset({"timestamp": 2500})
    assert (await taker.wait(8)).values[4:] == [b"3", b"4", b"5", b"6"]
    await queue.reset("latest")
    await broker.publish("jobs", b"7")
    assert (await taker.wait(9)).values[8:] == [b"7"]


async def test_records_that_are_removed_from_their_topic_are_counted(broker: Broker, bench: QueueBench) -> None:
    queue = await broker.queues.declare("jobs", bench.config("events"))
    for n in range(5):
        await broker.publish("events", b"%d" % n)
    held = await bench.taker(queue, prefetch=1).wait(1)
    await broker.delete_records("events", 0, 2)
    assert broker.partition("events", 0).removed_unread == {"queue:jobs": 2}
    assert (queue.state.ready, queue.statistics().gone) == (3, 1)
    held.hold.close()
    taker = await bench.taker(queue).wait(3)
    assert taker.values == [b"2", b"3", b"4"]
    assert queue.statistics().gone == 2, "it was given back, and found missing when it was to be given out"
    taker.hold.close()
    await broker.delete_topic("events")
    assert (queue.state.ready, queue.statistics().gone) == (0, 5)


async def test_what_compaction_takes_is_gone_too(broker: Broker, bench: QueueBench) -> None:
    settings = {"cleanup.policy": "compact", "segment.bytes": "1024", "min.cleanable.dirty.ratio": "0"}
    await broker.create_topic("events", settings=settings)
    queue = await broker.queues.declare("jobs", bench.config("events"))
    for n in range(30):
        await broker.publish("events", b"%d" % n + bytes(100), key=b"%d" % (n % 2))
    before = broker.partition("events", 0).statistics().size_bytes
    await broker.housekeeping.run_once()
    assert broker.partition("events", 0).statistics().size_bytes < before
    taker = bench.taker(queue)
    with trio.fail_after(30):
        while queue.statistics().ready or queue.statistics().unacked > len(taker.got):  # they are read in a thread
            await bench.rounds(broker)
    statistics = queue.statistics()
    assert statistics.gone > 10
    assert statistics.gone + len(taker.got) == 30
    assert [sequence for sequence, _, _ in taker.got][-2:] == [28, 29]
