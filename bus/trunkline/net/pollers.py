"""Waiting for sockets: an epoll nested in trio's own, or a task per socket where there is no epoll.

Both report a socket that was not drained again, unless its mask says EDGE: that is reported when something has
arrived since, and whoever has not read it all says :meth:`Poller.again`. An epoll that is not asked for edges looks at
each socket that it has reported a second time, when it is next waited for, only to find that nothing is left. A poller
belongs to the reactor's task; ``wake`` alone may be called from any thread.
"""

from __future__ import annotations

import os
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from trunkline.changes import Changes

__all__ = ["EDGE", "END", "READ", "WRITE", "EpollPoller", "Handler", "Poller", "TaskPoller", "open_poller"]

READ: Final = 1
WRITE: Final = 4
END: Final = 0x2000  # with READ: say so if the peer has sent its end; what is behind it is one edge with what is before
EDGE: Final = 1 << 31
# epoll's own bits, so that masks need no translation; ERR (8) and HUP (16) come unasked and mean "read and see".
_MAX_EVENTS: Final = 1024


class Handler(Protocol):
    """Whose socket it is. An object and not a function: one less to touch for each socket, and to keep."""

    def on_ready(self, mask: int) -> None:
        """The socket is ready for ``mask``."""


class Poller(ABC):
    """Says which sockets are ready."""

    @abstractmethod
    def register(self, sock: socket.socket, mask: int, handler: Handler) -> None:
        """Call ``handler.on_ready`` from now on when ``sock`` is ready for ``mask`` (READ, WRITE, 0 or both).

        END and EDGE are hints, which a poller may not know.
        """

    @abstractmethod
    def modify(self, sock: socket.socket, mask: int) -> None:
        """Wait for ``mask`` from now on; what is ready already is reported, with EDGE too."""

    def again(self, sock: socket.socket, mask: int) -> None:
        """A socket with EDGE in its ``mask`` was not drained: report it in the next round."""
        self.modify(sock, mask)

    @abstractmethod
    def unregister(self, sock: socket.socket) -> None:
        """Forget a socket, before it is closed."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until a socket is ready or ``wake`` was called. A checkpoint; cancellation changes nothing."""

    @abstractmethod
    async def wait_woken(self) -> None:
        """Wait until ``wake`` was called, whatever the sockets do."""

    @abstractmethod
    def collect(self) -> bool:
        """Note what is ready now, without waiting, for ``dispatch``; False: nothing happened, not even a ``wake``."""

    @abstractmethod
    def dispatch(self) -> None:
        """Call the handlers of what was collected and is still registered."""

    @abstractmethod
    def wake(self) -> None:
        """Make the current or next ``wait`` return. From any thread."""

    @abstractmethod
    def close(self) -> None:
        """Release what the poller itself holds."""


class _Woken:
    """The handler of what ``wake`` writes to."""

    def __init__(self, eventfd: int) -> None:
        self._eventfd = eventfd

    def on_ready(self, mask: int) -> None:
        os.eventfd_read(self._eventfd)


class EpollPoller(Poller):
    """One epoll for all sockets. An epoll is itself readable when something in it is: trio waits for that."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._eventfd, READ)
        self._handlers: dict[int, Handler] = {self._eventfd: _Woken(self._eventfd)}
        self._events: list[tuple[int, int]] = []

    def register(self, sock: socket.socket, mask: int, handler: Handler) -> None:
        fd = sock.fileno()
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def modify(self, sock: socket.socket, mask: int) -> None:
        self._epoll.modify(sock.fileno(), mask)

    def unregister(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._epoll.fileno())

    async def wait_woken(self) -> None:
        await trio.lowlevel.wait_readable(self._eventfd)

    def collect(self) -> bool:
        self._events = self._epoll.poll(0, _MAX_EVENTS)
        return bool(self._events)

    def dispatch(self) -> None:
        find = self._handlers.get
        for fd, mask in self._events:
            handler = find(fd)
            if handler is not None:  # else another one's handler has ended it just now
                handler.on_ready(mask)

    def wake(self) -> None:
        os.eventfd_write(self._eventfd, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._eventfd)


class _Watched:
    """A socket, and the tasks that wait for it: one for each direction."""

    __slots__ = ("handler", "is_over", "mask", "resumed", "scopes")

    def __init__(self, mask: int, handler: Handler) -> None:
        self.mask = mask
        self.handler = handler
        self.scopes: list[trio.CancelScope] = []
        self.is_over = False
        self.resumed = Changes()

    def end(self) -> None:
        self.is_over = True
        for scope in self.scopes:
            scope.cancel()


class TaskPoller(Poller):
    """A task per socket and direction, for systems without epoll: the same rounds, at several times the cost."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._watched: dict[socket.socket, _Watched] = {}
        self._ready: dict[socket.socket, int] = {}
        self._is_woken = False
        self._woken = trio.Event()
        self._something = trio.Event()
        self._collected: dict[socket.socket, int] = {}

    def register(self, sock: socket.socket, mask: int, handler: Handler) -> None:
        self._watch(sock, _Watched(mask, handler))

    def modify(self, sock: socket.socket, mask: int) -> None:
        old = self._watched[sock]
        old.end()
        self._watch(sock, _Watched(mask, old.handler))

    def _watch(self, sock: socket.socket, watched: _Watched) -> None:
        self._watched[sock] = watched
        if watched.mask & READ:
            self._nursery.start_soon(self._wait_for, sock, watched, READ)
        if watched.mask & WRITE:
            self._nursery.start_soon(self._wait_for, sock, watched, WRITE)

    async def _wait_for(self, sock: socket.socket, watched: _Watched, direction: int) -> None:
        wait = trio.lowlevel.wait_readable if direction == READ else trio.lowlevel.wait_writable
        with trio.CancelScope() as scope:
            watched.scopes.append(scope)
            while not watched.is_over:  # it may be closed by now, and have a number that means another socket
                try:
                    await wait(sock)
                except (trio.ClosedResourceError, OSError):
                    return
                self._ready[sock] = self._ready.get(sock, 0) | direction
                self._something.set()
                await watched.resumed.wait()

    def again(self, sock: socket.socket, mask: int) -> None:
        pass  # it is anyway

    def unregister(self, sock: socket.socket) -> None:
        watched = self._watched.pop(sock, None)
        if watched is not None:
            watched.end()
            self._ready.pop(sock, None)
            trio.lowlevel.notify_closing(sock)

    async def wait(self) -> None:
        await self._something.wait()
        await trio.lowlevel.checkpoint()

    async def wait_woken(self) -> None:
        await self._woken.wait()
        await trio.lowlevel.checkpoint()

    def collect(self) -> bool:
        if not self._something.is_set():
            return False
        self._collected, self._ready = self._ready, {}
        self._something = trio.Event()
        self._woken = trio.Event()
        self._is_woken = False
        return True

    def dispatch(self) -> None:
        for sock, mask in self._collected.items():
            watched = self._watched.get(sock)
            if watched is not None:
                watched.resumed.tell()
                watched.handler.on_ready(mask)
        self._collected = {}

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._token.run_sync_soon(self._set_woken)

    def _set_woken(self) -> None:
        self._woken.set()
        self._something.set()

    def close(self) -> None:
        self._nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_poller(kind: str = "auto") -> AsyncIterator[Poller]:
    """The best poller here: epoll on Linux, else tasks. ``kind`` is ``auto``, ``epoll`` or ``tasks``."""
    if kind == "auto":
        kind = "epoll" if hasattr(select, "epoll") and hasattr(os, "eventfd") else "tasks"
    if kind == "epoll":
        poller = EpollPoller()
        try:
            yield poller
        finally:
            poller.close()
    else:
        async with trio.open_nursery() as nursery:
            yield TaskPoller(nursery)
            nursery.cancel_scope.cancel()
