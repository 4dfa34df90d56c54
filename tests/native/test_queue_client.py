"""Consuming queues with the client, against a real broker over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from trunkline.errors import (
    ClientClosed,
    InvalidFilter,
    InvalidSetting,
    LocalProtocolError,
    QueueExists,
    QueueInUse,
    TrunklineError,
    UnknownQueue,
)
from trunkline.records import HEADER_BYTES, encode, read_header, with_records
from trunkline_native.client import Bus, QueueReader, QueueRecord, QueueSource, connect
from trunkline_native.codec import encode_head
from trunkline_native.frames import Ping, Produce

if TYPE_CHECKING:
    from tests.native.conftest import RestartableBroker

pytestmark = pytest.mark.anyio

WAIT_S = 30.0


async def fill(bus: Bus, topic: str, count: int) -> None:
    for number in range(count):
        await bus.send(topic, str(number), key=f"n.{number % 2}")
    await bus.flush()


async def take(reader: QueueReader, count: int) -> list[QueueRecord]:
    found: list[QueueRecord] = []
    with anyio.fail_after(WAIT_S):
        while len(found) < count:
            found.append(await anext(reader))
    return found


def numbers(records: list[QueueRecord]) -> list[int]:
    return [int(record.value or b"") for record in records]


async def wait_ready(bus: Bus, name: str, ready: int, unacked: int = 0) -> None:
    """Until the queue has so many; asked again and again, which only a failing test does more than a few times."""
    with anyio.fail_after(WAIT_S):
        while True:
            found = await bus.queue(name).describe()
            if (found.ready, found.unacked) == (ready, unacked):
                return


@pytest.fixture
async def other(broker: RestartableBroker) -> AsyncIterator[Bus]:
    """Another client of ``broker``."""
    async with connect(broker.url) as connected:
        yield connected


# -- taking ---------------------------------------------------------------------------------------


async def test_records_come_in_order_with_all_they_have(bus: Bus) -> None:
    await bus.queue("emails").publish("hello", key="mail.welcome", headers={"to": "you"}, timestamp=1234)
    await bus.queue("emails").publish(None)
    async with bus.queue("emails") as jobs:
        first, second = await take(jobs, 2)
    assert (first.topic, first.partition, first.offset, first.timestamp) == ("emails", 0, 0, 1234)
    assert (first.key, first.value, first.headers) == (b"mail.welcome", b"hello", (("to", b"you"),))
    assert (first.sequence, first.deliveries, second.sequence, second.value) == (0, 0, 1, None)


async def test_what_is_acknowledged_is_gone_and_the_rest_comes_again(bus: Bus) -> None:
    await fill(bus, "emails", 10)
    async with bus.queue("emails") as jobs:
        for job in await take(jobs, 10):
            if int(job.value or b"") % 3:
                job.ack()
                job.ack()  # no harm
        await jobs.flush()
    await wait_ready(bus, "emails", 4)
    async with bus.queue("emails") as jobs:
        again = await take(jobs, 4)
        assert numbers(again) == [0, 3, 6, 9]
        assert [job.deliveries for job in again] == [1, 1, 1, 1]


async def test_leaving_normally_makes_acknowledgements_durable_and_by_an_exception_releases_all_the_same(
    broker: RestartableBroker, bus: Bus
) -> None:
    await fill(bus, "emails", 4)
    async with connect(broker.url) as short, short.queue("emails") as jobs:
        (await anext(jobs)).ack()
    assert (await bus.queue("emails").describe()).statistics["acknowledged"] == 1
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with bus.queue("emails") as jobs:
            await take(jobs, 2)
            raise KeyError("mine")
    await wait_ready(bus, "emails", 3)


async def test_records_that_nobody_saw_do_not_count_as_delivered(bus: Bus) -> None:
    await fill(bus, "emails", 5)
    async with bus.queue("emails") as jobs:
        await anext(jobs)
    async with bus.queue("emails") as jobs:
        assert [job.deliveries for job in await take(jobs, 5)] == [1, 0, 0, 0, 0]


async def test_a_program_that_is_cancelled_still_says_what_it_is_done_with(broker: RestartableBroker, bus: Bus) -> None:
    await fill(bus, "emails", 5)

    async def work() -> None:
        async with connect(broker.url) as own, own.queue("emails") as jobs:
            first, _ = await take(jobs, 2)
            first.ack()
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
    await wait_ready(bus, "emails", 4)
    assert [entry.deliveries for entry in await bus.queue("emails").peek()] == [1, 0, 0, 0]


async def test_sources_filters_and_headers_choose_what_a_queue_takes(bus: Bus) -> None:
    for topic in ("jobs", "more"):
        await bus.create_topic(topic)
    source = QueueSource("more", "a/+", "mqtt", {"kind": "new"})
    async with (
        bus.queue("mail", sources=["jobs"], filter="mail.#") as mail,
        bus.queue("both", sources=["jobs", source]) as both,
    ):
        await bus.publish("jobs", "1", key="mail.welcome")
        await bus.publish("jobs", "2", key="sms.welcome")
        await bus.publish("more", "3", key="a/b", headers={"kind": "new"})
        await bus.publish("more", "4", key="a/b", headers={"kind": "old"})
        await bus.publish("more", "5", key="a/b/c", headers={"kind": "new"})
        await bus.queue("mail").publish("6", key="anything")
        assert numbers(await take(mail, 2)) == [1, 6]
        assert numbers(await take(both, 3)) == [1, 2, 3]
    described = (await bus.queue("both").describe()).sources[1]
    assert (described.topic, described.filter, described.syntax, described.headers) == (
        "more", "a/+", "mqtt", {"kind": "new"},
    )  # fmt: skip


async def test_a_queue_may_begin_with_what_is_there(bus: Bus) -> None:
    await fill(bus, "jobs", 3)
    async with bus.queue("all", sources="jobs", start="earliest") as jobs:
        assert numbers(await take(jobs, 3)) == [0, 1, 2]


async def test_next_chunk_and_ack_deal_with_many_at_once(bus: Bus) -> None:
    await fill(bus, "emails", 2500)
    seen: list[int] = []
    async with bus.queue("emails", prefetch=500) as jobs:
        with anyio.fail_after(WAIT_S):
            while len(seen) < 2500:
                chunk = await jobs.next_chunk()
                assert 0 < len(chunk) <= 500
                seen += numbers(chunk)
                jobs.ack(chunk)
        await jobs.flush()
    assert seen == list(range(2500))
    assert (await bus.queue("emails").describe()).ready == 0


async def test_prefetch_bounds_what_is_held_and_may_change(bus: Bus) -> None:
    await fill(bus, "emails", 20)
    async with bus.queue("emails", prefetch=2) as jobs:
        first = await take(jobs, 2)
        await wait_ready(bus, "emails", 18, 2)
        jobs.set_prefetch(5)
        await take(jobs, 3)
        await wait_ready(bus, "emails", 15, 5)
        jobs.set_prefetch(1)
        first[0].ack()
        await wait_ready(bus, "emails", 15, 4)
        jobs.set_prefetch(0)
        await take(jobs, 15)


async def test_large_records_are_bounded_by_their_bytes(bus: Bus) -> None:
    with pytest.raises(ValueError, match="prefetch_bytes=-1 is not allowed"):
        await bus.queue("emails", prefetch_bytes=-1).__aenter__()
    for _ in range(5):
        await bus.publish("emails", bytes(500_000))
    async with bus.queue("emails", prefetch_bytes=1_200_000) as jobs:
        first = await take(jobs, 3)
        await wait_ready(bus, "emails", 2, 3)
        first[0].ack()
        await take(jobs, 1)
        await wait_ready(bus, "emails", 1, 3)


async def test_with_auto_ack_a_record_is_acknowledged_when_the_next_is_asked_for(bus: Bus) -> None:
    await fill(bus, "emails", 3)
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with bus.queue("emails", auto_ack=True) as jobs:
            await take(jobs, 2)
            raise KeyError("mine")
    await wait_ready(bus, "emails", 2)
    async with bus.queue("emails", auto_ack=True) as jobs:
        chunk = await jobs.next_chunk()
        assert numbers(chunk) == [1, 2]
        with anyio.move_on_after(0):
            await jobs.next_chunk()
        await jobs.flush()
    assert (await bus.queue("emails").describe()).ready == 0


async def test_waiting_for_a_record_may_be_cancelled_and_goes_on(bus: Bus) -> None:
    async with bus.queue("emails") as jobs:
        with anyio.move_on_after(0.01):
            await anext(jobs)
        await bus.queue("emails").publish("1")
        assert numbers(await take(jobs, 1)) == [1]


# -- what is said ---------------------------------------------------------------------------------


async def test_what_is_released_comes_again_first_and_counted(bus: Bus) -> None:
    await fill(bus, "emails", 4)
    async with bus.queue("emails", prefetch=2) as jobs:
        first, second = await take(jobs, 2)
        first.release()
        first.ack()  # too late
        (again,) = await take(jobs, 1)
        assert (again.value, again.deliveries, again.sequence) == (first.value, 1, first.sequence)
        second.release(count=False)
        (again,) = await take(jobs, 1)
        assert (again.value, again.deliveries) == (second.value, 0)


async def test_what_is_released_with_a_delay_comes_later(bus: Bus) -> None:
    await fill(bus, "emails", 3)
    async with bus.queue("emails", prefetch=1) as jobs:
        (first,) = await take(jobs, 1)
        with pytest.raises(ValueError, match="delay=-1"):
            first.release(delay=-1)
        first.release(delay=0.05)
        seen = []
        for _ in range(3):
            (job,) = await take(jobs, 1)
            job.ack()
            seen.append((int(job.value or b""), job.deliveries))
    assert seen[0] == (1, 0)
    assert sorted(seen) == [(0, 1), (1, 0), (2, 0)]


async def test_what_is_rejected_goes_to_the_dead_letters_and_may_be_replayed(bus: Bus) -> None:
    await bus.create_topic("jobs")
    queue = bus.queue("emails", sources=["jobs"])
    async with queue as jobs, bus.tail("emails.dead", start="earliest") as dead:
        assert [letter async for letter in queue.dead_letters()] == []
        await bus.publish("jobs", "good")
        await bus.publish("jobs", "bad", key="k", headers={"a": "b"})
        _, bad = await take(jobs, 2)
        jobs.reject(bad, "much too bad")
        with anyio.fail_after(WAIT_S):
            assert (await anext(dead)).value == b"bad"
        (letter,) = [letter async for letter in queue.dead_letters()]
        assert (letter.reason, letter.queue, letter.topic, letter.offset) == ("much too bad", "emails", "jobs", 1)
        assert (letter.record.key, letter.sequence, letter.deliveries, letter.replayed) == (b"k", 1, 0, 0)
        assert await queue.replay_dead_letters() == 1
        (again,) = await take(jobs, 1)
        assert (again.topic, again.key, again.value) == ("emails", b"k", b"bad")
        assert again.headers == (("a", b"b"), ("trunkline.replayed", b"1"))
        again.reject()
        with anyio.fail_after(WAIT_S):
            await anext(dead)
        (letter,) = [letter async for letter in queue.dead_letters(limit=1)]
        assert (letter.reason, letter.replayed) == ("rejected", 1)
        assert letter.explain() == (
            "emails.dead/0@1 was emails/0@0: queue emails gave it up because its consumer rejected it. "
            "It had been given back from the dead letters once."
        )
        assert await queue.drop_dead_letters(limit=5) == 1
        assert [letter async for letter in queue.dead_letters()] == []


@pytest.mark.parametrize(("setting", "value"), [("ttl.ms", 0), ("delivery.limit", 0), ("max.length", 1)])
async def test_a_dead_letter_says_which_setting_made_it_one(bus: Bus, setting: str, value: int) -> None:
    await bus.create_queue("emails", settings={setting: value})
    queue = bus.queue("emails")
    async with bus.tail("emails.dead", start="earliest") as dead:
        await queue.publish("x")
        if setting == "delivery.limit":
            async with queue as jobs:
                (await take(jobs, 1))[0].release()
        elif setting == "max.length":
            await queue.publish("y")
        with anyio.fail_after(WAIT_S):
            await anext(dead)
    (letter,) = [letter async for letter in queue.dead_letters()]
    assert f"({setting}" in letter.explain()


async def test_dead_letters_of_queues_that_share_a_topic_are_told_apart(bus: Bus) -> None:
    settings = {"dead.letter.topic": "dead"}
    async with bus.tail("dead", start="earliest") as dead:
        for name in ("one", "two"):
            await bus.queue(name).publish("x")
            async with bus.queue(name, settings=settings) as jobs:
                (await take(jobs, 1))[0].reject()
                with anyio.fail_after(WAIT_S):
                    await anext(dead)
    assert [letter.queue async for letter in bus.queue("two").dead_letters()] == ["two"]
    with pytest.raises(InvalidSetting, match=r"offset 0 is a dead letter of queue one.*0 before it are done"):
        await bus.queue("two").drop_dead_letters()
    assert await bus.queue("one").drop_dead_letters(limit=1) == 1
    assert await bus.queue("two").drop_dead_letters() == 1
    await bus.create_queue("none", settings={"dead.letter.topic": ""})
    with pytest.raises(InvalidSetting, match="keeps no dead letters"):
        await bus.queue("none").drop_dead_letters()


async def test_priorities_delays_and_expiry_are_obeyed(bus: Bus) -> None:
    queue = bus.queue("emails")
    await bus.create_queue("emails", settings={"max.priority": 10})
    await queue.publish("1", priority=1)
    await queue.publish("2", delay=3600)
    await queue.publish("3", expires=-1)
    await queue.publish("4", priority=9)
    async with queue as jobs:
        assert numbers(await take(jobs, 2)) == [4, 1]
    assert (await queue.describe()).delayed == 1


async def test_what_cannot_be_read_is_rejected_and_the_rest_goes_on(bus: Bus) -> None:
    await bus.queue("emails").publish("0")
    whole = encode([(0, None, b"nonsense", ())] * 3)
    header = read_header(whole)
    nonsense = with_records(header, b"\xff" * (len(whole) - HEADER_BYTES))  # its checksum is right
    session = bus._link.session
    assert session is not None
    answers: list[object] = []
    session.write(encode_head(Produce(10**6, "emails", 0), len(nonsense)) + nonsense)
    session.call(Ping, lambda answer, body: answers.append(answer))
    async with bus.queue("emails") as jobs:
        await bus.queue("emails").publish("4")
        assert numbers(await take(jobs, 2)) == [0, 4]
    await wait_ready(bus, "emails", 2)
    assert answers


# -- several --------------------------------------------------------------------------------------


async def test_consumers_compete_and_each_record_goes_to_one(broker: RestartableBroker, bus: Bus, other: Bus) -> None:
    seen: list[list[int]] = [[], []]
    await bus.create_queue("emails")

    async def consume(client: Bus, own: list[int]) -> None:
        async with client.queue("emails", prefetch=10) as jobs:
            async for job in jobs:
                own.append(int(job.value or b""))
                job.ack()
                if len(seen[0]) + len(seen[1]) == 1000:
                    tasks.cancel_scope.cancel()

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, bus, seen[0])
            tasks.start_soon(consume, other, seen[1])
            async with connect(broker.url) as publisher:
                await fill(publisher, "emails", 1000)
    assert sorted(seen[0] + seen[1]) == list(range(1000))
    assert seen[0]
    assert seen[1]


async def test_consumers_with_a_higher_priority_come_first(bus: Bus, other: Bus) -> None:
    async with bus.queue("emails", prefetch=2) as low, other.queue("emails", prefetch=2, priority=5) as high:
        await fill(bus, "emails", 4)
        assert numbers(await take(high, 2)) == [0, 1]
        assert numbers(await take(low, 2)) == [2, 3]


async def test_an_exclusive_consumer_is_alone(bus: Bus, other: Bus) -> None:
    async with bus.queue("emails", exclusive=True):
        with pytest.raises(QueueInUse):
            async with other.queue("emails"):
                pass
    async with other.queue("emails"):
        pass


# -- the queue itself -----------------------------------------------------------------------------


async def test_opening_a_queue_compares_what_is_said_with_what_is_there(bus: Bus) -> None:
    await bus.create_topic("jobs")
    made = await bus.create_queue("emails", sources=["jobs"], filter="mail.#", settings={"max.length": 5})
    assert (made.sources[0].topic, made.sources[0].filter, made.settings["max.length"]) == ("jobs", "mail.#", "5")
    with pytest.raises(QueueExists):
        await bus.create_queue("emails")
    async with bus.queue("emails"), bus.queue("emails", sources=["jobs"], filter="mail.#"):
        pass
    async with bus.queue("emails", settings={"max.length": 5}):
        pass
    with pytest.raises(QueueExists, match="other sources"):
        async with bus.queue("emails", sources=["jobs"]):
            pass
    with pytest.raises(QueueExists, match=r"max.length=5") as raised:
        async with bus.queue("emails", settings={"max.length": 6}):
            pass
    assert raised.value.setting == "max.length"


async def test_a_queue_is_opened_once_at_a_time(bus: Bus) -> None:
    queue = bus.queue("emails")
    async with queue, bus.queue("emails"):
        with pytest.raises(LocalProtocolError, match="open another one"):
            async with queue:
                pass
    async with queue:
        pass


async def test_opening_may_be_cancelled_and_leaves_nothing_behind(bus: Bus) -> None:
    await fill(bus, "emails", 3)
    await bus.create_queue("emails")

    async def visit() -> None:
        async with bus.queue("emails"):
            await anyio.sleep_forever()

    for turns in range(0, 60, 3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    await wait_ready(bus, "emails", 3)
    assert (await bus.queue("emails").describe()).consumers == 0


async def test_what_makes_no_sense_is_refused(bus: Bus) -> None:
    with pytest.raises(ValueError, match="about sources"):
        bus.queue("emails", filter="mail.#")
    with pytest.raises(InvalidFilter):
        await bus.create_queue("emails", sources=[QueueSource("jobs", "a/#/b", "mqtt")])
    with pytest.raises(InvalidSetting, match=r"no setting 'max.len'.*max.length"):
        await bus.create_queue("emails", settings={"max.len": 1})
    assert (await bus.create_queue("other", settings={"max_length": 1})).settings["max.length"] == "1"
    with pytest.raises(InvalidSetting, match=r"max.length='many'"):
        await bus.create_queue("emails", settings={"max.length": "many"})
    with pytest.raises(InvalidSetting, match="no position"):
        await bus.queue("other").reset("tomorrow")
    await bus.queue("other").delete()
    with pytest.raises(InvalidSetting, match="max_priority"):
        await bus.create_queue("emails", settings={"max.priority": 256})
    for call in (bus.queue("none").describe, bus.queue("none").purge, bus.queue("none").peek):
        with pytest.raises(UnknownQueue):
            await call()
    assert await bus.list_queues() == []


async def test_a_queue_is_described_changed_purged_moved_and_deleted(bus: Bus) -> None:
    await fill(bus, "emails", 10)
    await bus.create_queue("emails")
    await bus.create_queue("later")
    queue = bus.queue("emails")
    assert [found.name for found in await bus.list_queues()] == ["emails", "later"]
    changed = await queue.alter({"delivery.limit": 3, "single.active": True})
    assert (changed.settings["delivery.limit"], changed.settings["single.active"]) == ("3", "true")
    assert (await queue.alter({"delivery.limit": None})).settings["delivery.limit"] == "-1"
    assert await queue.move("later", limit=4) == 4
    await wait_ready(bus, "later", 4)
    assert await queue.purge() == 6
    assert await bus.queue("later").delete() == 4
    with pytest.raises(TrunklineError):
        async with queue:
            await queue.delete(if_unused=True)
    assert await queue.delete(if_empty=True) == 0
    assert await bus.list_queues() == []


async def test_peek_takes_nothing(bus: Bus) -> None:
    await fill(bus, "emails", 30)
    async with bus.queue("emails", prefetch=2) as jobs:
        await take(jobs, 2)
        found = await bus.queue("emails").peek(5)
        assert [entry.state for entry in found] == ["unacked"] * 2 + ["ready"] * 3
        assert [(entry.sequence, entry.record.value) for entry in found[:2]] == [(0, b"0"), (1, b"1")]
        rest = await bus.queue("emails").peek(2000, after=found[-1].sequence)
        assert [entry.sequence for entry in rest] == list(range(5, 30))


async def test_a_reset_queue_begins_anew(bus: Bus) -> None:
    await fill(bus, "emails", 5)
    await bus.create_queue("emails")
    queue = bus.queue("emails")
    await queue.purge()
    await queue.reset("earliest")
    await wait_ready(bus, "emails", 5)
    await queue.reset(datetime.now(UTC))
    await wait_ready(bus, "emails", 0)


async def test_numbers_that_cannot_be_sent_break_nothing(bus: Bus) -> None:
    await fill(bus, "emails", 2)
    async with bus.queue("emails") as jobs:
        (record,) = await take(jobs, 1)
        for prefetch in (-1, 2**31):
            with pytest.raises(ValueError, match="prefetch"):
                jobs.set_prefetch(prefetch)
            with pytest.raises(ValueError, match="prefetch"):
                await bus.queue("emails", prefetch=prefetch).__aenter__()
        with pytest.raises(LocalProtocolError):
            await bus.queue("emails").reset(-1)
        with pytest.raises(LocalProtocolError):
            await bus.queue("emails").move("others", limit=-1)
        for seconds in (-1, float("nan")):
            with pytest.raises(ValueError, match="delay"):
                record.release(delay=seconds)
            with pytest.raises(ValueError, match="lock_timeout"):
                record.extend(seconds)
        record.extend(float("inf"))
        record.release(delay=float("inf"))
        with anyio.fail_after(WAIT_S):
            await jobs.flush()  # on the connection that there was: nothing was lost
        await wait_ready(bus, "emails", 0, 1)


async def test_what_the_broker_notes_on_a_copy_is_not_passed_on(bus: Bus) -> None:
    await bus.send("jobs", "a", headers={"trunkline.spilled": "1:0:emails", "to": "you"})
    async with bus.queue("emails", sources=["jobs"], start="earliest") as jobs:
        (record,) = await take(jobs, 1)
        assert record.headers == (("to", b"you"),)
        await bus.queue("emails").send(record.value or b"", headers=record.headers)
        assert [job.value for job in await take(jobs, 1)] == [b"a"]


async def test_it_says_in_sentences_how_it_is(bus: Bus) -> None:
    await fill(bus, "emails", 1)
    await bus.create_queue("emails")
    assert (await bus.queue("emails").describe()).explanation == ()
    assert any("consume" in sentence for sentence in (await bus.queue("emails").describe(explain=True)).explanation)


# -- breaks ---------------------------------------------------------------------------------------


async def test_a_deleted_queue_ends_its_consumers(bus: Bus, other: Bus) -> None:
    async with bus.queue("emails") as jobs:
        await other.queue("emails").delete()
        with pytest.raises(UnknownQueue), anyio.fail_after(WAIT_S):
            await anext(jobs)


async def test_a_closed_client_ends_the_wait(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus:
        reader = await bus.queue("emails").__aenter__()
    with pytest.raises(ClientClosed):
        await anext(reader)
    with pytest.raises(ClientClosed):
        async with bus.queue("emails"):
            pass
