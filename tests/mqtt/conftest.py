"""A broker with the MQTT door, clients of three kinds, and a transport that is only remembered."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.log import TopicPartition
from trunkline.records import encode as encode_batch
from trunkline.testing import MemoryTransport
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Connack, Connect, Packet, Publish
from trunkline_mqtt.properties import NO_PROPERTIES, Properties

WAIT_S = 20.0  # for what should take milliseconds, on a machine that is busy with something else


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker in memory; ``broker.addresses["mqtt"]`` is where it listens."""
    async with open_broker(store="memory", listen={"mqtt": "127.0.0.1:0"}) as opened:
        yield opened


class RawClient:
    """A client that says exactly what the test says, over a real socket."""

    def __init__(self, stream: trio.SocketStream, level: int = MQTT_3_1_1) -> None:
        self.stream = stream
        self._decoder = Decoder()
        self._decoder.protocol_level = level

    async def send(self, *packets: Packet | bytes) -> None:
        """Everything in one write."""
        level = self._decoder.protocol_level
        data = b"".join(packet if isinstance(packet, bytes) else encode(packet, level) for packet in packets)
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(data)

    async def receive(self) -> Packet:
        """The next packet; EndOfChannel if the broker has closed the connection."""
        with trio.fail_after(WAIT_S):
            while (packet := self._decoder.next_event()) is None:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    raise trio.EndOfChannel
                self._decoder.receive_data(bytes(data))
            return packet

    async def ask(self, *packets: Packet | bytes) -> Packet:
        """Send, and give what comes next."""
        await self.send(*packets)
        return await self.receive()

    async def until_closed(self) -> list[Packet]:
        """All packets up to the end of the connection."""
        found = []
        while True:
            try:
                found.append(await self.receive())
            except trio.EndOfChannel:
                return found


ConnectRaw = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect(broker: Broker) -> AsyncIterator[ConnectRaw]:
    """``await connect("id")`` or ``connect(Connect(...))``: connected, no session present; ``connect()``: a socket."""
    streams: list[trio.SocketStream] = []

    async def connect(packet: Connect | str | None = None) -> RawClient:
        stream = await trio.open_tcp_stream(*broker.addresses["mqtt"])
        streams.append(stream)
        if packet is None:
            return RawClient(stream)
        packet = Connect(packet) if isinstance(packet, str) else packet
        client = RawClient(stream, packet.protocol_level)
        answer = await client.ask(packet)
        assert isinstance(answer, Connack)
        assert (answer.reason_code, answer.session_present) == (0, False)
        return client

    yield connect
    for stream in streams:
        await trio.aclose_forcefully(stream)


def hello(level: int = 4, client_id: str = "c", *, clean: bool = False, **properties: Any) -> Connect:
    """With a session that is kept."""
    if level == MQTT_5:
        properties.setdefault("session_expiry_s", 1000)
    found = Properties(**properties) if properties else NO_PROPERTIES
    return Connect(client_id, clean, protocol_level=level, properties=found)


async def open_client(address: tuple[str, int], packet: Connect, *, is_present: bool | None = None) -> RawClient:
    with trio.fail_after(WAIT_S):
        stream = await trio.open_tcp_stream(*address)
    client = RawClient(stream, packet.protocol_level)
    answer = await client.ask(packet)
    assert isinstance(answer, Connack)
    assert answer.reason_code == 0
    if is_present is not None:
        assert answer.session_present == is_present
    return client


Dial = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """``await dial(address, packet)``: a client that is closed at the end of the test, if it is not before."""
    streams = []

    async def dial(address: tuple[str, int], packet: Connect, *, is_present: bool | None = None) -> RawClient:
        peer = await open_client(address, packet, is_present=is_present)
        streams.append(peer.stream)
        return peer

    yield dial
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def left_alone(broker: Broker) -> None:
    """The broker has noticed that all clients are gone."""
    while broker.statistics().net.connections:
        await broker._reactor.wait_round()


async def open_transaction(broker: Broker) -> None:
    """A Kafka client's, ``tx``, that has written to the topic ``mqtt`` and holds back what readers see behind it."""
    place = TopicPartition("mqtt", 0)
    producer = await broker.transactions.initialise("tx", 60_000)
    await broker.transactions.add_partitions("tx", producer, [place])
    batch = encode_batch(
        [(1, b"t", b"undecided", ())],
        producer_id=producer.producer_id,
        producer_epoch=producer.epoch,
        base_sequence=0,
        is_transactional=True,
    )
    broker.partition(*place).stage_batch(batch, in_transaction=True)


async def messages(peer: RawClient, count: int) -> list[Publish]:
    found: list[Publish] = []
    while len(found) < count:
        packet = await peer.receive()
        assert isinstance(packet, Publish)
        found.append(packet)
    return found


class HeldTopic:
    """Stands for a topic and its one partition: remembers what is staged, and commits it when the test says so.

    Attributes:
      records: (timestamp, key, value, headers) of each.
      staged: (receiver, token) of those that are not committed yet; a test may tell them itself, in any order.
      error: raised instead of staging anything.
    """

    name = "mqtt"

    def __init__(self) -> None:
        self.partitions = (self,)
        self.records: list[tuple[object, ...]] = []
        self.staged: list[tuple[Any, object]] = []
        self.error: Exception | None = None

    def partition_for(self, key: bytes) -> HeldTopic:
        return self

    def stage_record(
        self, timestamp: int, key: bytes, value: bytes, headers: bytes, receiver: Any = None, token: object = None
    ) -> None:
        assert timestamp > 0
        assert key
        if self.error is not None:
            raise self.error
        self.records.append((timestamp, key, value, headers))
        if receiver is not None:
            self.staged.append((receiver, token))

    def stage_run(self, timestamp: int, keys: list[bytes], values: list[bytes], headers: bytes) -> bool:
        self.records += [(timestamp, key, value, headers) for key, value in zip(keys, values, strict=True)]
        return True

    def commit(self) -> None:
        staged, self.staged = self.staged, []
        for receiver, token in staged:
            receiver.append_done(token, 0)


class RememberingTransport(MemoryTransport):
    """Reads what was written."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = Decoder()

    def take(self, level: int | None = None) -> list[Packet]:
        """The packets written since the last call, in this version from now on."""
        if level is not None:
            self._decoder.protocol_level = level
        self._decoder.receive_data(self.take_written())
        found = []
        while (packet := self._decoder.next_event()) is not None:
            found.append(packet)
        return found


@pytest.fixture
def transport() -> RememberingTransport:
    return RememberingTransport()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt install mosquitto-clients)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def mosquitto_pub() -> str:
    """The path of mosquitto_pub. Without it: a skip, and an error where ``CI`` is set."""
    return _program("mosquitto_pub")


@pytest.fixture
def mosquitto_sub() -> str:
    return _program("mosquitto_sub")


@pytest.fixture
def mosquitto_rr() -> str:
    return _program("mosquitto_rr")
