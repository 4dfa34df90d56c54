"""One connection of the client: hello, requests and their answers, pings; knows nothing of topics.

Everything but hello is synchronous: a request is a frame written to a queue and a callback for its answer. Two
tasks move the bytes, a third sees to it that an unanswered request (or ping) ends the connection in time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.abc

from trunkline.errors import ConnectionFailed, RemoteProtocolError, TrunklineError, from_wire
from trunkline_native.codec import CLOSED, NEED_DATA, FrameDecoder, Sentinel, encode, encode_head
from trunkline_native.frames import (
    PROTOCOL_VERSION,
    SERVER_FRAMES,
    CloseStream,
    Data,
    Failure,
    Frame,
    Goodbye,
    Header,
    Hello,
    Limits,
    Ping,
    Produce,
    Produced,
    StreamEnd,
    Welcome,
)

__all__ = ["Outcome", "ProduceWaiter", "Session", "StreamReceiver"]

READ_BYTES: Final = 65536
MAX_FRAME_BYTES: Final = 257 * 1024 * 1024
"""Largest frame from a server: one batch may have up to 256 MiB (``max.message.bytes``)."""

Outcome = Callable[[Header | TrunklineError, bytes | memoryview], None]
"""Called with the answer and its body, or with an error; must not raise."""

_H = TypeVar("_H", bound=Header)


class ProduceWaiter(Protocol):
    """Who sends batches through a session."""

    def produced(self, token: object, base_offset: int) -> None:
        """The batch is committed."""

    def produce_failed(self, token: object, error: TrunklineError) -> None:
        """The broker has refused it."""


class StreamReceiver(Protocol):
    """Who reads a stream."""

    def data_received(self, data: Data, body: bytes | memoryview) -> None:
        """Whole batches; the body may be kept."""

    def stream_ended(self, error: TrunklineError | None) -> None:
        """Nothing more comes: its end is reached (None), or it failed."""


class _Call:
    __slots__ = ("outcome", "sent_at")

    def __init__(self, outcome: Outcome, sent_at: float) -> None:
        self.outcome = outcome
        self.sent_at = sent_at


class _Sent:
    __slots__ = ("sent_at", "size_bytes", "token", "waiter")

    def __init__(self, waiter: ProduceWaiter, token: object, size_bytes: int, sent_at: float) -> None:
        self.waiter = waiter
        self.token = token
        self.size_bytes = size_bytes
        self.sent_at = sent_at


class Session:
    """An open connection; made by :meth:`greet`, alive while :meth:`run` runs.

    Attributes:
      limits: what the server allows.
      find_receiver: the reader of a stream by its number, or None if nobody reads it any more.
      pushes: who takes which other frames that the server sends unasked.
    """

    def __init__(self, stream: anyio.abc.ByteStream, request_timeout_s: float) -> None:
        self.limits = Limits()
        self.server_name = ""
        self.find_receiver: Callable[[int], StreamReceiver | None] = lambda _: None
        self.pushes: dict[type[Header], Callable[[Any, bytes | memoryview], None]] = {}
        self._stream = stream
        self._request_timeout_s = request_timeout_s
        self._frames = FrameDecoder(SERVER_FRAMES, MAX_FRAME_BYTES)
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._sent: dict[int, _Sent] = {}
        self._inflight_bytes = 0
        self._outbound: list[bytes] = []
        self._late: list[Callable[[], None]] = []
        self._has_outbound = anyio.Event()
        self._is_sending = False
        self._is_over = False
        self._sent_all = anyio.Event()
        self._last_word = ""

    # -- hello -------------------------------------------------------------------------------------

    async def greet(self, client_name: str) -> None:
        """Agree on a version. Raises ConnectionFailed, RemoteProtocolError, or what the server answered."""
        await self._stream.send(encode(Hello(0, [PROTOCOL_VERSION], client_name)))
        try:
            while (event := self._frames.next_event()) is NEED_DATA:
                self._frames.receive_data(await self._receive())
        except RemoteProtocolError as error:
            raise ConnectionFailed(f"the server answered something else ({error}); is this its native port?") from None
        if event is CLOSED:
            raise ConnectionFailed("the server closed the connection instead of answering; is this its native port?")
        assert isinstance(event, Frame)
        header = event.header
        if isinstance(header, Failure):
            raise _error_of(header)
        if not isinstance(header, Welcome) or header.version != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"hello was answered with {type(header).__name__}")
        self.limits = header.limits
        self.server_name = header.server_name

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive(READ_BYTES)
        except anyio.EndOfStream:
            return b""

    # -- sending -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Queue bytes for the server."""
        if not self._outbound:
            self._has_outbound.set()
        self._outbound.append(data)

    def write_late(self, function: Callable[[], None]) -> None:
        """Call ``function`` when bytes are about to leave: it writes what was collected until then, many in one."""
        self._late.append(function)
        self._has_outbound.set()

    async def wait_sent(self) -> None:
        """Wait until all that was written is on its way, or the session is over."""
        while (self._outbound or self._late or self._is_sending) and not self._is_over:
            self._sent_all = anyio.Event()
            await self._sent_all.wait()

    def call(self, make: Callable[[int], Header], outcome: Outcome, body: bytes = b"") -> None:
        """Send a request; ``make`` is given its id."""
        request_id = next(self._ids)
        frame = encode(make(request_id), body)
        self._calls[request_id] = _Call(outcome, anyio.current_time())
        self.write(frame)

    def tell(self, header: Header) -> None:
        """Send what has no answer."""
        self.write(encode(header))

    def has_room(self, size_bytes: int) -> bool:
        """Whether a batch of so many bytes may be sent ahead now."""
        requests = len(self._sent) + len(self._calls)
        if requests + 16 > self.limits.max_inflight_requests and self._sent:
            return False
        return not self._sent or self._inflight_bytes + size_bytes <= self.limits.max_inflight_bytes

    def produce(self, topic: str, partition: int, batch: bytes, waiter: ProduceWaiter, token: object) -> None:
        """Send a batch; ask ``has_room`` first."""
        request_id = next(self._ids)
        self._sent[request_id] = _Sent(waiter, token, len(batch), anyio.current_time())
        self._inflight_bytes += len(batch)
        self.write(encode_head(Produce(request_id, topic, partition), len(batch)))
        self._outbound.append(batch)

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move bytes until the connection ends; always raises, ConnectionFailed or RemoteProtocolError."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write_loop)
                tasks.start_soon(self._watch)
                await self._read_loop()
        except BaseExceptionGroup as group:
            failures, rest = group.split(
                (TrunklineError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)
            )
            if rest is not None:
                raise rest from None  # it is being cancelled, and broke at the same moment
            assert failures is not None
            raise _as_connection_failed(_first(failures)) from None

    async def _read_loop(self) -> None:
        frames = self._frames
        while True:
            while isinstance(event := frames.next_event(), Frame):
                self._dispatch(event.header, event.body)
            if event is CLOSED:
                raise ConnectionFailed(f"the server closed the connection{self._last_word and ': '}{self._last_word}")
            assert isinstance(event, Sentinel)
            frames.receive_data(await self._receive())

    async def _write_loop(self) -> None:
        while True:
            await self._has_outbound.wait()
            self._has_outbound = anyio.Event()
            late, self._late = self._late, []
            for function in late:
                function()
            parts, self._outbound = self._outbound, []
            if parts:
                self._is_sending = True
                await self._stream.send(b"".join(parts))
                self._is_sending = False
            self._sent_all.set()

    async def _watch(self) -> None:
        """Ping before the server finds us idle; end the connection when an answer is overdue."""
        idle_s = self.limits.idle_timeout_ms / 3000 or self._request_timeout_s
        tick_s = min(idle_s, self._request_timeout_s / 2)
        while True:
            await anyio.sleep(tick_s)
            now = anyio.current_time()
            overdue = now - self._request_timeout_s
            call, sent = next(iter(self._calls.values()), None), next(iter(self._sent.values()), None)  # the oldest
            for oldest in (call, sent):
                if oldest is not None and oldest.sent_at <= overdue:
                    raise ConnectionFailed(f"the server has not answered for {self._request_timeout_s:g} s")
            if not self._calls:
                self.call(Ping, lambda answer, body: None)

    def end(self, error: TrunklineError) -> None:
        """The connection is over: calls fail; batches that were sent are the producer's business."""
        self._is_over = True
        self._sent_all.set()
        calls, self._calls = self._calls, {}
        self._sent.clear()
        for call in calls.values():
            call.outcome(error, b"")

    # -- receiving ---------------------------------------------------------------------------------

    def _dispatch(self, header: Header, body: bytes | memoryview) -> None:
        kind = type(header)
        if kind is Data:
            assert isinstance(header, Data)
            receiver = self.find_receiver(header.stream)
            if receiver is None:
                self.tell(CloseStream(header.stream))
            else:
                receiver.data_received(header, body)
        elif kind is Produced:
            assert isinstance(header, Produced)
            sent = self._take_sent(header.id)
            if sent is not None:
                sent.waiter.produced(sent.token, header.base_offset)
        elif isinstance(header, Failure):
            self._failure(header)
        elif isinstance(header, StreamEnd):
            receiver = self.find_receiver(header.stream)
            if receiver is not None:
                receiver.stream_ended(None if header.code is None else _error_of(header))
        elif isinstance(header, Goodbye):
            self._last_word = header.message
        elif kind in self.pushes:
            self.pushes[kind](header, body)
        else:
            call = self._calls.pop(getattr(header, "id", -1), None)
            if call is not None:
                call.outcome(header, body)

    def _take_sent(self, request_id: int) -> _Sent | None:
        sent = self._sent.pop(request_id, None)
        if sent is not None:
            self._inflight_bytes -= sent.size_bytes
        return sent

    def _failure(self, failure: Failure) -> None:
        error = _error_of(failure)
        if failure.id is None:
            raise error
        sent = self._take_sent(failure.id)
        if sent is not None:
            sent.waiter.produce_failed(sent.token, error)
            return
        call = self._calls.pop(failure.id, None)
        if call is not None:
            call.outcome(error, b"")


def _error_of(failure: Failure | StreamEnd) -> TrunklineError:
    return from_wire(failure.code or "", failure.message, failure.details)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _as_connection_failed(error: BaseException) -> TrunklineError:
    if isinstance(error, TrunklineError):
        return error
    return ConnectionFailed(f"the connection broke: {str(error) or type(error).__name__}")
