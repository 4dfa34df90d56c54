"""Compaction as a broker does it: the newest of each key stays, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from crc32c import crc32c

from trunkline.broker import Broker, open_broker
from trunkline.errors import InvalidBatch
from trunkline.partition import Partition
from trunkline.records import encode

SETTINGS = {"cleanup.policy": "compact", "segment.bytes": "1024", "min.cleanable.dirty.ratio": "0"}
STORES = pytest.mark.parametrize("store", ["memory", "segments"])
pytestmark = pytest.mark.trio


async def table(broker: Broker) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value async for record in broker.read("t", follow=False)}


async def fill(broker: Broker, first: int, last: int) -> None:
    for number in range(first, last):
        await broker.publish("t", b"%d" % number * 20, key=b"k%d" % (number % 5))


@STORES
async def test_the_newest_record_of_each_key_stays_where_it_was(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("t", settings=SETTINGS)
        await fill(broker, 0, 100)
        before = await table(broker)
        await broker.housekeeping.run_once()
        kept = [record async for record in broker.read("t", follow=False)]
        assert len(kept) < 30
        assert {record.key: record.value for record in kept} == before
        assert all(record.value == b"%d" % record.offset * 20 for record in kept)
        assert broker.partition("t", 0).log_start_offset == 0
        published = await broker.publish("t", b"next", key=b"new")
        assert published.offset == 100


async def test_a_compacted_log_survives_a_restart_and_goes_on_from_where_it_was(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("t", settings=SETTINGS)
        await fill(broker, 0, 100)
        await broker.housekeeping.run_once()
        before = await table(broker)
        cleaned = broker.partition("t", 0).cleaned_offset
        assert cleaned > 80
    async with open_broker(tmp_path) as broker:
        assert broker.partition("t", 0).cleaned_offset == cleaned
        assert await table(broker) == before
        await fill(broker, 100, 200)
        await broker.housekeeping.run_once()
        assert len([record async for record in broker.read("t", follow=False)]) < 30


@STORES
async def test_a_tombstone_goes_after_its_time_and_the_key_with_it(tmp_path: Path, store: str) -> None:
    clock = [1_000_000_000]
    settings = {**SETTINGS, "delete.retention.ms": "60000"}
    async with open_broker(tmp_path, store=store, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("t", settings=settings)
        await broker.publish("t", b"value", key=b"gone")
        await broker.publish("t", None, key=b"gone")
        await fill(broker, 0, 50)
        await broker.housekeeping.run_once()
        assert (await table(broker))[b"gone"] is None, "a reader that began at 0 still learns of it"
        clock[0] += 60_001
        await fill(broker, 50, 100)
        await broker.housekeeping.run_once()
        assert b"gone" not in await table(broker)


@STORES
async def test_compact_and_delete_does_both(tmp_path: Path, store: str) -> None:
    clock = [1_000_000_000]
    settings = {**SETTINGS, "cleanup.policy": "compact,delete", "retention.ms": "60000"}
    async with open_broker(tmp_path, store=store, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("t", settings=settings)
        await fill(broker, 0, 50)
        clock[0] += 60_001
        await fill(broker, 50, 100)
        await broker.housekeeping.run_once()
        assert broker.partition("t", 0).log_start_offset >= 40
        assert set(await table(broker)) == {b"k%d" % number for number in range(5)}


@STORES
async def test_a_compacted_topic_is_not_subject_to_retention(tmp_path: Path, store: str) -> None:
    clock = [1_000_000_000]
    async with open_broker(tmp_path, store=store, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("t", settings={**SETTINGS, "retention.ms": "1"})
        await fill(broker, 0, 50)
        clock[0] += 60_000
        await broker.housekeeping.run_once()
        assert set(await table(broker)) == {b"k%d" % number for number in range(5)}


async def test_a_compacted_topic_refuses_records_without_a_key(tmp_path: Path) -> None:
    async with open_broker(tmp_path, store="memory") as broker:
        await broker.create_topic("t", settings={"cleanup.policy": "compact"})
        with pytest.raises(InvalidBatch, match="need a key"):
            await broker.publish("t", b"value")
        partition = broker.partition("t", 0)
        with pytest.raises(InvalidBatch, match="need a key"):
            partition.stage_batch(encode([(1, b"k", b"v", ()), (1, None, b"v", ())]))
        partition.stage_batch(encode([(1, b"k", b"v", ())]))
        assert await partition.wait_past(0)


async def test_an_idempotent_producer_is_known_after_compaction_and_a_restart(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("t", settings=SETTINGS)
        partition = broker.partition("t", 0)
        batch = encode([(1, b"k", b"mine", ())], producer_id=7, producer_epoch=0, base_sequence=0)
        partition.stage_batch(batch)
        await partition.wait_past(0)
        await broker.publish("t", b"newer", key=b"k")
        await fill(broker, 0, 50)
        await broker.housekeeping.run_once()
        assert (await table(broker))[b"k"] == b"newer"
    for snapshot in (tmp_path / "segments" / "t-0").glob("*.snapshot"):
        snapshot.unlink()
    async with open_broker(tmp_path) as broker:
        partition = broker.partition("t", 0)
        end = partition.next_offset
        partition.stage_batch(batch)
        assert partition.next_offset == end, "a repeat is not written again"


async def test_publishing_deleting_and_compacting_go_on_beside_each_other(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("t", settings=SETTINGS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, broker, 0, 400)
            for _ in range(6):
                await broker.housekeeping.run_once()
                high_watermark = broker.partition("t", 0).high_watermark
                await broker.delete_records("t", 0, high_watermark // 2)
        newest = {b"k%d" % (number % 5): b"%d" % number * 20 for number in range(395, 400)}
        assert await table(broker) == newest
        assert broker.partition("t", 0).high_watermark == 400


async def test_a_producer_cannot_set_the_mark_of_compaction(tmp_path: Path) -> None:
    batch = bytearray(encode([(1, b"k", None, ())]))
    batch[22] |= 0x40  # attributes, bit 6
    batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4)
    async with open_broker(tmp_path, store="memory") as broker:
        topic = await broker.create_topic("t")
        with pytest.raises(InvalidBatch, match="delete horizon"):
            topic.partition(0).stage_batch(bytes(batch))


async def test_housekeeping_reads_the_clock_itself_and_not_the_rounds_reading_of_it(tmp_path: Path) -> None:
    """It reads it in a worker, where the rounds' reading could be kept past the end of its round."""
    clock = [1_000_000_000]
    async with open_broker(tmp_path, store="memory", now_ms=lambda: clock[0]) as broker:
        assert broker.housekeeping._now_ms() == clock[0]
        assert broker.housekeeping._now_ms is not broker.now_ms


async def test_retention_asks_before_it_removes_and_takes_no_more_than_it_may(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    allowed = [5, 100]

    async def make_room(partition: Partition, offset: int) -> int:
        asked.append((partition.name, offset))
        return min(allowed.pop(0), offset)

    clock = [1_000_000_000]
    settings = {"retention.ms": "1000", "segment.bytes": "1024"}
    async with open_broker(tmp_path, store="memory", now_ms=lambda: clock[0]) as broker:
        broker.housekeeping.make_room = make_room
        await broker.create_topic("t", settings=settings)
        await fill(broker, 0, 20)
        clock[0] += 2000
        partition = broker.partition("t", 0)
        await broker.housekeeping.run_once()
        first = partition.log_start_offset
        await broker.housekeeping.run_once()
        assert (first, partition.log_start_offset) == (5, 20)
        assert asked == [("t/0", 20), ("t/0", 20)]
