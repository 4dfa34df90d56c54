"""Reading in process: where it begins, where it ends, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio

from trunkline.broker import Broker
from trunkline.errors import LogStopped, OffsetOutOfRange, UnknownPartition, UnknownTopic
from trunkline.records import ConsumerRecord
from trunkline.testing.scripted_store import ScriptedStore

pytestmark = pytest.mark.trio


async def read_all(broker: Broker, **options: object) -> list[tuple[int, int]]:
    """(partition, offset) of everything there is."""
    records = broker.read("orders", follow=False, **options)  # type: ignore[arg-type]  # each test gives what read takes
    return [(record.partition, record.offset) async for record in records]


async def fill(broker: Broker, partitions: int = 1, records: int = 5) -> None:
    await broker.create_topic("orders", partitions=partitions)
    for partition in range(partitions):
        for offset in range(records):
            await broker.publish("orders", b"", partition=partition, timestamp=1000 * offset)


@pytest.mark.parametrize(
    ("start", "offsets"),
    [
        ("earliest", [0, 1, 2, 3, 4]),
        ("latest", []),
        (0, [0, 1, 2, 3, 4]),
        (3, [3, 4]),
        (5, []),
        (datetime.fromtimestamp(2, UTC), [2, 3, 4]),
        (datetime.fromtimestamp(1.5, UTC), [2, 3, 4]),
        (datetime.fromtimestamp(99, UTC), []),
        ({0: 2}, [2, 3, 4]),
        ({1: 2}, [0, 1, 2, 3, 4]),
    ],
)
async def test_where_reading_starts(broker: Broker, start: object, offsets: list[int]) -> None:
    await fill(broker)
    assert [offset for _, offset in await read_all(broker, start=start)] == offsets


async def test_a_start_inside_a_batch_skips_what_is_before_it(broker: Broker) -> None:
    await broker.create_topic("orders")
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(broker.publish, "orders", b"")
    assert [offset for _, offset in await read_all(broker, start=7)] == [7, 8, 9]


@pytest.mark.parametrize("start", [-1, 6])
async def test_a_start_outside_the_log_is_an_error(broker: Broker, start: int) -> None:
    await fill(broker)
    with pytest.raises(OffsetOutOfRange, match="outside 0 to 5"):
        await read_all(broker, start=start)


async def test_unknown_places_are_named_at_once(broker: Broker) -> None:
    with pytest.raises(UnknownTopic):
        broker.read("payments")
    await fill(broker)
    with pytest.raises(UnknownPartition):
        broker.read("orders", partitions=[1])


async def test_without_follow_it_ends_at_the_end_as_it_was(broker: Broker) -> None:
    await fill(broker)
    seen = []
    async for record in broker.read("orders", follow=False):
        seen.append(record.offset)
        await broker.publish("orders", b"later")
    assert seen == [0, 1, 2, 3, 4]


async def test_each_partition_has_its_own_start_and_order(broker: Broker) -> None:
    await fill(broker, partitions=3)
    found = await read_all(broker, start={0: 4, 1: "latest", 2: 3})
    assert sorted(found) == [(0, 4), (2, 3), (2, 4)]
    assert await read_all(broker, partitions=[1]) == [(1, offset) for offset in range(5)]


async def test_a_busy_partition_does_not_starve_another(broker: Broker) -> None:
    topic = await broker.create_topic("orders", partitions=2)
    for _ in range(20):
        topic.partition(0).stage_record(1, None, bytes(60_000))
    await broker.publish("orders", b"the other one", partition=1)
    await topic.partition(0).wait_idle()
    found = await read_all(broker)
    assert found.index((1, 0)) < 20
    assert sorted(found) == [*((0, offset) for offset in range(20)), (1, 0)]


async def test_following_waits_for_what_comes(broker: Broker) -> None:
    await fill(broker, partitions=2, records=1)
    got: list[ConsumerRecord] = []

    async def follow() -> None:
        async for record in broker.read("orders", start="latest"):
            got.append(record)
            if len(got) == 3:
                return

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            for partition in (1, 0, 1):
                await broker.publish("orders", b"", partition=partition)
    assert sorted((record.partition, record.offset) for record in got) == [(0, 1), (1, 1), (1, 2)]


async def test_following_gives_what_was_committed_before_the_log_stopped_and_then_the_error(
    broker: Broker, store: ScriptedStore
) -> None:
    await fill(broker)
    store.fail_next("append", OSError(28, "No space left on device"))
    with pytest.raises(LogStopped):
        await broker.publish("orders", b"")
    assert len(await read_all(broker)) == 5


async def test_a_reader_that_waits_is_told_when_the_log_stops(broker: Broker, store: ScriptedStore) -> None:
    await fill(broker)
    told: list[str] = []

    async def follow() -> None:
        with pytest.raises(LogStopped):
            async for _ in broker.read("orders"):
                pass
        told.append("yes")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            store.fail_next("append", OSError(28, "No space left on device"))
            with pytest.raises(LogStopped):
                await broker.publish("orders", b"")
    assert told == ["yes"]


async def test_reads_that_must_wait_are_made_by_a_worker(broker: Broker, store: ScriptedStore) -> None:
    await fill(broker)
    store.reads_wait = True
    assert len(await read_all(broker)) == 5
    assert store.count("read") == 1


async def test_a_reader_that_is_left_early_leaves_nothing_behind(broker: Broker) -> None:
    await fill(broker)
    async for _ in broker.read("orders"):
        break
    assert broker.partition("orders", 0).statistics().listeners == 0
