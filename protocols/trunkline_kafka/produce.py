"""Produce: batches into partitions, without looking at the records in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from trunkline.errors import CorruptBatch, InvalidBatch, InvalidTransactionState, TrunklineError, UnsupportedCompression
from trunkline.partial import may_stay
from trunkline.records import HEADER_BYTES, Compression, read_header
from trunkline.transactions.state import ProducerIdentity
from trunkline_kafka.bridge import error_code
from trunkline_kafka.codec import RequestHeader
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.fields import Buffer
from trunkline_kafka.held_produce import ADDS_PARTITIONS_FROM, HeldProduce
from trunkline_kafka.messages.produce import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)

if TYPE_CHECKING:
    from trunkline_kafka.connection import KafkaConnection

__all__ = ["Producing", "fail", "produce"]

_ZSTD_FROM: Final = 7  # before this version a broker has to refuse zstd (KIP-110)
_ABORTABLE_FROM: Final = 11  # the version that knows TRANSACTION_ABORTABLE (KIP-890)
_ATTRIBUTES_AT: Final = 22  # the low byte
_TRANSACTIONAL: Final = 0x10


class Producing(Exchange):
    """A Produce request whose batches are on their way; the receiver of their appends.

    While it waits it holds nothing of the request, whose batches have been copied.

    Attributes:
      refusals: producers that could not add a partition to their transaction.
    """

    __slots__ = ("_answers", "_transactional_id", "_waiting", "refusals")

    def __init__(self, connection: KafkaConnection, header: RequestHeader) -> None:
        super().__init__(connection, header, None, 0)
        self._answers: list[TopicProduceResponse] = []
        self._transactional_id: str | None = None
        self.refusals: Mapping[ProducerIdentity, TrunklineError] = {}
        self._waiting = 1  # batches that are not committed yet, and one more until all are staged
        self.is_begun = True

    def stage(self, request: ProduceRequest) -> None:
        """Stage what can be; what cannot has its answer already."""
        refusal = _refusal(request)
        self._transactional_id = request.transactional_id
        receiver = self if request.acks else None
        for topic in request.topic_data:
            answers = []
            for data in topic.partition_data:
                answer = PartitionProduceResponse(data.index)
                answers.append(answer)
                try:
                    if refusal is not None:
                        raise refusal
                    self._stage(topic.name, data, answer, receiver)
                except TrunklineError as error:
                    fail(answer, error, self.version)
            self._answers.append(TopicProduceResponse(topic.name, tuple(answers)))
        if receiver is not None:
            self._one_done()
        elif any(answer.error_code for topic in self._answers for answer in topic.partition_responses):
            self.connection.transport.close()

    def _stage(
        self, topic: str, data: PartitionProduceData, answer: PartitionProduceResponse, receiver: Producing | None
    ) -> None:
        broker = self.connection.server.broker
        partition = broker.partition(topic, data.index)
        records = data.records
        if not records:
            raise InvalidBatch(f"{partition.name}: there is no batch")
        version = self.header.api_version
        if version < _ZSTD_FROM:
            _check_compression(partition.name, records, version)
        transactional_id = self._transactional_id
        in_transaction = transactional_id is not None and _is_transactional(records)
        if transactional_id is not None and in_transaction:
            header = read_header(records)
            producer = ProducerIdentity(header.producer_id, header.producer_epoch)
            if producer in self.refusals:
                raise self.refusals[producer]
            broker.transactions.check_append(transactional_id, producer, topic, data.index)
        partition.stage_batch(records, receiver, answer, in_transaction=in_transaction, in_place=may_stay(records))
        self._waiting += 1
        answer.log_start_offset = partition.log.start_offset
        if partition.topic.settings.message_timestamp_type == "LogAppendTime":
            answer.log_append_time_ms = broker.now_ms()

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        assert type(token) is PartitionProduceResponse
        token.base_offset = offset
        self._one_done()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        assert type(token) is PartitionProduceResponse
        fail(token, error, self.version)
        self._one_done()

    def _one_done(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self.answer(ProduceResponse(self._answers))


def produce(connection: KafkaConnection, header: RequestHeader, request: ProduceRequest) -> None:
    """Stage everything in a request, and answer when all of it is committed or refused.

    With acks=0 there is no answer; an error ends the connection, which is how Kafka says it.
    """
    producing = Producing(connection, header)
    if request.acks:
        connection.promise(producing)
    if request.transactional_id is None or header.api_version < ADDS_PARTITIONS_FROM:
        producing.stage(request)
        return
    if connection.held is None:
        connection.held = HeldProduce(connection)
    connection.held.stage(producing, request)


def fail(answer: PartitionProduceResponse, error: TrunklineError, version: int) -> None:
    """Make this the answer for a batch that was refused."""
    answer.error_code = error.error_code if isinstance(error, _Refused) else error_code(error)
    if isinstance(error, InvalidTransactionState) and version >= _ABORTABLE_FROM:
        answer.error_code = ErrorCode.TRANSACTION_ABORTABLE
    elif isinstance(error, InvalidBatch):
        answer.record_errors = [
            BatchIndexAndErrorMessage(index, str(error)) for index in error.details.get("records", ())
        ]
    answer.error_message = str(error)
    answer.base_offset = -1


class _Refused(TrunklineError):
    """Nothing of a request is taken. ``error_code``."""


def _refusal(request: ProduceRequest) -> _Refused | None:
    if -1 <= request.acks <= 1:
        return None
    return _Refused(f"acks must be -1, 0 or 1, not {request.acks}", error_code=ErrorCode.INVALID_REQUIRED_ACKS)


def _is_transactional(batch: Buffer) -> bool:
    return len(batch) >= HEADER_BYTES and batch[_ATTRIBUTES_AT] & _TRANSACTIONAL != 0


def _check_compression(name: str, batch: Buffer, version: int) -> None:
    if len(batch) < HEADER_BYTES:
        raise CorruptBatch(f"{name}: a batch has at least {HEADER_BYTES} bytes, these are {len(batch)}")
    if batch[_ATTRIBUTES_AT] & 7 == Compression.ZSTD:
        raise UnsupportedCompression(f"{name}: zstd is taken in Produce {_ZSTD_FROM} and later, not in {version}")
