"""The door's side of one native connection: what each frame does. No I/O of its own.

Produce and fetch are answered where they arrive or from the partition's own calls, without a task. What may wait
(metadata changes, searches by time) runs as a task of the broker, and its answer is written when it is there:
answers carry the id of their request and come in any order.

A connection begins in ``GREETING``, where only hello is taken and frames are small; the rest is ``OPEN``. A frame
that breaks the rules is answered with a :class:`Failure` without id, and ends the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from trunkline.door import Connection, Transport
from trunkline.errors import OffsetOutOfRange, Overloaded, RemoteProtocolError, TrunklineError, UnsupportedRequest
from trunkline.partial import PartialFrame, may_stay
from trunkline_native import control
from trunkline_native.bridge import failure_fields, find_position, position_now
from trunkline_native.codec import FrameDecoder, encode, encode_produced
from trunkline_native.frames import (
    CLIENT_FRAMES,
    PROTOCOL_VERSION,
    AlterTopic,
    AskDoor,
    CloseStream,
    CreateTopic,
    Credit,
    DeleteRecords,
    DeleteTopic,
    DescribeBridges,
    Done,
    Failure,
    Frame,
    Goodbye,
    Header,
    Hello,
    Limits,
    ListOffsets,
    Metadata,
    NewProducer,
    OpenStream,
    Ping,
    Produce,
    StreamOpened,
    Unknown,
    Welcome,
)
from trunkline_native.groups import GROUP_FRAMES, Groups
from trunkline_native.queues import QUEUE_FRAMES, Queues
from trunkline_native.settings import NativeSettings
from trunkline_native.streams import Streams
from trunkline_native.views import Handler, View

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["HELLO_LIMIT_BYTES", "NativeConnection"]

logger = logging.getLogger("trunkline_native")

HELLO_LIMIT_BYTES: Final = 4096
"""Largest frame before hello: a name and some versions. ``GET ``, read as a length, is far above it."""

SERVER_NAME: Final = "trunkline"

VIEWS: Final[Mapping[type[Header], Callable[[NativeConnection], View]]] = {
    **dict.fromkeys(GROUP_FRAMES, Groups),
    **dict.fromkeys(QUEUE_FRAMES, Queues),
}
"""What is made when such a frame arrives for the first time."""


class NativeConnection(Connection):
    """One client. Made by the door for each transport."""

    def __init__(self, broker: Broker, settings: NativeSettings, transport: Transport) -> None:
        self.broker = broker
        self.settings = settings
        self.transport = transport
        self.client_name = ""
        self.streams = Streams(broker, transport, settings.max_data_bytes)
        self.inflight_requests = 0
        self.inflight_bytes = 0
        self.requests = 0
        self._is_open = False
        self._frames = FrameDecoder(CLIENT_FRAMES, HELLO_LIMIT_BYTES)
        self._handlers: dict[type[Header], Handler] = {Hello: self._hello}
        self._views: list[View] = []

    # -- from the core -----------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        return self._frames.held_bytes

    def receive_data(self, data: bytes) -> None:
        """See :class:`trunkline.door.Connection`."""
        frames, handlers = self._frames, self._handlers
        frames.receive_data(data)
        try:
            while isinstance(frame := frames.next_event(), Frame):
                handle = handlers.get(type(frame.header))
                if handle is None:
                    handle = self._new_handler(frame.header)
                handle(frame.header, frame.body)
                handlers = self._handlers
            for view in self._views:
                view.received()
        except RemoteProtocolError as error:
            self.transport.write(encode(Failure(None, *failure_fields(error))))
            self.transport.close()
            raise

    @property
    def partial(self) -> PartialFrame | None:  # type: ignore[override]  # nobody sets it
        """See :class:`trunkline.door.Connection`."""
        return self._frames.partial

    def writable(self) -> None:
        """Streams that had to wait go on."""
        self.streams.pump()
        for view in self._views:
            view.writable()

    def timed_out(self) -> None:
        """Say why the connection ends."""
        self.transport.write(encode(Goodbye(f"nothing arrived for {self.settings.idle_timeout_s:g} s")))

    def shutting_down(self) -> None:
        """Say that the broker goes."""
        self.transport.write(encode(Goodbye("the broker is closing")))

    def closed(self, error: Exception | None) -> None:
        """Streams end; what was produced is still written."""
        self.streams.close_all()
        views, self._views = self._views, []
        for view in views:
            view.closed()

    # -- hello -------------------------------------------------------------------------------------

    def _hello(self, hello: Hello, body: bytes | memoryview) -> None:
        if PROTOCOL_VERSION not in hello.versions:
            error = UnsupportedRequest(
                f"protocol versions {hello.versions[:10]} are not spoken here, only {PROTOCOL_VERSION}; "
                "use a client of that version",
                request="hello",
            )
            self.transport.write(encode(Failure(hello.id, *failure_fields(error))))
            self.transport.close()
            return
        settings, transport = self.settings, self.transport
        self.client_name = hello.client_name[:200]
        self._is_open = True
        self._frames.max_frame_bytes = settings.max_frame_bytes
        self._handlers = {
            Produce: self._produce,
            Credit: self._credit,
            OpenStream: self._open_stream,
            CloseStream: self._close_stream,
            Ping: self._ping,
            NewProducer: self._control,
            Metadata: self._control,
            ListOffsets: self._control,
            CreateTopic: self._control,
            DeleteTopic: self._control,
            AlterTopic: self._control,
            DeleteRecords: self._control,
            DescribeBridges: self._control,
            AskDoor: self._control,
            Unknown: self._unknown,
        }
        transport.idle_timeout_s = settings.idle_timeout_s
        transport.established()
        limits = Limits(
            max_frame_bytes=settings.max_frame_bytes,
            max_inflight_requests=settings.max_inflight_requests,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_streams=settings.max_streams,
            max_data_bytes=settings.max_data_bytes,
            idle_timeout_ms=int(settings.idle_timeout_s * 1000),
        )
        transport.write(encode(Welcome(hello.id, PROTOCOL_VERSION, SERVER_NAME, limits)))

    def _new_handler(self, header: Header) -> Handler:
        """Make the part that deals with such frames, if there is one."""
        if not self._is_open:
            raise RemoteProtocolError(f"the first frame must be hello, not {type(header).__name__}")
        make = VIEWS.get(type(header))
        if make is None:
            raise RemoteProtocolError("hello may be sent once")
        view = make(self)
        self._views.append(view)
        self._handlers.update(view.handlers)
        return view.handlers[type(header)]

    # -- produce -----------------------------------------------------------------------------------

    def _produce(self, request: Produce, body: bytes | memoryview) -> None:
        self.requests += 1
        size = len(body)
        in_place = may_stay(body)
        try:
            if self.inflight_bytes + size > self.settings.max_inflight_bytes:
                raise Overloaded(
                    f"more than {self.settings.max_inflight_bytes} bytes are not acknowledged yet; send less ahead",
                    limit_bytes=self.settings.max_inflight_bytes,
                )
            partition = self.broker.partition(request.topic, request.partition)
            if request.acks:
                self.begin_request()
                try:
                    partition.stage_batch(body, self, (request.id, size), in_place=in_place)
                except BaseException:
                    self.inflight_requests -= 1
                    raise
                self.inflight_bytes += size
            else:
                partition.stage_batch(body, in_place=in_place)
        except RemoteProtocolError:
            raise
        except TrunklineError as error:
            self.fail(request.id, error)

    def append_done(self, token: object, offset: int) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        request_id, size = cast(tuple[int, int], token)  # what _produce gave
        self.inflight_requests -= 1
        self.inflight_bytes -= size
        self.transport.write(encode_produced(request_id, offset))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        request_id, size = cast(tuple[int, int], token)  # what _produce gave
        self.inflight_requests -= 1
        self.inflight_bytes -= size
        self.fail(request_id, error)

    # -- streams -----------------------------------------------------------------------------------

    def _open_stream(self, request: OpenStream, body: bytes | memoryview) -> None:
        self.requests += 1
        if request.stream in self.streams:
            raise RemoteProtocolError(f"stream {request.stream} is already open")
        if isinstance(request.start, dict):
            self.begin_request()
            self.broker.start_soon(self.answer, request, self._open_by_time)
            return
        try:
            partition = self.broker.partition(request.topic, request.partition)
            self._open_at(request, partition, position_now(partition, request.start))
        except TrunklineError as error:
            if isinstance(error, RemoteProtocolError):
                raise
            self.fail(request.id, error)

    async def _open_by_time(self, request: Any) -> None:
        partition = self.broker.partition(request.topic, request.partition)
        found = await find_position(partition, request.start)
        self._open_at(request, partition, partition.high_watermark if found is None else found)

    def _open_at(self, request: OpenStream, partition: Partition, start: int) -> None:
        if self.transport.is_closing or request.stream in self.streams:
            return
        if len(self.streams) >= self.settings.max_streams:
            raise Overloaded(
                f"{self.settings.max_streams} streams are open on this connection; close one",
                limit=self.settings.max_streams,
            )
        if not partition.log_start_offset <= start <= partition.acknowledged_offset:  # as a group may have come so far
            raise OffsetOutOfRange(
                f"{partition.name}: offset {start} is outside {partition.log_start_offset} to "
                f"{partition.high_watermark}; start from earliest or latest",
                log_start_offset=partition.log_start_offset,
                high_watermark=partition.high_watermark,
            )
        end = None if request.end is None else position_now(partition, request.end)
        opened = StreamOpened(request.id, start, end, partition.log_start_offset, partition.high_watermark)
        self.transport.write(encode(opened))
        self.streams.open(request.stream, partition, start, end, request.credit)
        self.streams.pump()

    def _credit(self, request: Credit, body: bytes | memoryview) -> None:
        self.streams.add_credit(request.stream, request.credit)

    def _close_stream(self, request: CloseStream, body: bytes | memoryview) -> None:
        self.streams.close(request.stream)

    # -- control -----------------------------------------------------------------------------------

    def _ping(self, request: Ping, body: bytes | memoryview) -> None:
        self.transport.write(encode(Done(request.id)))

    def _unknown(self, request: Unknown, body: bytes | memoryview) -> None:
        error = UnsupportedRequest(f"frame kind {request.kind} is not known here", request=str(request.kind))
        if request.id is None or request.id < 0:
            raise RemoteProtocolError(str(error))
        self.fail(request.id, error)

    def _control(self, request: Any, body: bytes | memoryview) -> None:
        self.requests += 1
        self.begin_request()
        self.broker.start_soon(self.answer, request, self._reply)

    async def _reply(self, request: Any) -> None:
        reply = await control.ANSWERS[type(request)](self, request)
        self.transport.write(reply)

    async def answer(self, request: Any, work: Callable[[Any], Awaitable[None]]) -> None:
        """Do what may wait, in a task of the broker; a request is always answered."""
        try:
            await work(request)
        except TrunklineError as error:
            self.fail(request.id, error)
        except Exception:
            self.fail(request.id, TrunklineError("the broker met a bug here; its log says more"))
            raise
        finally:
            self.inflight_requests -= 1

    def begin_request(self) -> None:
        """One more request waits for its answer. Raises RemoteProtocolError if the client has sent too many."""
        limit = self.settings.max_inflight_requests
        if self.inflight_requests >= limit:
            raise RemoteProtocolError(f"more than {limit} requests are waiting for their answers")
        self.inflight_requests += 1

    def fail(self, request_id: int, error: TrunklineError) -> None:
        """Answer a request with an error."""
        self.transport.write(encode(Failure(request_id, *failure_fields(error))))
