"""A connection with another system: drives a protocol object, which does no I/O, over a stream.

Whoever has something to send puts it into a buffer (:meth:`Peer.write`), and one task sends it, as much at a time as
has come together; whoever converses receives. So nothing is done once for each message.

    protocol.begin() --> greet: until is_ready --> receive / write ... --> goodbye()
                         pulse() every pulse_s; nothing received for silence_s: the other side is gone

The pulse goes also while there is other traffic: not everything that is sent is answered, and what a protocol calls a
heartbeat or a ping may always be sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from trunkline.links.connecting import TlsSettings, WhereTo, connect
from trunkline.links.failures import ConnectionEnded, LinkFailed, reason_of

__all__ = ["Peer", "PeerProtocol", "open_peer"]

RECEIVE_BYTES: Final = 256 * 1024
OUTBOUND_BYTES: Final = 512 * 1024
"""Written and not sent; above it there is no room for more messages."""

OUTBOUND_CHUNKS: Final = 262_144
"""Written and not sent, one by one: what is received is answered without asking for room, so a peer that sends on but
does not read is given up here. Four times as many as MQTT, or RabbitMQ by default, has under way."""

GOODBYE_LIMIT_S: Final = 2.0
LAST_WORDS_S: Final = 2.0
"""When nothing can be sent any more: what the other side said before it closed may still be there to be read."""

_EventT = TypeVar("_EventT")
_PeerT = TypeVar("_PeerT", bound="Peer[Any]")


class PeerProtocol(Protocol[_EventT]):
    """One connection as its client; bytes in, events and bytes out. No I/O, no clock."""

    @property
    def is_ready(self) -> bool:
        """The greeting is over."""

    @property
    def doing(self) -> str:
        """What it is at, for people."""

    @property
    def pulse_s(self) -> float:
        """How often ``pulse`` is to be sent, once it is ready; infinite: never."""

    @property
    def silence_s(self) -> float:
        """If nothing came for so long, the other side is gone; infinite: it never is."""

    def begin(self) -> bytes:
        """What to send first."""

    def receive_data(self, data: bytes) -> list[_EventT]:
        """What arrived (at least one byte) means. Raises LinkFailed, TrunklineError: the connection has to end."""

    def data_to_send(self) -> bytes:
        """Answers that the protocol asks for; empty if there are none."""

    def pulse(self) -> bytes:
        """Shows the other side that this one is there."""

    def goodbye(self) -> bytes:
        """What to send last."""


class Peer(Generic[_EventT]):
    """An open connection; made by :func:`open_peer`.

    Attributes:
      name: the other side, for people.
      has_received: the other side has said something.
      on_room: called when what was written is sent, after there was no room.
    """

    def __init__(self, stream: trio.abc.Stream, protocol: PeerProtocol[_EventT], name: str) -> None:
        self.name = name
        self.has_received = False
        self.on_room: Callable[[], None] = lambda: None
        self._stream = stream
        self._protocol = protocol
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._has_output = trio.Event()
        self._is_sending = False  # also when that was cancelled halfway
        self._sent = trio.Event()  # set, and made anew by who waits for it
        self._room = trio.Event()  # set when there is room again; made anew when somebody finds none
        self._room.set()
        self._early: list[_EventT] = []  # came right behind what was waited for

    @property
    def doing(self) -> str:
        """What it is at, for people."""
        return self._protocol.doing

    @property
    def has_room(self) -> bool:
        """More may be written; else ``on_room`` will be called."""
        if self._out_bytes <= OUTBOUND_BYTES:
            return True
        if self._room.is_set():
            self._room = trio.Event()
        return False

    async def wait_room(self) -> None:
        """Wait until ``has_room``."""
        while not self.has_room:
            await self._room.wait()

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        self._out.append(data)
        self._out_bytes += len(data)
        self._has_output.set()

    def push_back(self, events: list[_EventT]) -> None:
        """Let ``receive`` give these, which came before whatever is received next."""
        self._early = [*events, *self._early]

    async def receive(self) -> list[_EventT]:
        """What comes next; may be nothing.

        Raises LinkFailed: nothing came for too long, or the other side does not read; ConnectionEnded; what the
        protocol raises. Cancellation: resumable.
        """
        if self._early:
            events, self._early = self._early, []
            return events
        if len(self._out) > OUTBOUND_CHUNKS:
            raise LinkFailed(f"{self.name} does not read what it is answered")
        data = await self._receive_some()
        try:
            events = self._protocol.receive_data(data)
        except LinkFailed as error:
            raise type(error)(f"{self.name}: {error}", error.code) from None
        if answers := self._protocol.data_to_send():
            self.write(answers)
        return events

    async def _receive_some(self) -> bytes:
        silence_s = self._protocol.silence_s
        with trio.move_on_after(silence_s) as waiting:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise self._broken(error) from None
        if waiting.cancelled_caught:
            raise LinkFailed(f"{self.name} is silent: nothing came for {silence_s:g} s")
        if not data:
            raise ConnectionEnded(f"{self.name} closed the connection while {self.doing}")
        self.has_received = True
        return bytes(data)

    # -- for open_peer -----------------------------------------------------------------------------

    async def greet(self) -> None:
        """Introduce ourselves. Raises LinkFailed, and what the protocol raises."""
        self.write(self._protocol.begin())
        early: list[_EventT] = []
        while not self._protocol.is_ready:
            await self._send_written()
            early += await self.receive()
        self.push_back(early)

    async def send_forever(self) -> None:
        """Send what is written, and the pulse. Raises ConnectionEnded."""
        pulse_s = self._protocol.pulse_s
        pulse_at = trio.current_time() + pulse_s
        while True:
            with trio.move_on_at(pulse_at):
                await self._has_output.wait()
            if trio.current_time() >= pulse_at:
                pulse_at = trio.current_time() + pulse_s
                self.write(self._protocol.pulse())
            try:
                await self._send_written()
            except ConnectionEnded:
                await trio.sleep(LAST_WORDS_S)  # whoever receives may know better why
                raise
            if not self._room.is_set() and self._out_bytes <= OUTBOUND_BYTES:
                self._room.set()
                self.on_room()

    async def _send_written(self) -> None:
        data, self._out = b"".join(self._out), []
        self._out_bytes = 0
        self._has_output = trio.Event()
        self._is_sending = True
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise self._broken(error) from None
        self._is_sending = False
        self._sent.set()

    def _broken(self, error: trio.BrokenResourceError) -> ConnectionEnded:
        return ConnectionEnded(f"the connection to {self.name} broke: {reason_of(error)}")

    async def wait_sent(self) -> None:
        """Wait until all that was written is sent."""
        while self._out or self._is_sending:
            self._sent = trio.Event()
            await self._sent.wait()

    async def close(self) -> None:
        """Say goodbye, shortly, and close the stream. Nobody sends any more."""
        if not self._is_sending:  # else that would be read as the rest of something else
            with trio.move_on_after(GOODBYE_LIMIT_S, shield=True):
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(b"".join(self._out) + self._protocol.goodbye())
        await trio.aclose_forcefully(self._stream)


@contextlib.asynccontextmanager
async def open_peer(
    where: WhereTo,
    tls: TlsSettings,
    make: Callable[[trio.abc.Stream], _PeerT],
    *,
    timeout_s: float,
    connecting: trio.CancelScope | None = None,
) -> AsyncIterator[_PeerT]:
    """Connect, and be connected inside the block. What the block raises comes out as it is.

    Args:
      make: the peer for a stream.
      timeout_s: for connecting and the greeting together.
      connecting: a new scope; cancel it to give up what did not succeed yet.

    Raises LinkFailed, and what the protocol raises.
    """
    scope = connecting or trio.CancelScope()
    scope.relative_deadline = timeout_s
    doing = "connecting"
    with scope:
        stream = await connect(where, tls)
        peer = make(stream)
        try:
            await peer.greet()
        except BaseException as error:
            doing = peer.doing
            await trio.aclose_forcefully(stream)
            if isinstance(error, ConnectionEnded) and where.is_tls and not tls.certificate and not peer.has_received:
                hint = "it may want a certificate of this side, and none is configured"
                raise ConnectionEnded(f"{error}; {hint}", error.code) from None  # TLS 1.3 says so late, or is cut off
            raise
    if scope.cancelled_caught:
        if trio.current_time() < scope.deadline:
            raise LinkFailed(f"{where.name} was given up")
        raise LinkFailed(f"{where.name} took longer than {timeout_s:g} s, {doing}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_forever)
            yield peer
            with trio.move_on_after(GOODBYE_LIMIT_S):
                await peer.wait_sent()
            nursery.cancel_scope.cancel()
    finally:
        await peer.close()
