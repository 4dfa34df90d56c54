"""One peer's socket: read (:mod:`trunkline.net.receiving`), written once a round, and closed.

What is not sent yet waits; above ``max_outbound_bytes`` the transport is congested: the core stops reading from
that peer, and doors stop writing to it, until half has gone. A connection may pause reading too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from typing import TYPE_CHECKING, Final

from trunkline.door import Connection
from trunkline.errors import RemoteProtocolError
from trunkline.net.pollers import EDGE, END, READ, WRITE
from trunkline.net.receiving import LISTEN, READ_BYTES, ROUND_BYTES, ReceivingTransport

if TYPE_CHECKING:
    from trunkline.net.reactor import Reactor

__all__ = ["SocketTransport"]

logger = logging.getLogger("trunkline.net")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a peer that is being closed may take to read what was written to it."""

LINGER_S: Final = 2.0
"""How long what a peer still sends is read and dropped after it was told what it did wrong. Closing over it would have
the kernel answer with a reset, and a peer that is just writing would fail before it has read why."""

LINGER_BYTES: Final = 256 * 1024
"""So much of it, for what was on its way already; who sends more is not listening."""

_SENDMSG_BYTES: Final = 65536  # above this, gathering costs less than joining
_IOV_MAX: Final = 1024


class SocketTransport(ReceivingTransport):
    """A plain TCP peer. Belongs to the reactor."""

    __slots__ = (
        "_has_sent_end",
        "_is_lingering",
        "_is_paused",
        "_is_touched",
        "door_name",
        "idle_timeout_s",
        "is_congested",
        "peer",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket, peer: str, door_name: str) -> None:
        super().__init__(reactor, sock)
        self._is_touched = False
        self._is_paused = False
        self._is_lingering = False  # hears the peer's end before it closes, see LINGER_S
        self._has_sent_end = False
        self.door_name = door_name
        self.peer = peer
        self.idle_timeout_s = math.inf
        self.is_congested = False

    # -- for the connection ------------------------------------------------------------------------

    @property
    def local(self) -> tuple[str, int]:  # type: ignore[override]  # computed when asked, to keep idle peers small
        host, port = self._sock.getsockname()[:2]
        return host, port

    def write(self, data: bytes) -> None:
        if self.is_closing:
            return
        if self._only is None and self._parts is None:  # nearly always; `put` would be a call more
            self._only = data
            self.outbound_bytes = len(data)
        else:
            self.put(data)
        self._touch()
        if self.outbound_bytes > self._reactor.limits.max_outbound_bytes and not self.is_congested:
            self.is_congested = True
            self._update_mask()

    def _touch(self) -> None:
        """Have this round end with a ``flush``, or the next one."""
        if not self._is_touched:
            self._is_touched = True
            self._reactor.touched.append(self)
            if not self._reactor.is_in_round:
                self._reactor.rounds.request()

    def pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._update_mask()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._update_mask()

    def close(self) -> None:
        if not self.is_closing:
            self.is_closing = True
            self._is_flowing = False
            self.deadline = self._reactor.now + CLOSE_TIMEOUT_S
            self._touch()

    def abort(self) -> None:
        self.is_closing = True
        self._is_flowing = False
        self._is_lingering = False
        self.clear()
        self._touch()  # with nothing left to send it is over at the end of this round

    # -- for the reactor ---------------------------------------------------------------------------

    def _on_other(self, mask: int) -> None:
        if mask == READ and self._is_flowing:
            self._read()
            return
        if mask & WRITE:
            self.flush()
        if mask & ~WRITE and self._mask & READ:
            self._read()
            if mask & ~(WRITE | READ) and self._mask & READ and self._sock.fileno() >= 0:
                self._reactor.poller.again(self._sock, self._mask)  # its end, or an error, is behind what was read
        elif mask & ~(WRITE | READ | END):
            self._lost(ConnectionResetError("connection reset by peer"))

    def fail(self, error: Exception) -> None:
        """The connection raised: say so once, send what it had written, close."""
        called = self.connection.called if self.connection is not None else ""
        who = f"{self.door_name} {self.peer}{f' {called!r}' if called else ''}"
        if isinstance(error, RemoteProtocolError):
            logger.warning("%s: closed: %s", who, error)
        else:
            logger.error("%s: closed after an internal error", who, exc_info=error)
        connection, self.connection = self.connection, None
        self._is_lingering = True
        self.close()
        if connection is not None:
            self._tell_closed(connection, error)

    def _tell_closed(self, connection: Connection, error: Exception | None) -> None:
        try:
            connection.closed(error)
        except Exception:  # the boundary again
            logger.exception("%s %s: error while closing", self.door_name, self.peer)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self._is_touched = False
        waiting = self.outbound_bytes
        if waiting:
            only = self._only
            try:
                sent = self._sock.send(only) if only is not None else self._send()
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(error)
                return
            if sent == waiting and self._is_flowing:  # nearly always
                self._only = self._parts = None
                self.outbound_bytes = 0
                return
            self._sent(sent)
        if self.outbound_bytes:
            if not self._mask & WRITE:
                self._update_mask()
        elif self.is_closing:
            if self._is_lingering:
                self._linger()
            else:
                self._discard_input()
                self._lost(None)
        elif self._mask & WRITE:
            self._update_mask()

    def _linger(self) -> None:
        """Everything is sent: send the end too, and read on until the peer's."""
        if self._has_sent_end:
            return
        self._has_sent_end = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)
            return
        self.deadline = self._reactor.now + LINGER_S
        self._allowance = LINGER_BYTES
        self._mask = LISTEN
        self._reactor.poller.modify(self._sock, LISTEN)

    def _discard_input(self) -> None:
        """Take what has arrived unread: closing over it would reset the connection, and our last words with it."""
        with contextlib.suppress(OSError):
            for _ in range(ROUND_BYTES // READ_BYTES):
                if len(self._sock.recv(READ_BYTES)) < READ_BYTES:
                    break

    def _send(self) -> int:
        parts = self._parts
        assert parts is not None
        if self.outbound_bytes > _SENDMSG_BYTES and len(parts) <= _IOV_MAX:
            return self._sock.sendmsg(parts)
        return self._sock.send(b"".join(parts))

    def _sent(self, size: int) -> None:
        self.sent(size)
        if size and self.is_congested:
            self.last_received = self._reactor.now  # nothing is read from it, but it reads: it is there
        if self.is_congested and self.outbound_bytes <= self._reactor.limits.max_outbound_bytes // 2:
            self.is_congested = False
            self._update_mask()
            if self.connection is not None and not self.is_closing:
                try:
                    self.connection.writable()
                except Exception as error:  # the boundary
                    self.fail(error)

    def _update_mask(self) -> None:
        mask = EDGE if self.is_congested or self.is_closing or self._is_paused else LISTEN
        if self.outbound_bytes:
            mask |= WRITE
        if mask != self._mask and self._sock.fileno() >= 0:
            self._mask = mask
            self._is_flowing = mask == LISTEN and not self.is_closing
            self._reactor.poller.modify(self._sock, mask)

    def check_time(self, now: float) -> None:
        """Called about once a second: enforce the deadline and the idle timeout."""
        if now >= self.deadline:
            if not self.is_closing:
                logger.warning("%s %s: closed: did not introduce itself in time", self.door_name, self.peer)
            self._lost(None)
        elif now - self.last_received >= self.idle_timeout_s and not self.is_closing:
            if self.connection is not None:
                try:
                    self.connection.timed_out()
                except Exception as error:  # the boundary
                    self.fail(error)
            self.close()

    def _lost(self, error: Exception | None) -> None:
        """The socket is of no more use: release everything, tell the connection."""
        if self._sock.fileno() < 0:
            return
        self.is_closing = True
        self._is_flowing = False
        self.clear()
        self._reactor.forget(self)
        self._reactor.poller.unregister(self._sock)
        self._sock.close()
        connection, self.connection = self.connection, None
        if connection is not None:
            self._tell_closed(connection, error)

    def drop(self) -> None:
        """End it now. For the reactor; a connection must not be called back out of its own call: see ``abort``."""
        self._lost(None)

    def shutting_down(self) -> None:
        """Tell the connection that the broker is closing."""
        if self.connection is not None:
            try:
                self.connection.shutting_down()
            except Exception as error:  # the boundary
                self.fail(error)

    def end(self) -> None:
        """Close, and hear nobody out any more: the broker waits for it."""
        self._is_lingering = False
        if self._has_sent_end:
            self.drop()
        self.close()

    def start(self, connection: Connection) -> None:
        """Begin to read."""
        self.connection = connection
        self._reactor.poller.register(self._sock, self._mask, self)
