"""Drives a :class:`~trunkline_rabbitmq.protocol.ClientProtocol` over a socket.

A session belongs to one link. Whoever has something to send puts it into a buffer (:meth:`Session.write`), and one task
sends it, as much at a time as has come together; the same task sends heartbeats when there is nothing else. One task
of the link receives. So nothing here is done once for each message.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Final, TypeVar

import trio

from trunkline.links import LinkFailed, WhereTo, connect, read_password, reason_of
from trunkline_amqp.frames import HEARTBEAT_FRAME
from trunkline_amqp.methods import Method
from trunkline_rabbitmq.addresses import RabbitmqUrl, parse_url
from trunkline_rabbitmq.protocol import Answer, Blocked, ClientProtocol, Closed, Event, Ready, Unblocked
from trunkline_rabbitmq.settings import ServerSettings

__all__ = ["Session", "open_session"]

RECEIVE_BYTES: Final = 256 * 1024
OUTBOUND_BYTES: Final = 512 * 1024
"""Written and not sent; ``wait_writable`` waits until there is less."""

CLOSE_LIMIT_S: Final = 2.0
LAST_WORDS_S: Final = 2.0

_M = TypeVar("_M", bound=Method)


class Session:
    """An open connection with an open channel; made by :func:`open_session`.

    Attributes:
      protocol: its state.
      server: what RabbitMQ says it is.
      blocked: why RabbitMQ takes no messages for now; empty: it does.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol, address: RabbitmqUrl) -> None:
        self.protocol = protocol
        self.server = ""
        self.blocked = ""
        self._stream = stream
        self._address = address
        self._events: list[Event] = []  # that came together with an answer
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._has_output = trio.Event()
        self._has_room = trio.Event()
        self._has_room.set()

    # -- both ways ---------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        self._out.append(data)
        self._out_bytes += len(data)
        self._has_output.set()
        if self._out_bytes > OUTBOUND_BYTES and self._has_room.is_set():
            self._has_room = trio.Event()

    async def wait_writable(self) -> None:
        """Wait until most of what was written is sent."""
        await self._has_room.wait()

    async def receive(self) -> list[Event]:
        """What comes next; may be nothing that matters. Raises LinkFailed, also when nothing came for too long."""
        if self._events:
            events, self._events = self._events, []
            return events
        silence_s = 2 * self.protocol.heartbeat_s or float("inf")
        with trio.move_on_after(silence_s) as waiting:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise LinkFailed(f"the connection to {self._address} broke: {reason_of(error)}") from None
        if waiting.cancelled_caught:
            raise LinkFailed(f"{self._address} is silent: nothing came for {silence_s:g} s")
        if not data:
            raise LinkFailed(f"{self._address} closed the connection while {self.protocol.state.value}")
        events = self.protocol.receive_data(bytes(data))
        answers = self.protocol.data_to_send()
        if answers:
            self.write(answers)
        for event in events:
            if isinstance(event, Closed):
                raise LinkFailed(f"{self._address}: {event.reply_code} {event.reply_text}", event.reply_code)
            if isinstance(event, Blocked):
                self.blocked = event.reason or "it gives no reason"
            elif isinstance(event, Unblocked):
                self.blocked = ""
        return events

    async def call(self, method: Method, answer: type[_M]) -> _M:
        """Send a method and wait for its answer; only while nothing else is expected. Raises LinkFailed."""
        self.write(self.protocol.method(method))
        while True:
            events = await self.receive()
            for number, event in enumerate(events):
                if isinstance(event, Answer):
                    if isinstance(event.method, answer):
                        self._events = events[number + 1 :]
                        return event.method
                    raise LinkFailed(f"{self._address} answered with {type(event.method).__name__}")

    # -- its own tasks -----------------------------------------------------------------------------

    async def greet(self) -> None:
        """Introduce ourselves, and open the channel. Raises LinkFailed, OSError."""
        await self._stream.send_all(self.protocol.begin())
        while not self.server:
            for event in await self.receive():
                if isinstance(event, Ready):
                    self.server = event.server or "AMQP 0-9-1"
            await self._send_written()

    async def send_forever(self) -> None:
        """Send what is written, and heartbeats. Raises LinkFailed."""
        try:
            while True:
                with trio.move_on_after(self.protocol.heartbeat_s / 2 or float("inf")):
                    await self._has_output.wait()
                if not self._out:
                    self.write(HEARTBEAT_FRAME)
                await self._send_written()
        except trio.BrokenResourceError as error:
            await trio.sleep(LAST_WORDS_S)  # RabbitMQ may have said why; then whoever receives knows better
            raise LinkFailed(f"the connection to {self._address} broke: {reason_of(error)}") from None

    async def _send_written(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._has_output = trio.Event()
        if data:
            await self._stream.send_all(data)
        if self._out_bytes <= OUTBOUND_BYTES:
            self._has_room.set()

    async def close(self) -> None:
        """Say goodbye, shortly, and close the socket."""
        with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
            with contextlib.suppress(trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
                await self._stream.send_all(b"".join(self._out) + self.protocol.close())
        await trio.aclose_forcefully(self._stream)


@contextlib.asynccontextmanager
async def open_session(settings: ServerSettings, *, name: str, max_body_bytes: int) -> AsyncIterator[Session]:
    """Connect, and be connected inside the block. Raises LinkFailed; what the block raises comes out as it is."""
    address = parse_url(settings.url)
    if settings.password_file:
        address = address._replace(password=await read_password(settings.password_file))
    protocol = ClientProtocol(
        address,
        name=name,
        version=version("trunkline"),
        heartbeat_s=settings.heartbeat_s,
        max_body_bytes=max_body_bytes,
    )
    with trio.move_on_after(settings.connect_timeout_s) as connecting:
        stream = await connect(WhereTo(address.host, address.port, address.is_tls, str(address)), settings)
        session = Session(stream, protocol, address)
        try:
            await session.greet()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    if connecting.cancelled_caught:
        raise LinkFailed(f"{address} took longer than {settings.connect_timeout_s:g} s, {protocol.state.value}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.send_forever)
            yield session
            nursery.cancel_scope.cancel()
    finally:
        await session.close()
