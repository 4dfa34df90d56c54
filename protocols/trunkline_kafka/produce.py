"""Produce: batches into partitions, without looking at the records in them."""

from __future__ import annotations

from typing import Final

from trunkline.errors import CorruptBatch, InvalidBatch, TrunklineError, UnsupportedCompression
from trunkline.records import HEADER_BYTES, Compression
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange
from trunkline_kafka.fields import Buffer
from trunkline_kafka.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)

__all__ = ["produce"]

_ZSTD_FROM: Final = 7  # before this version a broker has to refuse zstd (KIP-110)
_ATTRIBUTES_AT: Final = 22  # the low byte


class _Producing:
    """A Produce request whose batches are on their way; the receiver of their appends."""

    __slots__ = ("_exchange", "_response", "_waiting")

    def __init__(self, exchange: Exchange, response: ProduceResponse) -> None:
        self._exchange = exchange
        self._response = response
        self._waiting = 1  # for the request to be staged as a whole

    def staged(self) -> None:
        """One more batch is staged."""
        self._waiting += 1

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        assert isinstance(token, PartitionProduceResponse)
        token.base_offset = offset
        self.done()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        assert isinstance(token, PartitionProduceResponse)
        _fail(token, error)
        self.done()

    def done(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._exchange.transport.is_closing:
            self._exchange.answer(self._response)


def produce(exchange: Exchange) -> object:
    """Stage everything in a request, and answer when all of it is committed or refused.

    With acks=0 there is no answer; an error ends the connection, which is how Kafka says it.
    """
    request: ProduceRequest = exchange.request
    response = ProduceResponse()
    producing = _Producing(exchange, response) if request.acks else None
    refusal = _refusal(request)
    for topic in request.topic_data:
        answers: list[PartitionProduceResponse] = []
        response.responses.append(TopicProduceResponse(topic.name, answers))
        for data in topic.partition_data:
            answer = PartitionProduceResponse(data.index)
            answers.append(answer)
            if refusal is not None:
                answer.error_code, answer.error_message = refusal
                answer.base_offset = -1
                continue
            try:
                _stage(exchange, topic.name, data, producing, answer)
            except TrunklineError as error:
                _fail(answer, error)
    if producing is not None:
        producing.done()
    elif any(answer.error_code for topic in response.responses for answer in topic.partition_responses):
        exchange.transport.close()
    return WAITS


def _refusal(request: ProduceRequest) -> tuple[ErrorCode, str] | None:
    """Why nothing of a request is taken."""
    if request.acks not in (-1, 0, 1):
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks must be -1, 0 or 1, not {request.acks}"
    if request.transactional_id is not None:
        return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactions are not offered yet"
    return None


def _stage(
    exchange: Exchange,
    topic: str,
    data: PartitionProduceData,
    producing: _Producing | None,
    answer: PartitionProduceResponse,
) -> None:
    broker = exchange.server.broker
    partition = broker.partition(topic, data.index)
    records = data.records
    if not records:
        raise InvalidBatch(f"{partition.name}: there is no batch")
    if exchange.version < _ZSTD_FROM:
        _check_compression(partition.name, records, exchange.version)
    partition.stage_batch(records, producing, answer)
    if producing is not None:
        producing.staged()
        answer.log_start_offset = partition.log_start_offset
        if partition.topic.settings.message_timestamp_type == "LogAppendTime":
            answer.log_append_time_ms = broker.now_ms()


def _check_compression(name: str, batch: Buffer, version: int) -> None:
    if len(batch) < HEADER_BYTES:
        raise CorruptBatch(f"{name}: a batch has at least {HEADER_BYTES} bytes, these are {len(batch)}")
    if batch[_ATTRIBUTES_AT] & 7 == Compression.ZSTD:
        raise UnsupportedCompression(f"{name}: zstd is taken in Produce {_ZSTD_FROM} and later, not in {version}")


def _fail(answer: PartitionProduceResponse, error: TrunklineError) -> None:
    answer.error_code = error_code(error)
    answer.error_message = str(error)
    answer.base_offset = -1
