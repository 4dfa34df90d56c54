"""Reading from one peer's socket: bounded bites, or right to where a large frame is put together.

Bounds: a peer is read in bites of READ_BYTES, about ROUND_BYTES in a round, so no peer can hold up the others; before
it has introduced itself, little in all. What belongs to a large frame goes right to where that is put together
(:mod:`trunkline.partial`), in larger bites.
"""

from __future__ import annotations

import math
import socket
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

from trunkline.door import Connection, Transport
from trunkline.errors import RemoteProtocolError
from trunkline.net.outbound import Outbound
from trunkline.net.pollers import EDGE, END, READ

if TYPE_CHECKING:
    from trunkline.net.reactor import Reactor

__all__ = ["BEHIND_BYTES", "LISTEN", "READ_BYTES", "ROUND_BYTES", "ReceivingTransport"]

READ_BYTES: Final = 65536
"""Larger bites make glibc map and unmap each buffer, which costs more than the copy."""

ROUND_BYTES: Final = 4 * READ_BYTES
"""More bytes in a round share its write, its flush and its wake-up; 100 KB batches gain a third over one bite."""

BEHIND_BYTES: Final = 4096
"""So much is read of what follows a large frame: the next one's head, but little of it that must be copied then."""

LISTEN: Final = READ | END | EDGE
"""What a socket is watched for that is read from and takes what is written."""


class ReceivingTransport(Outbound, Transport):
    """What :class:`trunkline.net.transport.SocketTransport` is to the peer's bytes.

    Attributes:
      connection: who gets them; None when it has failed, or ended.
      last_received: when something came, by ``reactor.now``.
    """

    _is_plain: ClassVar = True  # what arrives is what the connection gets

    __slots__ = (
        "_allowance",
        "_is_flowing",
        "_mask",
        "_reactor",
        "_sock",
        "_takes_bites",
        "connection",
        "deadline",
        "is_closing",
        "last_received",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._mask = LISTEN
        self._is_flowing = True  # is neither closed, nor paused, nor waited for: the mask is LISTEN
        self._takes_bites = False  # needs nothing of what `_read` does besides
        self._allowance = reactor.limits.pre_handshake_bytes  # that may still arrive; -1 once established
        self.connection: Connection | None = None
        self.deadline = reactor.now + reactor.limits.handshake_timeout_s
        self.is_closing = False
        self.last_received = reactor.now

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """The connection raised."""

    @abstractmethod
    def _lost(self, error: Exception | None) -> None:
        """The socket is of no more use."""

    def established(self) -> None:
        self.deadline = math.inf
        self._allowance = -1
        self._takes_bites = self._is_plain and getattr(type(self.connection), "partial", 0) is None

    @abstractmethod
    def _on_other(self, mask: int) -> None:
        """Something is ready, and not just a bite to be taken."""

    def on_ready(self, mask: int) -> None:
        """The poller's call. Nearly always nothing is special, and it does the reading itself."""
        if mask != READ or not self._is_flowing or not self._takes_bites:
            self._on_other(mask)
            return
        self.last_received = self._reactor.now
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not data:
            self._lost(None)
            return
        try:
            self.connection.receive_data(data)  # type: ignore[union-attr]  # None means that it does not flow
        except Exception as error:  # the boundary: one connection's failure ends that connection only
            self.fail(error)
        if len(data) == READ_BYTES and self._is_flowing:
            if self._reactor.rounds.is_saturated:
                self._reactor.poller.again(self._sock, self._mask)
            else:
                self._read(ROUND_BYTES - READ_BYTES)

    def _read(self, left: int = ROUND_BYTES) -> None:
        """Read so many bytes, or a bite more."""
        reactor = self._reactor
        self.last_received = reactor.now
        while left > 0:
            allowance = self._allowance
            room = None if allowance >= 0 else self._room()
            try:
                if room is None:
                    wanted = READ_BYTES if allowance < 0 else allowance
                    data = self._sock.recv(wanted)
                    size = len(data)
                else:
                    wanted = len(room) + BEHIND_BYTES
                    size = self._sock.recvmsg_into((room, reactor.behind))[0]
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error)
                return
            if not size:
                self._lost(None)
                return
            if room is None:
                self.received(data)
                if allowance >= 0:
                    self._spend_allowance(size)
            else:
                self._received_into(len(room), size)
            left -= size
            if size < wanted:
                return  # that was all: what comes next is another edge
            if not self._mask & READ or self.is_closing or reactor.rounds.is_saturated:
                break
        else:
            reactor.much_received()
        if self._mask & READ:
            reactor.poller.again(self._sock, self._mask)

    @property
    def held_bytes(self) -> int:
        """See :attr:`trunkline.door.Connection.held_bytes`."""
        return 0 if self.connection is None else self.connection.held_bytes

    def _room(self) -> memoryview | None:
        """Where the connection would have what comes next; None: in a bite."""
        connection = self.connection
        if connection is None or connection.partial is None:
            return None
        room = connection.partial.room
        return None if room is None else room[:ROUND_BYTES]

    def _received_into(self, room: int, size: int) -> None:
        """So much came: into a room of so many bytes, and behind it."""
        connection = self.connection
        assert connection is not None
        partial = connection.partial
        assert partial is not None
        partial.filled(min(size, room))
        if size > room or partial.is_whole:
            self.received(bytes(self._reactor.behind[: max(0, size - room)]))

    def _spend_allowance(self, size: int) -> None:
        if self._allowance < 0:
            return  # it has introduced itself just now
        self._allowance -= size
        if self._allowance <= 0 and not self.is_closing:
            limit = self._reactor.limits.pre_handshake_bytes
            self.fail(RemoteProtocolError(f"sent {limit} bytes without introducing itself"))

    def received(self, data: bytes) -> None:
        """Give bytes to the connection; its errors end here."""
        connection = self.connection
        if connection is None or self.is_closing:
            return
        try:
            connection.receive_data(data)
        except Exception as error:  # the boundary: one connection's failure ends that connection only
            self.fail(error)
