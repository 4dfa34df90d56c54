"""A link's connection, with a protocol of lines, and an other side that says exactly what the test says."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trunkline.links import ConnectionEnded, LinkFailed, Peer, TlsSettings, WhereTo, open_peer
from trunkline.links.peer import OUTBOUND_BYTES, OUTBOUND_CHUNKS

pytestmark = pytest.mark.trio

WAIT_S = 30


class Lines:
    """A line is an event; ``?`` is answered with ``!``, ``no`` is the end."""

    def __init__(self, pulse_s: float = math.inf, silence_s: float = math.inf) -> None:
        self.pulse_s, self.silence_s = pulse_s, silence_s
        self.is_ready = False
        self._rest = b""
        self._answers = b""

    @property
    def doing(self) -> str:
        return "talking" if self.is_ready else "waiting for a greeting"

    def begin(self) -> bytes:
        return b"hello\n"

    def receive_data(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if b"no" in lines:
            raise ConnectionEnded("it says no", 7)
        self.is_ready = self.is_ready or b"welcome" in lines
        self._answers += b"!\n" * lines.count(b"?")
        return [line for line in lines if line != b"welcome"]

    def data_to_send(self) -> bytes:
        answers, self._answers = self._answers, b""
        return answers

    def pulse(self) -> bytes:
        return b".\n"

    def goodbye(self) -> bytes:
        return b"bye\n"


class Settings:
    ca_file = certificate = key = ""


TLS: TlsSettings = Settings()


def peer_on(stream: trio.abc.Stream, protocol: Lines | None = None) -> Peer[bytes]:
    return Peer(stream, protocol or Lines(), "there")


class OtherSide:
    """Listens; ``async with`` gives the stream of the one that connects."""

    def __init__(self) -> None:
        self._socket = trio.socket.socket()

    async def __aenter__(self) -> OtherSide:
        await self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def where(self) -> WhereTo:
        host, port = self._socket.getsockname()
        return WhereTo(host, port, False, "there")

    @asynccontextmanager
    async def accepted(self, greeting: bytes) -> AsyncIterator[trio.SocketStream]:
        connection, _ = await self._socket.accept()
        async with trio.SocketStream(connection) as stream:
            await read(stream, b"hello\n")
            await stream.send_all(greeting)
            yield stream


async def read(stream: trio.abc.Stream, wanted: bytes) -> None:
    """These bytes come next."""
    found = b""
    with trio.fail_after(WAIT_S):
        while len(found) < len(wanted):
            data = await stream.receive_some(len(wanted) - len(found))
            assert data, found
            found += data
    assert found == wanted


async def test_a_connection_from_its_greeting_to_its_goodbye() -> None:
    async with OtherSide() as other, trio.open_nursery() as nursery:

        async def serve() -> None:
            async with other.accepted(b"welcome\nearly\n?\nla") as stream:
                await read(stream, b"!\n")
                await stream.send_all(b"te\n")
                await read(stream, b"written\nbye\n")

        nursery.start_soon(serve)
        async with open_peer(other.where, TLS, peer_on, timeout_s=WAIT_S) as peer:
            assert await peer.receive() == [b"early", b"?"]
            assert await peer.receive() == [b"late"]
            peer.write(b"written\n")
            peer.push_back([b"again"])
            assert await peer.receive() == [b"again"]


async def test_an_end_while_connected_says_what_it_was_at() -> None:
    async with OtherSide() as other, trio.open_nursery() as nursery:

        async def serve() -> None:
            async with other.accepted(b"welcome\n"):
                pass

        nursery.start_soon(serve)
        async with open_peer(other.where, TLS, peer_on, timeout_s=WAIT_S) as peer:
            with pytest.raises(ConnectionEnded, match="there closed the connection while talking"):
                await peer.receive()


async def test_what_the_protocol_declares_an_end_keeps_its_kind_and_code() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"no\n")
    with pytest.raises(ConnectionEnded, match="there: it says no") as caught:
        await peer_on(ours).receive()
    assert caught.value.code == 7


async def test_what_was_said_before_the_connection_broke_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    """The task that sends notices first that nobody reads; why is what the one that receives may still find."""
    ours, theirs = trio.testing.memory_stream_pair()
    peer = peer_on(ours)
    await theirs.send_all(b"no\n")
    theirs.receive_stream.close()
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionEnded, match="it says no")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_forever)
            peer.write(b"x\n")
            await trio.testing.wait_all_tasks_blocked()
            await peer.receive()


async def test_a_greeting_that_does_not_come_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        where = WhereTo(host, port, False, "there")
        with pytest.raises(LinkFailed, match="there took longer than 5 s, waiting for a greeting"):
            async with open_peer(where, TLS, peer_on, timeout_s=5):
                pass


async def test_an_attempt_can_be_given_up() -> None:
    connecting = trio.CancelScope()
    connecting.cancel()
    with pytest.raises(LinkFailed, match="there was given up"):
        async with open_peer(WhereTo("127.0.0.1", 1, False, "there"), TLS, peer_on, timeout_s=5, connecting=connecting):
            pass


async def test_a_silent_other_side_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    with pytest.raises(LinkFailed, match="there is silent: nothing came for 15 s"):
        await peer_on(ours, Lines(silence_s=15)).receive()


async def test_the_pulse_goes_also_while_there_is_other_traffic(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    peer = peer_on(ours, Lines(pulse_s=10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send_forever)
        for _ in range(100):
            peer.write(b"x\n")
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    sent = bytes(await theirs.receive_some())
    assert (sent.count(b"x"), sent.count(b".") in (9, 10)) == (100, True)


async def test_an_other_side_that_sends_and_does_not_read_is_given_up() -> None:
    peer = peer_on(trio.testing.memory_stream_pair()[0])
    for _ in range(OUTBOUND_CHUNKS + 1):
        peer.write(b"answer")
    with pytest.raises(LinkFailed, match="there does not read what it is answered"):
        await peer.receive()


async def test_a_goodbye_is_not_put_into_the_middle_of_something_else(autojump_clock: trio.testing.MockClock) -> None:
    """What is cancelled while it is sent may be there in part."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = peer_on(ours)
    async with trio.open_nursery() as nursery:
        peer.write(b"a line\n")
        nursery.start_soon(peer.send_forever)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.close)
        assert await theirs.receive_some() == b"a line\n"
        assert await theirs.receive_some() == b""


async def test_whoever_finds_no_room_is_told_when_there_is_some() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    peer = peer_on(ours)
    told: list[bool] = []
    peer.on_room = lambda: told.append(peer.has_room)
    assert peer.has_room
    peer.write(b"x" * (OUTBOUND_BYTES + 1))
    assert not peer.has_room
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send_forever)
        with trio.fail_after(WAIT_S):
            await peer.wait_room()
        nursery.cancel_scope.cancel()
    assert told == [True]
    assert len(await theirs.receive_some()) == OUTBOUND_BYTES + 1
