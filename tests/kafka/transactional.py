"""A transactional producer that says exactly what the test says, and a reader that drops what was aborted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trunkline.records import Record, decode_all, encode, iter_headers
from trunkline.records.markers import is_commit_marker
from trunkline_kafka.messages import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    end_txn,
    fetch,
    init_producer_id,
    produce,
    txn_offset_commit,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import RawClient

COMMITTED: Final = 1
UNCOMMITTED: Final = 0


class Transactional:
    """A transactional producer over a raw client, one request at a time. Each answers its error code."""

    def __init__(self, client: RawClient, name: str = "mine", *, is_second: bool = False) -> None:
        """``is_second``: it speaks the second protocol (KIP-890)."""
        self.client = client
        self.name = name
        self.is_second = is_second
        self.producer_id = -1
        self.epoch = -1
        self.sequences: dict[int, int] = {}

    async def initialise(self, timeout_ms: int = 60_000, version: int = 4, *, is_known: bool = False) -> int:
        known = (self.producer_id, self.epoch) if is_known else (-1, -1)
        request = init_producer_id.InitProducerIdRequest(self.name, timeout_ms, *known)
        answer = await self.client.ask("InitProducerId", request, version)
        if not answer.error_code:
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
            self.sequences = {}
        return int(answer.error_code)

    async def add(self, *partitions: int, topic: str = "t", version: int = 3) -> list[int]:
        request = add_partitions_to_txn.AddPartitionsToTxnRequest(
            self.name,
            self.producer_id,
            self.epoch,
            [add_partitions_to_txn.AddPartitionsToTxnTopic(topic, list(partitions))],
        )
        answer = await self.client.ask("AddPartitionsToTxn", request, version)
        (found,) = answer.results_by_topic_v3_and_below
        return [each.partition_error_code for each in found.results_by_partition]

    def batch(self, *values: bytes, partition: int = 0) -> bytes:
        """The next one for this partition."""
        sequence = self.sequences.get(partition, 0)
        self.sequences[partition] = sequence + len(values)
        return encode(
            [(1000, None, value, ()) for value in values],
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=sequence,
            is_transactional=True,
        )

    def produce(self, batches: dict[int, bytes], name: str | None = "", acks: int = -1) -> produce.ProduceRequest:
        """A batch for each of these partitions of ``t``."""
        data = [produce.PartitionProduceData(partition, batch) for partition, batch in batches.items()]
        name = self.name if name == "" else name
        return produce.ProduceRequest(name, acks, 30_000, [produce.TopicProduceData("t", data)])

    async def write(self, *values: bytes, partition: int = 0, name: str | None = "", version: int | None = None) -> int:
        before = self.sequences.get(partition, 0)
        request = self.produce({partition: self.batch(*values, partition=partition)}, name)
        answer = await self.client.ask("Produce", request, version or (12 if self.is_second else 10))
        (found,) = answer.responses[0].partition_responses
        if found.error_code:
            self.sequences[partition] = before
        return int(found.error_code)

    async def add_group(self, group: str = "g", version: int = 3) -> int:
        request = add_offsets_to_txn.AddOffsetsToTxnRequest(self.name, self.producer_id, self.epoch, group)
        return int((await self.client.ask("AddOffsetsToTxn", request, version)).error_code)

    async def stage(self, offset: int, group: str = "g", version: int | None = None, **member: Any) -> int:
        partition = txn_offset_commit.TxnOffsetCommitRequestPartition(0, offset)
        request = txn_offset_commit.TxnOffsetCommitRequest(
            self.name,
            group,
            self.producer_id,
            self.epoch,
            topics=[txn_offset_commit.TxnOffsetCommitRequestTopic("t", [partition])],
            **member,
        )
        if version is None:
            version = 5 if self.is_second else 3
        answer = await self.client.ask("TxnOffsetCommit", request, version)
        return int(answer.topics[0].partitions[0].error_code)

    async def end(self, *, is_commit: bool, version: int | None = None) -> int:
        if version is None:
            version = 5 if self.is_second else 3
        request = end_txn.EndTxnRequest(self.name, self.producer_id, self.epoch, is_commit)
        answer = await self.client.ask("EndTxn", request, version)
        if not answer.error_code and version >= 5:
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
            self.sequences = {}
        return int(answer.error_code)

    async def do(self, *values: bytes, is_commit: bool) -> None:
        """A whole transaction."""
        if not self.is_second:
            assert await self.add(0) == [0]
        assert await self.write(*values) == 0
        assert await self.end(is_commit=is_commit) == 0


async def ask_fetch(client: RawClient, isolation: int, offset: int = 0, version: int = 12, **options: Any) -> Any:
    request = fetch.FetchRequest(
        max_wait_ms=options.pop("max_wait_ms", 0),
        min_bytes=1,
        max_bytes=2**20,
        isolation_level=isolation,
        topics=[
            fetch.FetchTopic(
                "t", partitions=[fetch.FetchPartition(0, fetch_offset=offset, partition_max_bytes=2**20, **options)]
            )
        ],
    )
    return (await client.ask("Fetch", request, version)).responses[0].partitions[0]


def as_a_client_reads(answer: Any, offset: int = 0) -> list[Record]:
    """What a Kafka consumer makes of a fetch for committed records: it drops what was aborted, by list and markers."""
    data = bytes(answer.records)
    aborted = sorted(answer.aborted_transactions or (), key=lambda one: one.first_offset)
    active: set[int] = set()
    records: list[Record] = []
    for at, header in iter_headers(data):
        batch = data[at : at + header.size_bytes]
        while aborted and aborted[0].first_offset <= header.last_offset:
            active.add(aborted.pop(0).producer_id)
        if header.is_control:
            if is_commit_marker(header, batch) is False:
                active.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in active):
            records += decode_all(batch, from_offset=offset)
    return records
