"""Accepting connections for one door on one address."""

from __future__ import annotations

import errno
import logging
import math
import resource
import socket
import ssl
from typing import TYPE_CHECKING, Final

from trunkline.door import Door
from trunkline.errors import ListenFailed
from trunkline.net.pollers import READ
from trunkline.net.tls import TlsTransport
from trunkline.net.transport import SocketTransport

if TYPE_CHECKING:
    from trunkline.net.reactor import Reactor

__all__ = ["Listener", "bind"]

logger = logging.getLogger("trunkline.net")

BACKLOG: Final = 4096  # a fleet of devices reconnects at once after a restart
_ACCEPTS_PER_ROUND: Final = 64
KEPT_FILES: Final = 1024
"""Of those that may be open, but a quarter at most, connections leave so many to the stores: without a file for a new
segment a log could not go on."""

TELL_EVERY_S: Final = 60.0
"""Those who are refused are told of in the log so often, with their number."""

_NO_MORE_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def bind(host: str, port: int, door_name: str) -> socket.socket:
    """A listening socket. Raises ListenFailed saying why and what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenFailed(f"{door_name}: {host}:{port} is no address here: {error.strerror}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Those that are accepted inherit it: a peer that is gone without a word, and has no timeout of its own (an MQTT
        # client with keep-alive 0), is found by the system some time, and does not count as connected for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        in_use = error.errno == errno.EADDRINUSE
        hint = "; another program listens there: stop it or choose another port" if in_use else ""
        raise ListenFailed(
            f"{door_name}: cannot listen on {host}:{port}: {error.strerror}{hint}", door=door_name
        ) from None
    sock.setblocking(False)
    return sock


class Listener:
    """A bound address of a door; belongs to the reactor."""

    def __init__(
        self, reactor: Reactor, door: Door, door_name: str, sock: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        self._reactor = reactor
        self._door = door
        self._door_name = door_name
        self._sock = sock
        self._tls = tls
        self._is_paused = False
        self._tell_at = -math.inf
        self.refused = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()[:2]
        return host, port

    def start(self) -> None:
        self._reactor.poller.register(self._sock, READ, self)

    def on_ready(self, mask: int) -> None:
        for _ in range(_ACCEPTS_PER_ROUND):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_MORE_FILES:
                    self._pause(error)
                    return
                continue  # the peer gave up before it was accepted
            self._welcome(sock, address)

    def _welcome(self, sock: socket.socket, address: tuple[str, int]) -> None:
        peer = f"{address[0]}:{address[1]}" if ":" not in address[0] else f"[{address[0]}]:{address[1]}"
        reactor = self._reactor
        reason = self._refusal(sock)
        if reason is not None:
            self.refused += 1
            if reactor.now >= self._tell_at:
                self._tell_at = reactor.now + TELL_EVERY_S
                logger.warning(
                    "%s %s: refused: %s (%d refused so far)", self._door_name, peer, reason, self.refused
                )  # fmt: skip
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            transport = SocketTransport(reactor, sock, peer, self._door_name)
        else:
            transport = TlsTransport(reactor, sock, peer, self._door_name, self._tls)
        try:
            connection = self._door.connect(transport)
        except Exception:  # the boundary: a door that cannot take this peer may take the next
            logger.exception("%s %s: refused by the door", self._door_name, peer)
            sock.close()
            return
        reactor.remember(transport)
        transport.start(connection)

    def _refusal(self, sock: socket.socket) -> str | None:
        """Why nobody more can be let in; None: there is room."""
        limit = self._reactor.limits.max_connections
        if self._reactor.connection_count >= limit:
            return f"limits.max_connections={limit} is reached"
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The system gives out the lowest number that is free, so a high one means that all below are in use.
        if files != resource.RLIM_INFINITY and sock.fileno() >= files - min(KEPT_FILES, files // 4):
            return f"of {files} open files the rest is kept for the stores; raise the open files limit"
        return None

    def _pause(self, error: OSError) -> None:
        """Out of files: accepting again at once would spin. The sweep resumes."""
        if not self._is_paused:
            logger.error("%s: cannot accept connections: %s; raise the open files limit", self._door_name, error)
            self._is_paused = True
            self._reactor.poller.modify(self._sock, 0)

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._reactor.poller.modify(self._sock, READ)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.poller.unregister(self._sock)
            self._sock.close()
