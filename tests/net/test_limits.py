"""What bounds strangers: how many, how much before they say who they are, and files that run out."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline.config import Limits
from trunkline.errors import ListenFailed
from trunkline.net import reactor as net_reactor
from trunkline.net.listener import bind

if TYPE_CHECKING:
    from tests.net.conftest import Bench

pytestmark = pytest.mark.trio

CROWD = 2_000


@pytest.fixture
def limits() -> Limits:
    return Limits(pre_handshake_bytes=1000)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this user may open {hard} files; the test needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_before_it_is_known_a_peer_may_send_so_much_and_no_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = await bench.connect(b"")
    for number in range(1, 112):
        await client.send_all(b"anonymous")
        await bench.until(lambda number=number: bench.door.peers[0].received == 9 * number)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    assert bench.reactor.connection_count == 1
    await client.send_all(b"a")
    assert await bench.receive_all(client) == b""
    assert "sent 1000 bytes without introducing itself" in caplog.text
    assert bench.door.peers[0].received == 1000


async def test_a_peer_that_is_known_may_send_any_amount(bench: Bench) -> None:
    client, _ = await bench.connect()
    await bench.echo(client, bytes(100_000))


@pytest.mark.usefixtures("many_files")
async def test_a_crowd_that_says_nothing_keeps_nobody_from_being_served(bench: Bench) -> None:
    crowd = [socket.create_connection(bench.address) for _ in range(CROWD)]
    await bench.until(lambda: bench.reactor.connection_count == CROWD)
    client, _ = await bench.connect()
    await bench.echo(client, b"I am served")
    for transport in bench.reactor.connections:
        transport.check_time(bench.reactor.now + 16)
    assert bench.reactor.connection_count == 1
    await bench.echo(client, b"still")
    for one in crowd:
        one.close()


async def test_over_the_limit_connections_are_refused_until_one_leaves(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.reactor.limits = Limits(max_connections=1)
    first, _ = await bench.connect()
    for _ in range(3):
        second = await trio.open_tcp_stream(*bench.address)
        bench.clients.append(second)
        assert await bench.receive_all(second) == b""
    assert bench.reactor.statistics().refused_connections == 3
    assert caplog.text.count("limits.max_connections=1 is reached") == 1
    (listener,) = bench.reactor._listeners
    monkeypatch.setattr(listener, "_tell_at", 0.0)  # the minute is over
    async with await trio.open_tcp_stream(*bench.address) as third:
        assert await bench.receive_all(third) == b""
    assert "limits.max_connections=1 is reached (4 refused so far)" in caplog.text
    await first.aclose()
    await bench.until(lambda: bench.reactor.connection_count == 0)
    await bench.connect()


async def test_who_holds_most_goes_when_all_together_hold_too_much(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.reactor.limits = Limits(max_unfinished_bytes=100_000)
    (little, first), (most, second), (some, third) = [await bench.connect() for _ in range(3)]
    first.held, second.held, third.held = 10_000, 60_000, 30_000
    bench.reactor.check_held()
    await bench.echo(most, b"just enough")
    third.held += 1
    bench.reactor.check_held()
    assert await bench.receive_all(most) == b""
    assert "60000 bytes of what it sends are not complete, and 100001 of all connections" in caplog.text
    await bench.echo(little, b"still here")
    await bench.echo(some, b"so am I")


async def test_who_held_nothing_at_the_last_look_is_looked_at_once_it_has_sent_more(bench: Bench) -> None:
    bench.reactor.limits = Limits(max_unfinished_bytes=100_000)
    client, peer = await bench.connect()
    for _ in range(2):
        bench.reactor.check_held()
    await bench.echo(client, b"more")
    peer.held = 100_001
    bench.reactor.check_held()
    assert await bench.receive_all(client) == b""


async def test_who_sends_much_is_looked_at_before_the_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_reactor, "CHECK_BYTES", 1_000_000)
    looked = []
    monkeypatch.setattr(bench.reactor, "check_held", lambda: looked.append(bench.reactor._unchecked_bytes))
    client, peer = await bench.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.receive, client, 20_000_000)
        await client.send_all(bytes(20_000_000))
        await bench.until(lambda: peer.received == 20_000_005)
    assert looked


async def test_a_port_in_use_is_named_with_what_to_do(bench: Bench) -> None:
    host, port = bench.address
    with pytest.raises(ListenFailed, match=f"mqtt: cannot listen on {host}:{port}: Address already in use; another"):
        bind(host, port, "mqtt")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
async def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(ListenFailed, match=host):
        bind(host, 0, "mqtt")


async def test_nobody_is_accepted_after_listening_ends(bench: Bench) -> None:
    client, _ = await bench.connect()
    bench.reactor.stop_listening()
    with pytest.raises(OSError, match=r"refused|connect"):
        await trio.open_tcp_stream(*bench.address)
    await bench.echo(client, b"who is in stays in")


PROLOGUE = """
import os, resource, socket, sys, logging
import trio
from trunkline.config import Limits
from trunkline.door import Connection, Door
from trunkline.net.reactor import Reactor

class Echo(Connection):
    def __init__(self, transport): self.transport = transport
    def receive_data(self, data): self.transport.write(data)
    def closed(self, error): pass

class EchoDoor(Door):
    def connect(self, transport): return Echo(transport)

def files_until_there_are_no_more():
    try:
        while True:
            yield os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return

async def main():
    logging.basicConfig(stream=sys.stdout)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    with trio.fail_after(20):
        async with Reactor.open(Limits(), poller=sys.argv[1]) as reactor:
            address = reactor.listen(EchoDoor(), "echo", "127.0.0.1", 0, None)
            first = await trio.open_tcp_stream(*address)
            while not reactor.connection_count:
                await trio.lowlevel.checkpoint()
            clients = [socket.socket() for _ in range(40)]
"""

OUT_OF_FILES = """
            taken = list(files_until_there_are_no_more())
            for client in clients:
                client.connect(address)
            while not reactor._listeners[0]._is_paused:
                await trio.lowlevel.checkpoint()
            rounds = reactor.statistics().rounds
            await first.send_all(b"who is in is served")
            assert await first.receive_some(100) == b"who is in is served"
            assert reactor.statistics().rounds < rounds + 10, "it spins"
            for file in taken:
                os.close(file)
            reactor._listeners[0].resume()
            while reactor.connection_count < 41:
                await trio.lowlevel.checkpoint()
            print("all are served")
            for client in clients:
                client.close()
            await first.aclose()

trio.run(main)
"""

NEARLY_OUT_OF_FILES = """
            taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(80)]
            for client in clients:
                client.connect(address)
            while reactor.connection_count + reactor.statistics().refused_connections < 41:
                await trio.lowlevel.checkpoint()
            assert reactor.connection_count > 1
            assert reactor.statistics().refused_connections > 1
            left = list(files_until_there_are_no_more())
            assert len(left) >= 50, "a quarter is for the stores"
            await first.send_all(b"who is in is served")
            assert await first.receive_some(100) == b"who is in is served"
            for file in taken + left:
                os.close(file)
            async with await trio.open_tcp_stream(*address) as later:
                await later.send_all(b"and so is who comes later")
                assert await later.receive_some(100) == b"and so is who comes later"
            print("all are served")
            for client in clients:
                client.close()
            await first.aclose()

trio.run(main)
"""


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (OUT_OF_FILES, "cannot accept connections: [Errno 24]"),
        (NEARLY_OUT_OF_FILES, "of 200 open files the rest is kept"),
    ],
    ids=["none", "few"],
)
async def test_out_of_files_it_serves_who_is_in_and_accepts_again_later(poller: str, then: str, says: str) -> None:
    done = subprocess.run(  # noqa: ASYNC221 - a process of its own, for its own limit
        [sys.executable, "-W", "error", "-c", PROLOGUE + then, poller], capture_output=True, text=True, timeout=60
    )
    assert "all are served" in done.stdout, done.stderr
    assert done.stdout.count(says) == 1
