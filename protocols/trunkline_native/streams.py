"""Fetch streams: one partition's records, pushed to one client while its credit lasts.

A stream is *live* while it has sent everything below the high watermark: then it forwards what the partition
commits, bytes as they are. It stops being live when it lacks credit or the client's outbound buffer is
full, and catches up from the log, one frame at a time and in turn with the connection's other streams, until it
has reached the high watermark again::

    behind --(at the high watermark)--> live
    live --(no credit, or congested)--> behind
    behind --(the store would wait)--> reading --(it has read)--> behind
    any --(end reached, closed, failed)--> closed

It never sends past the high watermark: both sources end there.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from trunkline.door import Transport
from trunkline.errors import BrokerClosing, TrunklineError, UnknownTopic
from trunkline_native.bridge import batches_end, failure_fields
from trunkline_native.codec import encode, encode_data_head
from trunkline_native.frames import StreamEnd

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["FetchStream", "Streams"]


class State(Enum):
    """See the module's docstring."""

    BEHIND = "behind"
    LIVE = "live"
    READING = "reading"
    CLOSED = "closed"


class FetchStream:
    """One stream; a listener of its partition from the moment it is made until ``close``."""

    __slots__ = ("_owner", "credit", "end", "number", "partition", "position", "state")

    def __init__(
        self, owner: Streams, number: int, partition: Partition, position: int, end: int | None, credit: int
    ) -> None:
        self._owner = owner
        self.number = number
        self.partition = partition
        self.position = position  # offset of the next record to send
        self.end = end
        self.credit = credit
        self.state = State.BEHIND
        partition.add_listener(self)

    # -- from the partition ------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """Forward them if this stream is live and may send so much, else fall behind."""
        if self.state is not State.LIVE or next_offset <= self.position:
            return
        assert base_offset <= self.position
        owner = self._owner
        size = sum(map(len, batches))
        is_much = size > min(self.credit, owner.max_data_bytes)
        if owner.transport.is_congested or is_much or base_offset < self.position:  # it began past the high watermark
            self.state = State.BEHIND
            owner.make_ready(self)
            owner.pump()
            return
        self._send(batches, size, next_offset)

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """Tell the client why nothing more comes."""
        if error is None:
            if self._owner.broker.is_closing:
                error = BrokerClosing(f"{partition.name}: the broker is closing; reconnect once it is up again")
            else:
                error = UnknownTopic(f"{partition.name}: the topic was deleted", topic=partition.topic.name)
        self._owner.fail(self, error)

    # -- catching up -------------------------------------------------------------------------------

    def send_some(self) -> bool:
        """Send one frame from the log; True if there may be more to send right away."""
        if self.state is not State.BEHIND or self.credit <= 0:
            return False
        max_bytes = max(min(self.credit, self._owner.max_data_bytes), 1)
        try:
            data = self.partition.read_nowait(self.position, max_bytes)
        except TrunklineError as error:
            self._owner.fail(self, error)
            return False
        if data is None:
            self.state = State.READING
            self._owner.broker.start_soon(self._read_waiting, max_bytes)
            return False
        return self._took(data)

    async def _read_waiting(self, max_bytes: int) -> None:
        try:
            data = await self.partition.read(self.position, max_bytes)
        except TrunklineError as error:
            self._owner.fail(self, error)
            return
        if self.state is State.READING:
            self.state = State.BEHIND
            if self._took(data):
                self._owner.make_ready(self)
            self._owner.pump()

    def _took(self, data: bytes) -> bool:
        if not data:
            self.state = State.LIVE  # at the high watermark: what comes next is told, not read
            return False
        self._send([data], len(data), batches_end(data))
        return self.state is State.BEHIND

    def _send(self, batches: list[bytes], size: int, next_offset: int) -> None:
        write = self._owner.transport.write
        write(encode_data_head(self.number, next_offset, self.partition.high_watermark, size))
        for batch in batches:
            write(batch)
        self.position = next_offset
        self.credit -= size
        self._owner.sent_bytes += size
        if self.end is not None and next_offset >= self.end:
            self._owner.end(self)

    def close(self) -> None:
        """Let go of the partition."""
        self.state = State.CLOSED
        self.partition.remove_listener(self)


class Streams:
    """The streams of one connection, and whose turn it is to send.

    Args:
      max_data_bytes: see NativeSettings.
    """

    def __init__(self, broker: Broker, transport: Transport, max_data_bytes: int) -> None:
        self.broker = broker
        self.transport = transport
        self.max_data_bytes = max_data_bytes
        self.sent_bytes = 0
        self._streams: dict[int, FetchStream] = {}
        self._ready: dict[FetchStream, None] = {}  # behind and with credit, in turn
        self._is_pumping = False

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, number: int) -> bool:
        return number in self._streams

    def open(self, number: int, partition: Partition, position: int, end: int | None, credit: int) -> None:
        """Begin a stream; ``number`` is not in use. Nothing is sent before ``pump``."""
        stream = FetchStream(self, number, partition, position, end, credit)
        self._streams[number] = stream
        if end is not None and position >= end:
            self.end(stream)
        else:
            self.make_ready(stream)

    def add_credit(self, number: int, credit: int) -> None:
        """The client has room for so many more bytes; unknown streams are ignored (they may have just ended)."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.credit += credit
            self.make_ready(stream)
            self.pump()

    def close(self, number: int) -> None:
        """The client wants no more of a stream."""
        stream = self._streams.get(number)
        if stream is not None:
            self.end(stream)

    def close_all(self) -> None:
        """The connection is over."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        self._ready.clear()

    def make_ready(self, stream: FetchStream) -> None:
        """Let a stream that is behind take its turns again."""
        if stream.state is State.BEHIND and stream.credit > 0:
            self._ready[stream] = None

    def pump(self) -> None:
        """Let the streams that are behind send, one frame each in turn, until the client's buffer is full."""
        if self._is_pumping:
            return
        self._is_pumping = True
        ready, transport = self._ready, self.transport
        try:
            while ready and not transport.is_congested and not transport.is_closing:
                stream = next(iter(ready))
                del ready[stream]
                if stream.send_some():
                    self.make_ready(stream)
        finally:
            self._is_pumping = False

    def end(self, stream: FetchStream) -> None:
        """A stream is done as it was asked to be."""
        self._drop(stream, StreamEnd(stream.number))

    def fail(self, stream: FetchStream, error: TrunklineError) -> None:
        """A stream cannot go on."""
        self._drop(stream, StreamEnd(stream.number, *failure_fields(error)))

    def _drop(self, stream: FetchStream, last_word: StreamEnd) -> None:
        if self._streams.pop(stream.number, None) is None:
            return
        self._ready.pop(stream, None)
        stream.close()
        self.transport.write(encode(last_word))
