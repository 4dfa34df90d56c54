"""The door's side of consumptions, over raw sockets: what clients may not do, what breaks, what is slow."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.native.remembered import RememberedTransport

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.records import Record, decode_all, encode
from trunkline_native import frames as f
from trunkline_native import queue_frames as q
from trunkline_native.codec import FrameDecoder
from trunkline_native.codec import encode as encode_frame
from trunkline_native.connection import NativeConnection
from trunkline_native.settings import NativeSettings

pytestmark = pytest.mark.trio

WAIT_S = 30.0


class Peer:
    """A client that speaks frames."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.frames = FrameDecoder(f.SERVER_FRAMES, 2**30)
        self.ids = iter(range(1, 10_000))
        self.held: list[tuple[q.Run, list[Record]]] = []

    @classmethod
    async def connect(cls, port: int) -> Peer:
        peer = cls(await trio.open_tcp_stream("127.0.0.1", port))
        await peer.ask(f.Hello(0, [1], "raw"))
        return peer

    async def send(self, header: f.Header, body: bytes = b"") -> None:
        await self.stream.send_all(encode_frame(header, body))

    async def next(self) -> f.Frame:
        with trio.fail_after(WAIT_S):
            while not isinstance(event := self.frames.next_event(), f.Frame):
                self.frames.receive_data(await self.stream.receive_some(65536))
        return event

    async def ask(self, header: f.Header, body: bytes = b"") -> f.Header:
        """Send a request; what is delivered before the answer is kept."""
        await self.send(header, body)
        while True:
            frame = await self.next()
            if isinstance(frame.header, (q.Deliver, q.DeliverySource)):
                self.take(frame)
            else:
                return frame.header

    def take(self, frame: f.Frame) -> None:
        if isinstance(frame.header, q.Deliver):
            runs, batches = q.decode_runs(frame.body, frame.header.runs)
            records = iter(decode_all(bytes(batches)))
            self.held += [(run, [next(records) for _ in range(run.records)]) for run in runs]
            assert not list(records)

    async def hold(self, count: int) -> list[tuple[int, bytes | None, int]]:
        """Wait until this many records were delivered; sequence, value and deliveries of each, all taken out."""
        while sum(run.records for run, _ in self.held) < count:
            self.take(await self.next())
        found = [
            (run.sequence + place, record.value, run.deliveries)
            for run, records in self.held
            for place, record in enumerate(records)
        ]
        assert len(found) == count
        self.held.clear()
        return found

    async def consume(self, name: str = "work", number: int = 1, **options: Any) -> None:
        assert isinstance(await self.ask(q.Consume(next(self.ids), number, name, **options)), q.Consuming)

    async def settle(self, *ranges: tuple[int, int], number: int = 1) -> None:
        """Settle, and wait until it is durable."""
        assert isinstance(await self.ask(q.Settle(number, next(self.ids)), q.encode_ranges(ranges)), q.Durable)

    def abort(self) -> None:
        """Reset the connection, as a machine does that was switched off and on again."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    listen = {"native": "127.0.0.1:0"}
    async with open_broker(tmp_path, store="memory", listen=listen, config=BrokerConfig(plugins=[])) as opened:
        await opened.queues.declare("work")
        yield opened


Connect = Callable[[], Awaitable[Peer]]


@pytest.fixture
async def connect(broker: Broker) -> AsyncIterator[Connect]:
    """Connects to ``broker``; connections are closed at the end."""
    peers: list[Peer] = []

    async def connect_one() -> Peer:
        peers.append(await Peer.connect(broker.addresses["native"][1]))
        return peers[-1]

    yield connect_one
    for peer in peers:
        peer.stream.socket.close()


async def fill(broker: Broker, count: int) -> None:
    for number in range(count):
        await broker.publish("work", b"%d" % number)


def counts(broker: Broker) -> tuple[int, int, int]:
    found = broker.queues.get("work").statistics()
    return found.ready, found.unacked, found.acknowledged


async def test_batches_are_delivered_as_they_were_written(broker: Broker, connect: Connect) -> None:
    peer = await connect()
    await broker.ensure_topic("work")
    batch = encode([(1, b"k", b"%d" % number, ()) for number in range(5)], compression=1)
    await peer.ask(f.Produce(1, "work", 0), batch)
    await peer.send(q.Consume(2, 1, "work"))
    found = [await peer.next() for _ in range(3)]
    (deliver,) = [frame for frame in found if isinstance(frame.header, q.Deliver)]
    ((source, deliveries, sequence, offset, records),), body = q.decode_runs(deliver.body, 1)
    assert (deliveries, sequence, offset, records) == (0, 0, 0, 5)
    assert bytes(body)[61:] == batch[61:]
    assert q.DeliverySource(source, "work", 0) in [frame.header for frame in found]


async def test_a_connection_that_breaks_hands_over_at_once_and_in_order(broker: Broker, connect: Connect) -> None:
    await fill(broker, 10)
    doomed, patient = await connect(), await connect()
    await doomed.consume(prefetch=6)
    await doomed.hold(6)
    await doomed.settle((1, 2))
    await patient.consume(prefetch=0)
    assert [sequence for sequence, _, _ in await patient.hold(3)] == [7, 8, 9]  # 6 went to the other one
    doomed.abort()
    assert await patient.hold(6) == [(number, b"%d" % number, 1) for number in (0, 2, 3, 4, 5, 6)]


async def test_a_consumer_that_falls_silent_hands_over_after_the_idle_timeout(tmp_path: Path) -> None:
    config = BrokerConfig(plugins=[], door={"native": {"idle_timeout_s": 2.0}})
    async with open_broker(tmp_path, store="memory", listen={"native": "127.0.0.1:0"}, config=config) as broker:
        await broker.queues.declare("work")
        await fill(broker, 3)
        silent = await Peer.connect(broker.addresses["native"][1])
        await silent.consume()
        await silent.hold(3)
        assert isinstance((await silent.next()).header, f.Goodbye)
        patient = await Peer.connect(broker.addresses["native"][1])
        await patient.consume()
        assert await patient.hold(3) == [(number, b"%d" % number, 1) for number in range(3)]
        for peer in (silent, patient):
            peer.stream.socket.close()


async def test_nobody_settles_what_another_one_holds(broker: Broker, connect: Connect) -> None:
    await fill(broker, 4)
    owner, liar = await connect(), await connect()
    await owner.consume(prefetch=4)
    await owner.hold(4)
    await liar.consume(prefetch=4)
    for word in (q.Release(1), q.Reject(1), q.Extend(1, 1000)):
        await liar.send(word, q.encode_ranges([(0, 2**63)]))
    await liar.settle((0, 2), (3, 4), (100, 2**62))
    assert counts(broker) == (0, 4, 0)
    await owner.settle((0, 1), (0, 1), (2, 9))
    assert counts(broker) == (0, 1, 3)


@pytest.mark.parametrize(
    "body",
    [b"\0" * 15, q.encode_ranges([(5, 5)]), q.encode_ranges([(0, 2**63 + 1)]), q.encode_ranges([(0, 1)] * 16_385)],
    ids=["cut off", "empty", "too far", "too many"],
)
async def test_ranges_that_are_none_end_only_the_connection_they_came_from(
    broker: Broker, connect: Connect, body: bytes
) -> None:
    await fill(broker, 2)
    peer, neighbour = await connect(), await connect()
    await neighbour.consume(prefetch=1)
    await peer.consume(prefetch=1)
    await peer.hold(1)
    failure = await peer.ask(q.Settle(1), body)
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (None, "RemoteProtocolError")
    with trio.fail_after(WAIT_S):
        assert await peer.stream.receive_some() == b""
    await neighbour.hold(1)
    await neighbour.settle((0, 2))
    await neighbour.hold(1)


async def test_words_about_consumptions_that_are_none_are_ignored(broker: Broker, connect: Connect) -> None:
    peer = await connect()
    for header in (q.Settle(7), q.Release(7), q.Reject(7), q.Extend(7, 1)):
        await peer.send(header, q.encode_ranges([(0, 1)]))
    await peer.send(q.SetPrefetch(7, 1))
    await peer.send(q.CancelConsumption(7))
    assert isinstance(await peer.ask(q.Settle(7, 1)), f.Failure)
    await peer.consume()
    assert isinstance(await peer.ask(q.Consume(9, 1, "work")), f.Failure)  # the number is in use


async def test_a_cancelled_consumption_is_told_so_and_may_be_opened_again(broker: Broker, connect: Connect) -> None:
    await fill(broker, 3)
    peer = await connect()
    await peer.consume()
    await peer.hold(3)
    await peer.send(q.Settle(1), q.encode_ranges([(1, 2)]))
    assert await peer.ask(q.CancelConsumption(1)) == q.ConsumptionEnd(1)
    await peer.consume(number=2)
    assert [sequence for sequence, _, _ in await peer.hold(2)] == [0, 2]
    missing = await peer.ask(q.Consume(99, 3, "nothing"))
    assert isinstance(missing, f.Failure)
    assert missing.code == "UnknownQueue"


async def test_records_may_be_settled_as_they_are_delivered(broker: Broker, connect: Connect) -> None:
    await fill(broker, 3)
    peer = await connect()
    await peer.consume(auto_settle=True, prefetch=1)
    await peer.hold(3)
    assert counts(broker)[:2] == (0, 0)


async def test_a_deleted_queue_says_so_to_its_consumers(broker: Broker, connect: Connect) -> None:
    peer = await connect()
    await peer.consume()
    await broker.queues.delete("work")
    end = (await peer.next()).header
    assert isinstance(end, q.ConsumptionEnd)
    assert (end.consumption, end.code) == (1, "UnknownQueue")


async def test_no_more_consumptions_than_allowed(tmp_path: Path) -> None:
    async with open_broker(tmp_path, store="memory", config=BrokerConfig(plugins=[])) as broker:
        await broker.queues.declare("work")
        transport = RememberedTransport()
        connection = NativeConnection(broker, NativeSettings(max_streams=2), transport)
        connection.receive_data(encode_frame(f.Hello(0, [1])))
        for number in (1, 2, 3):
            connection.receive_data(encode_frame(q.Consume(number, number, "work")))
        kinds = [type(frame.header) for frame in transport.take()]
        assert kinds == [f.Welcome, q.Consuming, q.Consuming, f.Failure]
        connection.closed(None)
        assert not broker.queues.get("work").has_consumers


def delivered(transport: RememberedTransport) -> int:
    """Records, since the last time."""
    return sum(
        run.records
        for frame in transport.take()
        if isinstance(frame.header, q.Deliver)
        for run in q.decode_runs(frame.body, frame.header.runs)[0]
    )


async def test_what_is_released_with_a_delay_is_delivered_when_that_is_over(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def now_ms() -> int:
        return 1_700_000_000_000 + int(autojump_clock.current_time() * 1000)  # in worker threads, too

    async with open_broker(tmp_path, store="memory", config=BrokerConfig(plugins=[]), now_ms=now_ms) as broker:
        await broker.queues.declare("work")
        await broker.publish("work", b"x")
        transport = RememberedTransport()
        connection = NativeConnection(broker, NativeSettings(), transport)
        for header in (f.Hello(0, [1]), q.Consume(1, 1, "work")):
            connection.receive_data(encode_frame(header))
        await trio.sleep(1)
        assert delivered(transport) == 1
        connection.receive_data(encode_frame(q.Release(1, 3_600_000), q.encode_ranges([(0, 1)])))
        await trio.sleep(3599)
        assert delivered(transport) == 0
        await trio.sleep(2)
        assert delivered(transport) == 1
        connection.closed(None)


async def test_a_client_that_does_not_read_gets_no_more_and_others_get_it(tmp_path: Path) -> None:
    async with open_broker(tmp_path, store="memory", config=BrokerConfig(plugins=[])) as broker:
        await broker.queues.declare("work")
        await broker.queues.declare("more")
        slow, fast = RememberedTransport(room_bytes=20_000), RememberedTransport()
        connections = [NativeConnection(broker, NativeSettings(max_data_bytes=4096), it) for it in (slow, fast)]
        for connection in connections:
            connection.receive_data(encode_frame(f.Hello(0, [1])))
        connections[0].receive_data(encode_frame(q.Consume(1, 1, "work", 0)))
        connections[0].receive_data(encode_frame(q.Consume(2, 2, "more", 0)))
        slow.room_bytes = 3000
        for number in range(20):
            await broker.publish("work", b"%01000d" % number)
        await broker.publish("more", b"")
        await trio.testing.wait_all_tasks_blocked()
        got = delivered(slow)
        assert 0 < got < 20
        assert broker.queues.get("more").statistics().ready == 1
        connections[1].receive_data(encode_frame(q.Consume(1, 1, "work", 0)))
        await trio.testing.wait_all_tasks_blocked()
        assert got + delivered(fast) == 20
        slow.room_bytes, slow.is_congested = math.inf, False
        connections[0].writable()
        await trio.testing.wait_all_tasks_blocked()
        assert delivered(slow) == 1
        for connection in connections:
            connection.closed(None)
        assert broker.queues.get("work").statistics().ready == 20
