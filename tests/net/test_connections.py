"""Connections from accept to end, over real sockets, on both pollers."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from trunkline.errors import RemoteProtocolError
from trunkline.net import transport

if TYPE_CHECKING:
    from tests.net.conftest import Bench
from trunkline.net.receiving import ReceivingTransport

pytestmark = pytest.mark.trio


def over(bench: Bench) -> bool:
    return bench.reactor.connection_count == 0


async def test_what_is_written_arrives_in_order(bench: Bench) -> None:
    client, _ = await bench.connect()
    await bench.echo(client, bytes(range(256)) * 20_000)
    await client.aclose()


async def test_a_hundred_clients_at_once(bench: Bench) -> None:
    async def one(number: int) -> None:
        client, _ = await bench.connect(b"client %d" % number)
        async with client:
            await bench.echo(client, b"%d" % number * 1000)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    await bench.until(lambda: over(bench))
    assert len(bench.door.peers) == 100


async def test_peer_and_local_address_are_known(bench: Bench) -> None:
    client, peer = await bench.connect()
    async with client:
        host, port = client.socket.getsockname()
        assert peer.transport.peer == f"{host}:{port}"
        assert peer.transport.local == bench.address


async def test_the_system_looks_whether_a_silent_peer_is_there(bench: Bench) -> None:
    """One that is lost, with no timeout of its protocol (MQTT, keep-alive 0), would count as connected for ever."""
    _, peer = await bench.connect()
    assert isinstance(peer.transport, ReceivingTransport)
    assert peer.transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_a_client_that_leaves_ends_its_connection_cleanly(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.aclose()
    await bench.until(lambda: over(bench))
    assert peer.events == ["data", ("closed", None)]
    assert peer.transport.is_closing
    peer.transport.write(b"dropped")
    peer.transport.close()
    peer.transport.abort()


async def test_last_words_and_the_end_that_came_with_them_are_both_seen(bench: Bench) -> None:
    client, peer = await bench.connect()
    os.write(client.socket.fileno(), b"bye")
    client.socket.shutdown(socket.SHUT_WR)  # the reactor, in the same thread, has not looked since
    await bench.until(lambda: over(bench))
    assert peer.events == ["data", "data", ("closed", None)]
    assert peer.received == len(b"hellobye")


async def test_so_are_those_of_a_peer_that_ends_before_it_was_accepted(bench: Bench) -> None:
    with socket.create_connection(bench.address) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        await bench.until(lambda: bool(bench.door.peers) and over(bench))
    assert bench.door.peers[0].events == ["data", ("closed", None)]


async def test_what_a_round_leaves_unread_is_read_though_nothing_more_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, peer = await bench.connect()
    monkeypatch.setattr(transport, "READ_BYTES", 100)
    monkeypatch.setattr(transport, "ROUND_BYTES", 100)
    assert os.write(client.socket.fileno(), bytes(10_000)) == 10_000
    await bench.until(lambda: peer.received == 5 + 10_000)


async def test_what_arrived_during_a_pause_is_read_after_it(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.pause()
    os.write(client.socket.fileno(), b"are you there")
    client.socket.shutdown(socket.SHUT_WR)
    for _ in range(10):
        bench.reactor.rounds.request()
        await bench.reactor.wait_round()
    assert peer.events == ["data"]
    peer.transport.resume()
    await bench.until(lambda: over(bench))
    assert peer.events == ["data", "data", ("closed", None)]


async def test_a_reset_is_told_as_an_error(bench: Bench) -> None:
    client, peer = await bench.connect()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()
    await bench.until(lambda: over(bench))
    (_, (_, error)) = peer.events
    assert isinstance(error, ConnectionResetError)


async def test_a_reset_while_much_is_waiting_to_be_sent_ends_it(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"flood")
    await bench.until(lambda: peer.transport.is_congested)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()
    await bench.until(lambda: over(bench))
    assert isinstance(peer.events[-1][1], OSError)


async def test_closing_sends_everything_written_before_and_nothing_after(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"close")
    assert await bench.receive_all(client) == bytes(1_000_000)
    await bench.until(lambda: over(bench))
    assert peer.events[-1] == ("closed", None)
    await client.aclose()


async def test_abort_sends_nothing_more_and_comes_back_before_closed_is_called(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"abort")
    assert await bench.receive_all(client) == b""
    assert peer.events[-1] == ("closed", None)
    await client.aclose()


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [(b"bug", ZeroDivisionError, "internal error"), (b"rude", RemoteProtocolError, "that was rude")],
)
async def test_a_connection_that_raises_is_closed_and_logged_and_the_others_go_on(
    bench: Bench, caplog: pytest.LogCaptureFixture, command: bytes, kind: type[Exception], words: str
) -> None:
    other, _ = await bench.connect()
    client, peer = await bench.connect()
    await client.send_all(command)
    assert await bench.receive_all(client) == b"last words"
    (_, error) = peer.events[-1]
    assert isinstance(error, kind)
    (logged,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"{peer.transport.peer}: closed" in logged.getMessage()
    assert words in logged.getMessage()
    assert bool(logged.exc_info) == (kind is ZeroDivisionError)
    await bench.echo(other, b"still here")
    await other.aclose()
    await client.aclose()


async def test_a_door_may_refuse_a_peer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.door.refuses = True
    client = await trio.open_tcp_stream(*bench.address)
    assert await bench.receive_all(client) == b""
    assert "refused by the door" in caplog.text
    assert over(bench)
    bench.door.refuses = False
    second, _ = await bench.connect()
    await second.aclose()
    await client.aclose()


async def test_writes_from_outside_a_round_are_sent(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.write(b"from a task")
    assert await bench.receive(client, 11) == b"from a task"
    peer.transport.write(b"good bye")
    peer.transport.close()
    assert await bench.receive_all(client) == b"good bye"
    await client.aclose()


async def test_empty_writes_are_nothing(bench: Bench) -> None:
    client, peer = await bench.connect()
    for data in (b"", b"a", b"", b"b", b""):
        peer.transport.write(data)
    assert await bench.receive(client, 2) == b"ab"
    peer.transport.write(b"")
    await bench.echo(client, b"fine")
    await client.aclose()


# -- slow readers --------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_costs_a_bounded_buffer_and_nobody_else(bench: Bench) -> None:
    other, _ = await bench.connect()
    client, peer = await bench.connect()
    await client.send_all(b"flood")
    await bench.until(lambda: peer.transport.is_congested)
    received = peer.received
    with trio.move_on_after(0.05):  # until its own socket is full: the server does not read from it
        while True:
            await client.send_all(bytes(100_000))
    assert peer.received == received
    assert bench.reactor.statistics().connections == 2
    assert peer.transport.outbound_bytes <= bench.reactor.limits.max_outbound_bytes + 100_000
    await bench.echo(other, b"unharmed" * 10_000)
    await other.aclose()
    await client.aclose()


async def test_a_connection_that_pauses_is_told_nothing_more_until_it_resumes(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.pause()
    await client.send_all(b"later")
    other, _ = await bench.connect()  # which takes some rounds
    assert await bench.receive(other, 0) == b""
    assert peer.received == len(b"hello")
    peer.transport.resume()
    assert await bench.receive(client, 5) == b"later"
    peer.transport.resume()  # it is not paused
    await bench.echo(client, b"and so on")


async def test_a_client_that_reads_again_makes_its_connection_writable_once(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"flood")
    await bench.until(lambda: peer.transport.is_congested)
    assert "writable" not in peer.events
    sent = peer.transport.outbound_bytes
    await bench.receive(client, sent)
    await bench.until(lambda: not peer.transport.is_congested)
    assert peer.events.count("writable") == 1
    while peer.transport.outbound_bytes:
        await client.receive_some(100_000)
    await client.aclose()


async def test_a_producer_that_waits_for_writable_can_send_any_amount(bench: Bench) -> None:
    client, peer = await bench.connect()
    left = [20]

    def more() -> None:
        left[0] -= 1
        if left[0]:
            peer.flood()
        else:
            peer.transport.close()

    peer.writable = more  # type: ignore[method-assign]  # this one goes on until it has flooded twenty times
    await client.send_all(b"flood")
    assert len(await bench.receive_all(client)) >= 20 * 500_000
    await client.aclose()


async def test_who_was_rude_may_finish_writing_before_it_reads_why(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"rude")
    await bench.until(lambda: peer.transport._has_sent_end)
    for _ in range(3):
        await client.send_all(bytes(50_000))
    assert await bench.receive_all(client) == b"last words"
    await client.send_eof()
    await bench.until(lambda: not bench.reactor.connections)
    assert peer.events.count("data") == 2  # hello, rude


# -- time: check_time is called once a second with the time; here it is called with any time at all -----


async def test_who_was_rude_and_sends_on_and_on_is_closed(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"rude")
    await bench.until(lambda: peer.transport._has_sent_end)
    with trio.fail_after(20), contextlib.suppress(trio.BrokenResourceError):
        while bench.reactor.connections:
            await client.send_all(bytes(100_000))
    assert peer.transport.is_closing


async def test_who_was_rude_and_does_not_go_is_closed(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"rude")
    await bench.until(lambda: peer.transport._has_sent_end)
    peer.transport.check_time(bench.reactor.now + 1.9)
    assert bench.reactor.connections == [peer.transport]
    peer.transport.check_time(bench.reactor.now + 2)
    assert bench.reactor.connections == []


async def test_a_silent_client_is_told_and_closed_after_the_idle_timeout(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.idle_timeout_s = 10
    (transport,) = bench.reactor.connections
    transport.check_time(transport.last_received + 9.9)
    assert peer.events == ["data"]
    transport.check_time(transport.last_received + 10)
    assert await bench.receive_all(client) == b"too slow"
    assert peer.events == ["data", "timed out", ("closed", None)]
    await client.aclose()


async def test_data_renews_the_idle_timeout(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.idle_timeout_s = 10
    (transport,) = bench.reactor.connections
    transport.last_received -= 9.9
    await bench.echo(client, b"still here")
    transport.check_time(bench.reactor.now + 5)
    assert "timed out" not in peer.events
    await client.aclose()


async def test_one_that_only_reads_what_is_waiting_for_it_is_not_idle(bench: Bench) -> None:
    client, peer = await bench.connect()
    await client.send_all(b"flood")
    await bench.until(lambda: peer.transport.is_congested)
    peer.transport.idle_timeout_s = 10
    peer.transport.last_received -= 9.9
    waiting = peer.transport.outbound_bytes
    while peer.transport.outbound_bytes == waiting:
        await client.receive_some(100_000)
    peer.transport.check_time(bench.reactor.now + 5)
    assert "timed out" not in peer.events
    peer.transport.check_time(bench.reactor.now + 11)
    assert "timed out" in peer.events


async def test_one_that_does_not_introduce_itself_in_time_is_closed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client, peer = await bench.connect(b"")
    await client.send_all(b"anonymous")
    await bench.until(lambda: bool(peer.events))
    (transport,) = bench.reactor.connections
    timeout_s = bench.reactor.limits.handshake_timeout_s
    transport.check_time(bench.reactor.now + timeout_s - 1)
    assert not over(bench)
    transport.check_time(bench.reactor.now + timeout_s)
    assert over(bench)
    assert await bench.receive_all(client) == b""
    assert "did not introduce itself in time" in caplog.text
    await client.aclose()


async def test_one_that_has_introduced_itself_has_no_deadline(bench: Bench) -> None:
    client, _ = await bench.connect()
    (transport,) = bench.reactor.connections
    transport.check_time(bench.reactor.now + 1e9)
    await bench.echo(client, b"still here")
    await client.aclose()


async def test_one_that_does_not_take_its_last_words_is_dropped(bench: Bench) -> None:
    client, peer = await bench.connect()
    peer.transport.write(bytes(20_000_000))
    peer.transport.close()
    await bench.echo((await bench.connect())[0], b"a round has passed")
    (transport,) = [one for one in bench.reactor.connections if one is peer.transport]
    transport.check_time(bench.reactor.now + 4)
    assert ("closed", None) not in peer.events
    transport.check_time(bench.reactor.now + 6)
    assert peer.events[-1] == ("closed", None)
    await client.aclose()
