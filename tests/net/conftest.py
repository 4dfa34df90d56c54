"""A reactor on each kind of poller, and a door whose connections do what their client says."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from trunkline.config import Limits
from trunkline.door import Connection, Door, Transport
from trunkline.errors import RemoteProtocolError
from trunkline.net.reactor import Reactor
from trunkline.net.transport import SocketTransport

KERNEL_BUFFER_BYTES = 32 * 1024
WAIT_S = 20.0  # for what should take milliseconds, on a machine that is busy with something else


class Peer(Connection):
    """The server's side of one connection. Echoes, except for the commands below; remembers what happened."""

    def __init__(self, transport: Transport) -> None:
        assert isinstance(transport, SocketTransport)
        self.transport = transport
        self.events: list[Any] = []
        self.received = 0
        self.is_called = False
        self.held = 0

    @property
    def held_bytes(self) -> int:
        return self.held

    def receive_data(self, data: bytes) -> None:
        self.is_called = True
        self.received += len(data)
        self.events.append("data")
        if b"anonymous".startswith(data):
            self.is_called = False
            return
        self.transport.established()
        command = {
            b"bug": self._bug,
            b"rude": self._rude,
            b"abort": self._abort,
            b"close": self._close,
            b"flood": self.flood,
        }.get(data)
        try:
            if command is None:
                self.transport.write(data)
            else:
                command()
        finally:
            self.is_called = False

    def _bug(self) -> None:
        self.transport.write(b"last words")
        raise ZeroDivisionError("a bug")

    def _rude(self) -> None:
        self.transport.write(b"last words")
        raise RemoteProtocolError("that was rude")

    def _abort(self) -> None:
        self.transport.write(b"never sent")
        self.transport.abort()

    def _close(self) -> None:
        self.transport.write(bytes(1_000_000))
        self.transport.close()
        self.transport.write(b"too late")

    def flood(self) -> None:
        """Write as a well-behaved producer does: until it is told that it is too much."""
        while not self.transport.is_congested:
            self.transport.write(bytes(100_000))

    def writable(self) -> None:
        self.events.append("writable")

    def timed_out(self) -> None:
        self.events.append("timed out")
        self.transport.write(b"too slow")

    def closed(self, error: Exception | None) -> None:
        assert not self.is_called, "called back out of its own call"
        self.events.append(("closed", error))


class TestDoor(Door):
    __test__ = False

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.refuses = False

    def connect(self, transport: Transport) -> Connection:
        if self.refuses:
            raise ConnectionRefusedError("not you")
        peer = Peer(transport)
        self.peers.append(peer)
        return peer


class Bench:
    """A reactor with the door open, and clients for it."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.door = TestDoor()
        self.clients: list[trio.SocketStream] = []
        self.address = reactor.listen(self.door, "test", "127.0.0.1", 0, None)
        # Accepted sockets inherit it: the kernel buffers megabytes otherwise, and nothing would ever be congested.
        reactor._listeners[-1]._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)

    async def connect(self, first: bytes = b"hello") -> tuple[trio.SocketStream, Peer]:
        """A client that has said something and got its echo, and the server's side of it."""
        known = len(self.door.peers)
        with trio.fail_after(WAIT_S):
            client = trio.SocketStream(trio.socket.socket())
            self.clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
            await client.socket.connect(self.address)
            if first:
                await client.send_all(first)
                assert await self.receive(client, len(first)) == first
            await self.until(lambda: len(self.door.peers) > known)
        return client, self.door.peers[-1]

    async def receive(self, client: trio.abc.ReceiveStream, size: int) -> bytes:
        """Exactly ``size`` bytes, or fewer if the server ends the connection."""
        data = bytearray()
        with trio.fail_after(WAIT_S):
            while len(data) < size:
                more = await client.receive_some(min(size - len(data), 1 << 20))
                if not more:
                    break
                data += more
        return bytes(data)

    async def receive_all(self, client: trio.abc.ReceiveStream) -> bytes:
        return await self.receive(client, 1 << 40)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor work until something is so."""
        with trio.fail_after(WAIT_S):
            while not condition():
                await trio.lowlevel.checkpoint()

    async def echo(self, client: trio.abc.Stream, data: bytes) -> None:
        """Send, and receive the same; both at once, because neither side buffers without bound."""
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, data)
                assert await self.receive(client, len(data)) == data

    def listen_tls(self, context: ssl.SSLContext) -> tuple[str, int]:
        return self.reactor.listen(self.door, "test", "127.0.0.1", 0, context)


@pytest.fixture(params=["epoll", "tasks"])
def poller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def limits() -> Limits:
    """What a module may replace with its own."""
    return Limits(max_outbound_bytes=1_000_000)


@pytest.fixture
async def bench(poller: str, limits: Limits) -> AsyncIterator[Bench]:
    async with Reactor.open(limits, poller=poller) as reactor:
        bench = Bench(reactor)
        yield bench
        for client in bench.clients:
            client.socket.close()
