"""The interface a protocol implements.

A :class:`Door` is one protocol's way in and out. For each peer that connects the core makes a
:class:`Transport` (the peer's socket, or something simulated) and asks the door for a
:class:`Connection`: a plain object that is told what arrived and writes what should leave. Nothing
here is ``async``, so thousands of connections cost no task switch; see :mod:`trunkline.net`.

The core calls every method of a connection from one thread, never while another one of its calls
runs; no method of a transport calls back into its connection before it returns.
A connection that raises is closed and logged, and touches nobody else.
``RemoteProtocolError`` (the peer broke the rules) is logged in one line; anything else is a bug, with traceback.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from trunkline.errors import UnsupportedRequest

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partial import PartialFrame

__all__ = ["Connection", "Door", "DoorContext", "DoorFactory", "Transport", "WebSocketOffer"]


class Transport(ABC):
    """One peer, as its connection sees it. The core makes it; a connection keeps it and calls it."""

    peer: str
    """Who is at the other end, for logs: ``127.0.0.1:40312``."""

    local: tuple[str, int]
    """The address the peer connected to."""

    idle_timeout_s: float
    """Close (after ``Connection.timed_out``) when nothing arrived for so long; ``math.inf`` at first."""

    is_congested: bool
    """True from when too much is waiting to be sent until ``Connection.writable`` is called."""

    is_closing: bool
    """True once ``close`` or ``abort`` was called or the peer went away; writes are then dropped."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send ``data`` after what was written before, at the end of this round, one send for all of it.

        Never blocks and never fails. When more than the outbound limit is waiting, ``is_congested``
        turns true and the core stops reading from the peer; producers of data stop writing until ``writable``.
        """

    def pause(self) -> None:  # noqa: B027 - a simulated peer may go on sending
        """Read no more from the peer until ``resume``: the connection has enough to do. It feels TCP's back-pressure.

        What was read already may still arrive. It ends neither the peer's deadline nor its idle timeout.
        """

    def resume(self) -> None:  # noqa: B027
        """Read from the peer again. Nothing happens if it was not paused."""

    @abstractmethod
    def established(self) -> None:
        """The peer has introduced itself: lifts the handshake deadline and the small limit before it."""

    @abstractmethod
    def close(self) -> None:
        """End the connection once everything written is sent, or a grace period is over."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection now; what was not sent is dropped."""


class Connection(ABC):
    """One peer's protocol state. Sans-I/O: no sockets, no clock, no ``await``."""

    __slots__ = ()

    partial: PartialFrame | None = None
    """A frame of which a part has arrived. The core may put what follows right into its ``room``, and gives
    ``receive_data`` what comes behind it then, perhaps nothing; or gives it all to ``receive_data``, as ever. A
    class that has such frames defines it, as a property or slot; of others it is not asked."""

    @abstractmethod
    def receive_data(self, data: bytes) -> None:
        """Bytes arrived: 1 to 64 KiB, cut anywhere. May write, stage appends, or raise RemoteProtocolError.

        None at all if they have made ``partial`` whole.
        """

    @property
    def held_bytes(self) -> int:
        """What is kept of things that the peer has begun to send and not finished, like half a frame.

        A setting of the door's should bound it for one connection; ``limits.max_unfinished_bytes`` does for all.
        """
        return 0

    @property
    def called(self) -> str:
        """What the peer calls itself, for the log: many may share an address. Empty: it has not said, or cannot."""
        return ""

    @abstractmethod
    def closed(self, error: Exception | None) -> None:
        """The connection is over (``error`` is None after a clean end): release what it held. Called once, last."""

    def writable(self) -> None:  # noqa: B027 - a door that never streams needs nothing here
        """The outbound buffer has drained after ``is_congested``; go on writing."""

    def timed_out(self) -> None:  # noqa: B027 - most protocols just close
        """``idle_timeout_s`` is over; a last word may be written. The transport is closed after this."""

    def shutting_down(self) -> None:  # noqa: B027
        """The broker is closing: say so if the protocol can. Appends staged before are still acknowledged."""


class Door(ABC):
    """One protocol, opened once by a broker."""

    async def open(self) -> None:  # noqa: B027 - most doors need nothing
        """Get ready (make topics, read state) before anything connects. Cancellation: nothing is kept."""

    async def close(self) -> None:  # noqa: B027
        """All connections are gone; write what must be kept."""

    @abstractmethod
    def connect(self, transport: Transport) -> Connection:
        """A peer has connected. Raise to refuse it."""

    async def ask(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """Answer an administrator, as commands of the door's own do: whatever is only this protocol's business.

        Args:
          request: the door's own word for what is asked.
          arguments: None, bool, int, float, str, bytes, and lists and dicts with text as keys of these.

        Returns: of the same kinds; 1 MiB or so at most, so a list needs pages.

        Raises UnsupportedRequest for what it does not know. Cancellation: may have happened.
        """
        raise UnsupportedRequest(f"this door knows no request {request[:100]!r}", request=request[:100])

    def statistics(self) -> dict[str, int | float]:
        """Counters and gauges for metrics, by name."""
        return {}


class DoorContext(msgspec.Struct, frozen=True):
    """What the core gives a door when it makes one.

    Attributes:
      broker: topics, partitions, publishing and reading; see :class:`trunkline.broker.Broker`.
      settings: an instance of the settings class that the door was registered with, or None.
    """

    broker: Broker
    settings: Any = None


class WebSocketOffer(msgspec.Struct, frozen=True):
    """A door that can be reached over WebSocket too, as the listener ``NAME-ws``. Registered with the door.

    Its connections notice nothing: the bytes of all binary messages are one stream.

    Attributes:
      path: of the URL, from its first slash on; ``/`` is taken as well.
      subprotocols: that are spoken here; a client that asks for none of them is refused.
    """

    path: str
    subprotocols: tuple[str, ...]


DoorFactory = Callable[[DoorContext], Door]
"""What a protocol registers: called once, at start, for each door that is opened."""
