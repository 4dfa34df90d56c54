"""Produce requests that wait until their transaction knows where they write (KIP-890, second protocol).

A client of that protocol does not say where it will write before it does (AddPartitionsToTxn): a batch adds its
partition to the transaction. What the coordinator keeps of that has to be durable before the batch is staged, as a
broker that starts again aborts whatever no transaction knows of. So the first request of a transaction that goes to a
partition waits for one flush, and those that come behind it on its connection wait too, or sequences were out of
order; then all are staged, and the next ones as they arrive.

What waits is a copy, counted among what the connection holds: with too much of it nothing more is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError
from trunkline.log import TopicPartition
from trunkline.records import read_header
from trunkline.transactions.state import ProducerIdentity
from trunkline_kafka.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

if TYPE_CHECKING:
    from trunkline_kafka.connection import KafkaConnection
    from trunkline_kafka.produce import Producing

__all__ = ["ADDS_PARTITIONS_FROM", "HeldProduce"]

ADDS_PARTITIONS_FROM: Final = 12
"""The version of Produce."""


class HeldProduce:
    """Of one connection."""

    __slots__ = ("_connection", "_waiting")

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._waiting: deque[tuple[Producing, ProduceRequest]] = deque()

    def stage(self, producing: Producing, request: ProduceRequest) -> None:
        """Stage it now, if nothing is in its way, or later."""
        if not self._waiting and not self._missing(request):
            producing.stage(request)
            return
        copy, producing.size_bytes = _copied(request)
        self._connection.hold(producing.size_bytes)
        self._waiting.append((producing, copy))
        if len(self._waiting) == 1:
            self._connection.server.broker.start_soon(self._stage_all)

    async def _stage_all(self) -> None:
        try:
            while self._waiting:
                producing, request = self._waiting[0]
                producing.refusals = await self._add(request)
                self._waiting.popleft()
                producing.stage(request)
                self._connection.let_go(producing.size_bytes)
        except Exception:
            self._connection.transport.close()  # a bug here: better no answer than none ever
            raise

    def _missing(self, request: ProduceRequest) -> dict[ProducerIdentity, list[TopicPartition]]:
        """Where these producers write, and their transaction does not know of."""
        transactions = self._connection.server.broker.transactions
        found: dict[ProducerIdentity, list[TopicPartition]] = {}
        assert request.transactional_id is not None
        for producer, place in self._written(request):
            try:
                transactions.check_append(request.transactional_id, producer, *place)
            except TrunklineError:
                found.setdefault(producer, []).append(place)
        return found

    def _written(self, request: ProduceRequest) -> Iterator[tuple[ProducerIdentity, TopicPartition]]:
        """What can be told of it; for the rest, staging finds the words."""
        broker = self._connection.server.broker
        for topic in request.topic_data:
            for data in topic.partition_data:
                try:
                    broker.partition(topic.name, data.index)
                    header = read_header(data.records or b"")
                except TrunklineError:
                    continue
                if header.is_transactional:
                    producer = ProducerIdentity(header.producer_id, header.producer_epoch)
                    yield producer, TopicPartition(topic.name, data.index)

    async def _add(self, request: ProduceRequest) -> dict[ProducerIdentity, TrunklineError]:
        """Add what is missing to the transaction; return who could not, and why."""
        refusals: dict[ProducerIdentity, TrunklineError] = {}
        assert request.transactional_id is not None
        for producer, places in self._missing(request).items():
            try:
                await self._connection.server.broker.transactions.add_partitions(
                    request.transactional_id, producer, places
                )
            except TrunklineError as error:
                refusals[producer] = error
        return refusals


def _copied(request: ProduceRequest) -> tuple[ProduceRequest, int]:
    """A copy that needs nothing of the frame it came in, and the bytes of its batches."""
    topics = [
        TopicProduceData(
            topic.name, [PartitionProduceData(data.index, bytes(data.records or b"")) for data in topic.partition_data]
        )
        for topic in request.topic_data
    ]
    size_bytes = sum(len(data.records or b"") for topic in topics for data in topic.partition_data)
    return ProduceRequest(request.transactional_id, request.acks, request.timeout_ms, topics), size_bytes
