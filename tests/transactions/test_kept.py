"""Compaction and retention of topics with transactions, on each store, and a start from what they left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from trunkline.broker import Broker, open_broker
from trunkline.log import TopicPartition
from trunkline.pending import WaitForAppends
from trunkline.records import encode, iter_headers
from trunkline.testing import SimulatedDisk
from trunkline.transactions.state import ProducerIdentity

pytestmark = pytest.mark.trio

PLACE = TopicPartition("t", 0)
SETTINGS = {
    "cleanup.policy": "compact",
    "segment.bytes": "2048",
    "min.cleanable.dirty.ratio": "0",
    "delete.retention.ms": "0",
}


class Writer:
    """Two transactional producers and one that is none; ``table`` is what is committed."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.table: dict[bytes, bytes] = {}
        self._producers: dict[str, ProducerIdentity] = {}
        self._sequences: dict[str, int] = {}

    async def transaction(self, name: str, rows: dict[bytes, bytes], *, is_commit: bool | None) -> None:
        """One with these rows; None: it stays open."""
        transactions = self.broker.transactions
        if name not in self._producers:
            self._producers[name] = await transactions.initialise(name, 60_000)
            self._sequences[name] = 0
        producer = self._producers[name]
        await transactions.add_partitions(name, producer, [PLACE])
        batch = encode(
            [(1, key, value, ()) for key, value in rows.items()],
            producer_id=producer.producer_id,
            producer_epoch=producer.epoch,
            base_sequence=self._sequences[name],
            is_transactional=True,
        )
        self._sequences[name] += len(rows)
        waiting = WaitForAppends()
        self.broker.partition(*PLACE).stage_batch(batch, waiting.one_more(), in_transaction=True)
        await waiting.wait()
        if is_commit is not None:
            await transactions.end(name, producer, is_commit=is_commit)
        if is_commit:
            self.table.update(rows)

    async def fill(self, random: Random, count: int) -> None:
        for number in range(count):
            value = b"%d" % number + bytes(100)
            rows = {b"k%d" % random.randrange(20): value for _ in range(2)}
            if random.random() < 0.3:
                key = random.choice(list(rows))
                await self.broker.publish("t", value, key=key)
                self.table[key] = value
            else:
                await self.transaction(random.choice("ab"), rows, is_commit=random.random() < 0.6)


async def table(broker: Broker) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value async for record in broker.read("t", follow=False)}


def aborted_rows(broker: Broker) -> int:
    """Batches of aborted transactions that still have records."""
    partition = broker.partition(*PLACE)
    found, offset, end = 0, partition.log_start_offset, partition.log.end_offset
    while offset < end:
        for _, header in iter_headers(partition.log.read(offset, 1 << 20, end)):
            found += header.record_count > 0 and partition.aborted.has(header)
            offset = header.next_offset
    return found


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_a_compacted_log_shows_what_was_committed_last(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("t", settings=SETTINGS)
        writer = Writer(broker)
        await writer.fill(Random(1), 80)
        partition = broker.partition(*PLACE)
        before = len(partition.aborted)
        assert aborted_rows(broker) > 5
        await writer.transaction("open", {b"k1": b"undecided"}, is_commit=None)
        held_at = partition.high_watermark
        await writer.fill(Random(2), 20)
        visible = await table(broker)
        for _ in range(3):
            await broker.housekeeping.run_once()
        assert await table(broker) == visible
        assert partition.cleaned_offset <= held_at
        assert len(partition.aborted) < before, "what is nowhere in the log any more is forgotten"
        producer = broker.transactions.describe("open").producer
        await broker.transactions.end("open", producer, is_commit=False)
        await partition.wait_past(partition.acknowledged_offset - 1)
        for _ in range(3):
            await broker.housekeeping.run_once()
        assert await table(broker) == writer.table
        end = partition.acknowledged_offset
    async with open_broker(tmp_path, store=store) as broker:
        assert broker.partition(*PLACE).high_watermark == end
        assert await table(broker) == writer.table
        await Writer(broker).fill(Random(3), 5)


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_retention_leaves_alone_what_is_not_decided(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("t", settings={"retention.bytes": "0", "segment.bytes": "2048"})
        partition = broker.partition(*PLACE)
        writer = Writer(broker)
        await writer.fill(Random(1), 30)
        await writer.transaction("open", {b"k1": b"undecided"}, is_commit=None)
        held_at = partition.high_watermark
        for _ in range(30):
            await broker.publish("t", bytes(200), key=b"behind")
        await broker.housekeeping.run_once()
        assert 0 < partition.log_start_offset <= held_at == partition.high_watermark
        producer = broker.transactions.describe("open").producer
        await broker.transactions.end("open", producer, is_commit=False)
        await partition.wait_past(partition.acknowledged_offset - 1)
        await broker.housekeeping.run_once()
        assert partition.log_start_offset > held_at
        assert await table(broker) in ({}, {b"behind": bytes(200)})
        assert len(partition.aborted) <= 1


async def test_transactions_are_found_in_a_compacted_log_after_a_loss_of_power(tmp_path: Path) -> None:
    disk = SimulatedDisk(1)
    with suppress(OSError):
        async with open_broker(tmp_path, store="segments", disk=disk) as broker:
            await broker.create_topic("t", settings=SETTINGS)
            writer = Writer(broker)
            await writer.fill(Random(1), 60)
            await broker.housekeeping.run_once()
            await writer.fill(Random(2), 20)
            await writer.transaction("open", {b"k1": b"undecided"}, is_commit=None)
            held_at = broker.partition(*PLACE).high_watermark
            disk.cut_power()
    disk.crash()
    async with open_broker(tmp_path, store="segments", disk=disk) as broker:
        assert broker.partition(*PLACE).high_watermark == held_at
        assert await table(broker) == writer.table
        assert await broker.transactions.abort("open")
        assert await table(broker) == writer.table
