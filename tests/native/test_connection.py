"""The door's side of a connection: frames in, frames out, against a broker in memory; no sockets but at the end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.native.remembered import RememberedTransport

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.door import DoorContext
from trunkline.errors import RemoteProtocolError
from trunkline.records import decode_all, encode
from trunkline_native import codec
from trunkline_native import frames as f
from trunkline_native.connection import HELLO_LIMIT_BYTES, NativeConnection
from trunkline_native.serve import NativeDoor
from trunkline_native.settings import NativeSettings

pytestmark = pytest.mark.trio

WAIT_S = 30.0


class Client:
    """One connection and the test's end of it."""

    def __init__(self, broker: Broker, settings: NativeSettings) -> None:
        self.transport = RememberedTransport()
        self.connection = NativeConnection(broker, settings, self.transport)

    def send(self, *headers: f.Header, body: bytes = b"") -> None:
        for header in headers:
            self.connection.receive_data(codec.encode(header, body))

    def hello(self) -> None:
        self.send(f.Hello(0, [1], "test"))
        assert isinstance(self.transport.take()[0].header, f.Welcome)

    def taken(self) -> list[f.Header]:
        return [frame.header for frame in self.transport.take()]

    async def next(self, count: int = 1) -> list[f.Frame]:
        """Wait for this many frames."""
        found: list[f.Frame] = []
        with trio.fail_after(WAIT_S):
            while len(found) < count:
                self.transport.wrote = trio.Event()
                found += self.transport.take()
                if len(found) < count:
                    await self.transport.wrote.wait()
        assert len(found) == count
        return found

    async def answer(self, header: f.Header, body: bytes = b"") -> f.Header:
        self.send(header, body=body)
        (frame,) = await self.next()
        return frame.header


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with open_broker(tmp_path, store="memory", config=BrokerConfig(plugins=[])) as opened:
        yield opened


@pytest.fixture
async def client(broker: Broker) -> Client:
    made = Client(broker, NativeSettings())
    made.hello()
    return made


def batch_of(*values: bytes) -> bytes:
    return encode([(0, None, value, ()) for value in values])


def large_batch() -> bytes:
    return batch_of(b"x" * 1000)


async def fill(broker: Broker, count: int) -> None:
    await broker.ensure_topic("orders")
    for number in range(count):
        await broker.publish("orders", b"%0*d" % (1000, number))


# -- hello ----------------------------------------------------------------------------------------


async def test_hello_is_answered_with_the_limits(broker: Broker) -> None:
    client = Client(broker, NativeSettings(max_streams=7, idle_timeout_s=1.5))
    client.send(f.Hello(9, [1, 2], "test"))
    (welcome,) = client.taken()
    assert isinstance(welcome, f.Welcome)
    assert (welcome.id, welcome.version) == (9, 1)
    assert (welcome.limits.max_streams, welcome.limits.idle_timeout_ms) == (7, 1500)
    assert client.transport.is_established
    assert client.transport.idle_timeout_s == 1.5


async def test_a_client_of_another_version_is_told_and_closed(broker: Broker) -> None:
    client = Client(broker, NativeSettings())
    client.send(f.Hello(0, [2, 3]))
    (failure,) = client.taken()
    assert isinstance(failure, f.Failure)
    assert failure.code == "UnsupportedRequest"
    assert client.transport.is_closing


def assert_ended(client: Client, data: bytes, match: str) -> None:
    """The peer is told with a null id, the connection is closed, and the core is told too."""
    with pytest.raises(RemoteProtocolError, match=match):
        client.connection.receive_data(data)
    failure = client.taken()[-1]
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (None, "RemoteProtocolError")
    assert client.transport.is_closing


@pytest.mark.parametrize(
    "header", [f.Ping(1), f.Produce(1, "orders", 0), f.Metadata(1), f.OpenStream(1, 1, "orders", 0, 0, 1)]
)
async def test_nothing_goes_before_hello(broker: Broker, header: f.Header) -> None:
    assert_ended(Client(broker, NativeSettings()), codec.encode(header), "first frame must be hello")


async def test_frames_before_hello_are_small(broker: Broker) -> None:
    length = (HELLO_LIMIT_BYTES + 1).to_bytes(4, "big")
    assert_ended(Client(broker, NativeSettings()), length + b"\0\1", "over the limit of 4096")
    assert_ended(Client(broker, NativeSettings()), b"GET / HTTP/1.1\r\n", "over the limit of 4096")


async def test_hello_comes_once(client: Client) -> None:
    assert_ended(client, codec.encode(f.Hello(1, [1])), "hello may be sent once")


async def test_a_frame_over_the_limit_ends_the_connection(broker: Broker) -> None:
    client = Client(broker, NativeSettings(max_frame_bytes=5000))
    client.hello()
    assert_ended(client, (5001).to_bytes(4, "big") + b"\0\1", "5001 bytes is over the limit of 5000")


async def test_garbage_ends_the_connection(client: Client) -> None:
    assert_ended(client, b"\0\0\0\4\0\2\xff\xff", "not the CBOR")


async def test_what_came_before_the_garbage_is_answered(client: Client) -> None:
    with pytest.raises(RemoteProtocolError):
        client.connection.receive_data(codec.encode(f.Ping(1)) + b"\0\0\0\0\0\0")
    assert [type(header) for header in client.taken()] == [f.Done, f.Failure]


async def test_a_request_that_is_not_known_is_refused_and_the_connection_goes_on(client: Client) -> None:
    unknown = bytes.fromhex("00000006 0004 82183f07")  # kind 63
    client.connection.receive_data(unknown)
    (failure,) = client.taken()
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (7, "UnsupportedRequest")
    assert await client.answer(f.Ping(8)) == f.Done(8)


# -- produce --------------------------------------------------------------------------------------


async def test_a_batch_is_answered_with_its_offset_once_committed(broker: Broker, client: Client) -> None:
    await fill(broker, 3)
    client.send(f.Produce(5, "orders", 0), body=batch_of(b"a", b"b"))
    assert client.taken() == []
    assert (await client.next())[0].header == f.Produced(5, 3)
    assert broker.partition("orders", 0).high_watermark == 5
    assert (client.connection.inflight_requests, client.connection.inflight_bytes) == (0, 0)


async def test_a_batch_without_acks_is_written_and_only_its_failure_told(broker: Broker, client: Client) -> None:
    await broker.create_topic("orders")
    client.send(f.Produce(5, "orders", 0, 0), body=batch_of(b"a"))
    assert await client.answer(f.Produce(6, "orders", 0), batch_of(b"b")) == f.Produced(6, 1)
    failure = await client.answer(f.Produce(7, "nobody", 0, 0), batch_of(b"c"))
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (7, "UnknownTopic")


@pytest.mark.parametrize(
    ("topic", "partition", "body", "code"),
    [
        ("nobody", 0, batch_of(b"a"), "UnknownTopic"),
        ("orders", 9, batch_of(b"a"), "UnknownPartition"),
        ("orders", 0, b"", "CorruptBatch"),
        ("orders", 0, batch_of(b"a")[:-1], "CorruptBatch"),
        ("orders", 0, batch_of(b"a")[:-1] + b"!", "CorruptBatch"),
        ("orders", 0, batch_of(b"a") * 2, "InvalidBatch"),
        ("orders", 0, batch_of(b"x" * 2_000_000), "RecordTooLarge"),
    ],
)
async def test_a_batch_that_cannot_be_taken_is_refused_and_the_connection_goes_on(
    broker: Broker, client: Client, topic: str, partition: int, body: bytes, code: str
) -> None:
    await broker.create_topic("orders")
    failure = await client.answer(f.Produce(1, topic, partition), body)
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code, failure.retriable) == (1, code, False)
    assert await client.answer(f.Produce(2, "orders", 0), batch_of(b"a")) == f.Produced(2, 0)


async def test_an_idempotent_repeat_gets_the_offset_it_has(broker: Broker, client: Client) -> None:
    await broker.create_topic("orders")
    batch = encode([(0, None, b"a", ())], producer_id=7, producer_epoch=0, base_sequence=0)
    assert await client.answer(f.Produce(1, "orders", 0), batch) == f.Produced(1, 0)
    assert await client.answer(f.Produce(2, "orders", 0), batch) == f.Produced(2, 0)
    gap = encode([(0, None, b"a", ())], producer_id=7, producer_epoch=0, base_sequence=5)
    failure = await client.answer(f.Produce(3, "orders", 0), gap)
    assert isinstance(failure, f.Failure)
    assert (failure.code, failure.details["expected"]) == ("OutOfOrderSequence", 1)


async def test_too_many_bytes_ahead_are_refused_and_too_many_requests_end_it(broker: Broker) -> None:
    await broker.create_topic("orders")
    client = Client(broker, NativeSettings(max_inflight_bytes=4096, max_inflight_requests=3))
    client.hello()
    for number in range(5):
        client.send(f.Produce(number, "orders", 0), body=batch_of(b"x" * 1500))
    assert [
        (header.id, header.code, header.retriable) for header in client.taken() if isinstance(header, f.Failure)
    ] == [
        (2, "Overloaded", True),
        (3, "Overloaded", True),
        (4, "Overloaded", True),
    ]
    client.send(f.Produce(9, "orders", 0), body=batch_of(b"x"))
    assert_ended(client, codec.encode(f.Metadata(10)), "more than 3 requests")


# -- streams --------------------------------------------------------------------------------------


def offsets(frames: list[f.Frame]) -> list[int]:
    return [record.offset for frame in frames for record in decode_all(bytes(frame.body))]


async def test_a_stream_gives_the_log_and_then_what_comes(broker: Broker, client: Client) -> None:
    await fill(broker, 3)
    client.send(f.OpenStream(1, 4, "orders", 0, "earliest", 100_000))
    opened, *data = client.transport.take()
    assert opened.header == f.StreamOpened(1, 0, None, 0, 3)
    assert offsets(data) == [0, 1, 2]
    await broker.publish("orders", b"new")
    (frame,) = client.transport.take()
    assert frame.header == f.Data(4, 4, 4)
    assert offsets([frame]) == [3]


async def test_a_stream_with_an_end_stops_there(broker: Broker, client: Client) -> None:
    await fill(broker, 3)
    client.send(f.OpenStream(1, 4, "orders", 0, 1, 100_000, "latest"))
    opened, *data, end = client.transport.take()
    assert opened.header == f.StreamOpened(1, 1, 3, 0, 3)
    assert offsets(data) == [1, 2]
    assert end.header == f.StreamEnd(4)
    client.send(f.OpenStream(2, 5, "orders", 0, "latest", 100_000, "latest"))
    assert client.taken() == [f.StreamOpened(2, 3, 3, 0, 3), f.StreamEnd(5)]
    assert len(client.connection.streams) == 0


async def test_a_stream_from_a_time(broker: Broker, client: Client) -> None:
    await broker.create_topic("orders")
    for number in range(3):
        await broker.publish("orders", b"x", timestamp=number * 1000)
    client.send(f.OpenStream(1, 4, "orders", 0, {"timestamp": 1500}, 100_000))
    opened, data = await client.next(2)
    assert opened.header == f.StreamOpened(1, 2, None, 0, 3)
    assert offsets([data]) == [2]
    client.send(f.OpenStream(2, 5, "orders", 0, {"timestamp": 9999}, 100_000))
    assert (await client.next())[0].header == f.StreamOpened(2, 3, None, 0, 3)


async def test_nothing_is_sent_without_credit(broker: Broker, client: Client) -> None:
    await fill(broker, 10)
    client.send(f.OpenStream(1, 4, "orders", 0, "earliest", 0))
    assert len(client.taken()) == 1
    client.send(f.Credit(4, 1))
    first = client.transport.take()
    assert offsets(first) == [0]  # a batch larger than the credit comes alone
    await broker.publish("orders", b"new")
    assert client.taken() == []
    client.send(f.Credit(4, 1_000_000))
    assert offsets(client.transport.take()) == list(range(1, 11))


async def test_a_live_stream_that_runs_out_of_credit_catches_up_later(broker: Broker, client: Client) -> None:
    await fill(broker, 1)
    client.send(f.OpenStream(1, 4, "orders", 0, "latest", 2500))
    client.taken()
    await fill(broker, 5)
    sent = offsets(client.transport.take())
    assert sent == [1, 2, 3][: len(sent)]
    assert len(sent) < 5
    client.send(f.Credit(4, 1_000_000))
    assert sent + offsets(client.transport.take()) == [1, 2, 3, 4, 5]
    await fill(broker, 1)
    assert offsets(client.transport.take()) == [6]


async def test_a_client_that_does_not_read_is_not_written_to(broker: Broker, client: Client) -> None:
    await fill(broker, 100)
    client.transport.room_bytes = 5000
    client.send(f.OpenStream(1, 4, "orders", 0, "earliest", 10_000_000))
    client.connection.streams.max_data_bytes = 2000
    assert client.transport.waiting_bytes <= 5000 + 300_000
    found = offsets(client.transport.take())
    await fill(broker, 20)
    assert client.taken() == []
    while client.transport.is_congested:
        client.transport.is_congested = False
        client.connection.writable()
        found += offsets(client.transport.take())
    assert found == list(range(120))


async def test_streams_take_turns(broker: Broker) -> None:
    await broker.create_topic("orders", partitions=2)
    for partition in (0, 1):
        for _ in range(6):
            await broker.publish("orders", b"x" * 3000, partition=partition)
    client = Client(broker, NativeSettings(max_data_bytes=4096))
    client.hello()
    client.transport.is_congested = True
    client.send(*(f.OpenStream(number, number, "orders", number, 0, 100_000) for number in (0, 1)))
    client.taken()
    client.transport.is_congested = False
    client.connection.writable()
    order = [header.stream for header in client.taken() if isinstance(header, f.Data)]
    assert order == [0, 1] * 6


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (f.OpenStream(1, 4, "nobody", 0, 0, 1), "UnknownTopic"),
        (f.OpenStream(1, 4, "orders", 5, 0, 1), "UnknownPartition"),
        (f.OpenStream(1, 4, "orders", 0, 99, 1), "OffsetOutOfRange"),
        (f.OpenStream(1, 4, "orders", 0, "soon", 1), "InvalidSetting"),
        (f.OpenStream(1, 4, "orders", 0, {"time": 1}, 1), "InvalidSetting"),
        (f.OpenStream(1, 4, "orders", 0, 0, 1, "soon"), "InvalidSetting"),
    ],
)
async def test_a_stream_that_cannot_be_opened_is_refused(
    broker: Broker, client: Client, stream: f.Header, code: str
) -> None:
    await broker.create_topic("orders")
    failure = await client.answer(stream)
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (1, code)
    assert len(client.connection.streams) == 0


async def test_too_many_streams_are_refused_and_one_number_twice_ends_it(broker: Broker) -> None:
    await broker.create_topic("orders")
    client = Client(broker, NativeSettings(max_streams=1))
    client.hello()
    client.send(f.OpenStream(1, 1, "orders", 0, 0, 1), f.OpenStream(2, 2, "orders", 0, 0, 1))
    failure = client.taken()[-1]
    assert isinstance(failure, f.Failure)
    assert (failure.id, failure.code) == (2, "Overloaded")
    assert_ended(client, codec.encode(f.OpenStream(3, 1, "orders", 0, 0, 1)), "already open")


async def test_a_closed_stream_is_ended_and_gets_nothing(broker: Broker, client: Client) -> None:
    await fill(broker, 1)
    client.send(f.OpenStream(1, 4, "orders", 0, "latest", 10_000), f.CloseStream(4), f.CloseStream(99), f.Credit(99, 1))
    assert client.taken()[1:] == [f.StreamEnd(4)]
    await fill(broker, 1)
    assert client.taken() == []
    assert broker.partition("orders", 0).statistics().listeners == 0


async def test_a_lost_connection_frees_its_streams(broker: Broker, client: Client) -> None:
    await fill(broker, 1)
    client.send(f.OpenStream(1, 4, "orders", 0, "latest", 10_000))
    client.connection.closed(None)
    assert broker.partition("orders", 0).statistics().listeners == 0


async def test_deleting_the_topic_ends_its_streams(broker: Broker, client: Client) -> None:
    await fill(broker, 1)
    client.send(f.OpenStream(1, 4, "orders", 0, "latest", 10_000))
    client.taken()
    await broker.delete_topic("orders")
    (end,) = client.taken()
    assert isinstance(end, f.StreamEnd)
    assert (end.stream, end.code) == (4, "UnknownTopic")


# -- the end --------------------------------------------------------------------------------------


async def test_a_closing_broker_and_an_idle_client_say_why(client: Client) -> None:
    client.connection.shutting_down()
    client.connection.timed_out()
    assert client.taken() == [f.Goodbye("the broker is closing"), f.Goodbye("nothing arrived for 300 s")]


async def test_the_door_counts_its_connections(broker: Broker) -> None:
    door = NativeDoor(DoorContext(broker))
    await fill(broker, 1)
    connection = door.connect(RememberedTransport())
    connection.receive_data(codec.encode(f.Hello(0, [1])) + codec.encode(f.OpenStream(1, 1, "orders", 0, 0, 0)))
    assert door.statistics() == {"connections": 1, "streams": 1, "inflight_requests": 0, "inflight_bytes": 0}


# -- over real sockets ----------------------------------------------------------------------------


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[Broker]:
    config = BrokerConfig(plugins=[])
    async with open_broker(tmp_path, store="memory", config=config, listen={"native": "127.0.0.1:0"}) as opened:
        yield opened


async def until_closed(stream: trio.SocketStream) -> list[f.Header]:
    decoder = codec.FrameDecoder(f.SERVER_FRAMES, 2**20)
    found: list[f.Header] = []
    with trio.fail_after(WAIT_S):
        while True:
            while isinstance(event := decoder.next_event(), f.Frame):
                found.append(event.header)
            if event is codec.CLOSED:
                return found
            decoder.receive_data(await stream.receive_some(65536))


async def test_garbage_over_a_socket_is_answered_and_closed(listening: Broker) -> None:
    async with await trio.open_tcp_stream(*listening.addresses["native"]) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        (failure,) = await until_closed(stream)
        assert isinstance(failure, f.Failure)
        assert failure.code == "RemoteProtocolError"


async def test_half_a_frame_and_gone_touches_nobody_else(listening: Broker) -> None:
    async with await trio.open_tcp_stream(*listening.addresses["native"]) as stream:
        await stream.send_all(codec.encode(f.Hello(0, [1])) + codec.encode(f.Ping(1))[:3])
    async with await trio.open_tcp_stream(*listening.addresses["native"]) as stream:
        await stream.send_all(codec.encode(f.Hello(0, [1])) + codec.encode(f.Ping(1)))
        with trio.fail_after(WAIT_S):
            assert await stream.receive_some(65536)


async def test_a_client_that_never_reads_costs_a_bounded_buffer(listening: Broker) -> None:
    await listening.create_topic("orders", settings={"durability": "os"})
    for _ in range(40):
        await listening.publish("orders", b"x" * 1_000_000)
    with socket.create_connection(listening.addresses["native"]) as silent:
        stream = f.OpenStream(1, 1, "orders", 0, "earliest", 2**40)
        silent.sendall(codec.encode(f.Hello(0, [1])) + codec.encode(stream))
        with trio.fail_after(WAIT_S):
            while not (transports := listening._reactor.connections) or not transports[0].is_congested:
                await listening._reactor.wait_round()
        limit = listening.config.limits.max_outbound_bytes
        assert transports[0].outbound_bytes <= limit + 2 * 1_100_000
        async with await trio.open_tcp_stream(*listening.addresses["native"]) as other:
            await other.send_all(codec.encode(f.Hello(0, [1])))
            with trio.fail_after(WAIT_S):
                assert await other.receive_some(65536)
