"""What a producer sends again and again: Produce requests that differ in their batch, and otherwise in numbers only.

A producer that writes to one partition at a time repeats client id, acks, timeout, topic and partition in every
request, byte for byte. So a connection remembers those bytes of its last such request, and what they mean. A request
that has them too is not read field by field, and its answer is the last one with other numbers in it: half of what a
small request costs.

Remembered are requests with one batch that want an answer and belong to no transaction, in a flexible version, with no
tagged fields behind the batch::

    i16 api key, i16 version      remembered
    i32 correlation id
    client id ... partition       remembered
    uvarint length                of the batch, and one
            batch
    u8[3]   0, 0, 0               no tagged fields: of the partition, the topic, the request
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from trunkline.errors import TrunklineError
from trunkline.partial import may_stay
from trunkline_kafka.apis import APIS, PRODUCE
from trunkline_kafka.codec import RequestHeader, encode_response
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.fields import uvarint
from trunkline_kafka.messages.produce import (
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from trunkline_kafka.produce import fail

if TYPE_CHECKING:
    from trunkline_kafka.connection import KafkaConnection

__all__ = ["LastProduce", "ProduceAnswer", "remember"]

_CORRELATION_AT: Final = 4
_REST_AT: Final = 8
_CORRELATION: Final = Struct(">i")
_OFFSET: Final = Struct(">q")
_NO_TAGS: Final = b"\0\0\0"
_MOST_SHIFTED: Final = 28  # a uvarint has five bytes at most
_MARKS: Final = (-0x0F0E0D0C0B0A0908, -0x1F1E1D1C1B1A1918)  # nothing else in an answer has such bytes


class ProduceAnswer:
    """The answer to a request whose one batch was written, but for its numbers."""

    __slots__ = ("_behind", "_between", "_head", "_length")

    def __init__(self, version: int, topic: str, index: int) -> None:
        answer = PartitionProduceResponse(index, base_offset=_MARKS[0], log_start_offset=_MARKS[1])
        message = ProduceResponse([TopicProduceResponse(topic, (answer,))])
        encoded = b"".join(encode_response(RequestHeader(PRODUCE, version, 0), message))
        self._length = encoded[:_CORRELATION_AT]
        self._head, _, rest = encoded[_REST_AT:].partition(_OFFSET.pack(_MARKS[0]))
        self._between, _, self._behind = rest.partition(_OFFSET.pack(_MARKS[1]))

    def encode(self, correlation_id: bytes, base_offset: int, log_start_offset: int) -> bytes:
        """The frame."""
        offset, start = _OFFSET.pack(base_offset), _OFFSET.pack(log_start_offset)
        return b"".join((self._length, correlation_id, self._head, offset, self._between, start, self._behind))


class _Repeated(Exchange):
    """A request that was taken without being read; the receiver of its batch."""

    __slots__ = ("_correlation_id", "_known")

    def __init__(self, connection: KafkaConnection, known: LastProduce, correlation_id: bytes) -> None:
        self.connection = connection
        self.parts = None
        self.is_begun = True
        self.cancel = None
        self._known = known
        self._correlation_id = correlation_id

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.pending.AppendReceiver`; ``token`` is the offset that the log starts with."""
        assert type(token) is int
        self.parts = [self._known.answer.encode(self._correlation_id, offset, token)]
        self.connection.answered(self)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.pending.AppendReceiver`."""
        known = self._known
        self.header = RequestHeader(PRODUCE, known.version, _CORRELATION.unpack(self._correlation_id)[0])
        answer = PartitionProduceResponse(known.index)
        fail(answer, error, known.version)
        self.answer(ProduceResponse([TopicProduceResponse(known.topic, (answer,))]))


class LastProduce:
    """The last request of a connection that may be repeated: that in ``data[at:stop]``, which was read from there."""

    __slots__ = ("_answer", "_head", "_kind", "index", "topic", "version")

    def __init__(self, data: bytes | bytearray, at: int, stop: int, version: int, request: ProduceRequest) -> None:
        (topic,) = request.topic_data
        (partition,) = topic.partition_data
        self.topic = topic.name
        self.index = partition.index
        self.version = version
        size = len(partition.records or b"")
        self._kind = bytes(data[at : at + _CORRELATION_AT])
        self._head = bytes(data[at + _REST_AT : stop - len(_NO_TAGS) - size - len(uvarint(size + 1))])
        self._answer: ProduceAnswer | None = None

    @property
    def answer(self) -> ProduceAnswer:
        """To what was written."""
        if self._answer is None:
            self._answer = ProduceAnswer(self.version, self.topic, self.index)
        return self._answer

    def batch(self, data: bytes | bytearray, at: int, stop: int) -> memoryview | None:
        """The batch of the request in ``data[at:stop]``, if that repeats this one."""
        end = stop - len(_NO_TAGS)
        if not (
            data.startswith(self._kind, at)
            and data.startswith(self._head, at + _REST_AT, end)
            and data.startswith(_NO_TAGS, end)
        ):
            return None
        begin = at + _REST_AT + len(self._head)
        size = shift = 0
        while begin < end and shift <= _MOST_SHIFTED:
            byte = data[begin]
            begin += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                return memoryview(data)[begin:end] if size == end - begin + 1 > 1 else None
            shift += 7
        return None

    def take(self, connection: KafkaConnection, data: bytes | bytearray, at: int, stop: int) -> bool:
        """Deal with the request in ``data[at:stop]`` if it repeats this one; False: it is to be read."""
        batch = self.batch(data, at, stop)
        if batch is None:
            return False
        try:
            partition = connection.server.broker.partition(self.topic, self.index)
        except TrunklineError:
            return False
        if partition.topic.settings.message_timestamp_type == "LogAppendTime":
            return False  # the answer has the time
        exchange = _Repeated(connection, self, bytes(data[at + _CORRELATION_AT : at + _REST_AT]))
        connection.promise(exchange)
        try:
            partition.stage_batch(batch, exchange, partition.log.start_offset, in_place=may_stay(batch))
        except TrunklineError as error:
            exchange.append_failed(None, error)
        return True


def remember(
    data: bytes | bytearray, at: int, stop: int, header: RequestHeader, request: ProduceRequest
) -> LastProduce | None:
    """The request that was read from ``data[at:stop]``, for those that may repeat it; None if none can."""
    if header.api_version < APIS[PRODUCE].flexible or request.transactional_id is not None:
        return None
    if request.acks not in (-1, 1) or len(request.topic_data) != 1 or len(request.topic_data[0].partition_data) != 1:
        return None
    found = LastProduce(data, at, stop, header.api_version, request)
    return None if found.batch(data, at, stop) is None else found
