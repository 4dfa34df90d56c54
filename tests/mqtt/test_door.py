"""The door over real sockets: what a client meets, and that one client's trouble stays its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from tests.mqtt.conftest import RawClient

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, TopicsConfig
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from tests.mqtt.conftest import ConnectRaw

pytestmark = pytest.mark.trio

WAIT_S = 20.0


async def keys_and_values(broker: Broker) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) async for record in broker.read("mqtt", follow=False)]


async def test_a_message_is_a_record_with_key_value_and_headers(broker: Broker, connect: ConnectRaw) -> None:
    client = await connect("device-7")
    before = broker.now_ms()

    assert await client.ask(Publish("a/é", b"\0payload", 1, packet_id=3)) == Puback(3)

    (record,) = [record async for record in broker.read("mqtt", follow=False)]
    assert (record.key, record.value) == ("a/é".encode(), b"\0payload")
    assert record.headers == (("mqtt.client", b"device-7"), ("mqtt.qos", b"1"))
    assert before <= record.timestamp <= broker.now_ms()


async def test_a_record_published_in_process_reaches_subscribers(broker: Broker, connect: ConnectRaw) -> None:
    client = await connect("c")
    assert await client.ask(Subscribe(1, (Subscription("a/+", 1),))) == Suback(1, (1,))

    await broker.publish("mqtt", b"x", key=b"a/b")

    assert await client.receive() == Publish("a/b", b"x", 1, packet_id=1)


async def test_a_client_sees_its_own_messages_in_order(broker: Broker, connect: ConnectRaw) -> None:
    client = await connect("c")
    messages = [Publish("t", b"%d" % number) for number in range(500)]

    await client.send(Subscribe(1, (Subscription("t", 0),)), *messages)

    assert [await client.receive() for _ in range(501)] == [Suback(1, (0,)), *messages]


@pytest.mark.parametrize("level", [MQTT_3_1_1, MQTT_5])
@pytest.mark.parametrize("qos", [1, 2])
async def test_dup_of_a_publisher_is_not_passed_on(connect: ConnectRaw, level: int, qos: int) -> None:
    """MQTT 3.1.1, 3.3.1.1, and 5.0, 3.3.1.1: [MQTT-3.3.1-3]: it is about this delivery, not that one."""
    subscriber = await connect(Connect("s", protocol_level=level))
    await subscriber.ask(Subscribe(1, (Subscription("t", qos),)))
    publisher = await connect(Connect("p", protocol_level=level))
    await publisher.send(Publish("t", b"x", qos, dup=True, packet_id=7))
    message = await subscriber.receive()
    assert isinstance(message, Publish)
    assert (message.payload, message.qos, message.dup) == (b"x", qos, False)


async def test_pipelined_messages_are_acknowledged_in_order(connect: ConnectRaw) -> None:
    client = await connect("c")
    await client.send(*[Publish("t", b"x", 1, packet_id=number) for number in range(1, 2001)])

    assert [await client.receive() for _ in range(2000)] == [Puback(number) for number in range(1, 2001)]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"\xff" * 100,
        b"\x10\xff\xff\xff\x7f",
        encode(Publish("t", b"")),
    ],
)
async def test_nonsense_ends_only_the_connection_it_came_on(
    broker: Broker, connect: ConnectRaw, caplog: pytest.LogCaptureFixture, nonsense: bytes
) -> None:
    other = await connect("other")
    peer = await connect()

    await peer.send(nonsense)

    assert await peer.until_closed() == []
    assert await other.ask(Pingreq()) == Pingresp()
    (logged,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert "MQTT 3.1.1" in logged.getMessage()
    assert logged.exc_info is None


async def test_nonsense_after_good_messages_ends_the_connection_and_publishes_the_will(
    broker: Broker, connect: ConnectRaw
) -> None:
    watcher = await connect("watcher")
    await watcher.ask(Subscribe(1, (Subscription("#", 0),)))
    client = await connect(Connect("c", will=Will("wills", b"gone")))

    await client.send(Publish("t", b"good"), b"\x36\x05\x00\x01a\x00\x01")

    assert await client.until_closed() == []
    assert await watcher.receive() == Publish("t", b"good")
    assert await watcher.receive() == Publish("wills", b"gone")


async def test_a_lost_connection_publishes_the_will(broker: Broker, connect: ConnectRaw) -> None:
    watcher = await connect("watcher")
    await watcher.ask(Subscribe(1, (Subscription("wills", 1),)))
    client = await connect(Connect("c", will=Will("wills", b"gone", 2)))

    await trio.aclose_forcefully(client.stream)

    assert await watcher.receive() == Publish("wills", b"gone", 1, packet_id=1)


async def test_disconnect_ends_the_connection_without_the_will(broker: Broker, connect: ConnectRaw) -> None:
    client = await connect(Connect("c", will=Will("wills", b"gone")))

    await client.send(Disconnect())

    assert await client.until_closed() == []
    await broker.publish("mqtt", b"after", key=b"t")
    assert await keys_and_values(broker) == [(b"t", b"after")]


async def test_the_second_connection_of_a_client_wins(broker: Broker, connect: ConnectRaw) -> None:
    first = await connect("c")
    second = await connect("c")

    assert await first.until_closed() == []
    assert await second.ask(Pingreq()) == Pingresp()


@pytest.mark.parametrize(
    ("packet", "return_code"), [(Connect("c", protocol_level=6), 1), (Connect("", clean_start=False), 2)]
)
async def test_a_refused_connect_is_answered_then_closed(
    broker: Broker, connect: ConnectRaw, packet: Packet, return_code: int
) -> None:
    """MQTT 3.1.1, 3.1.4: [MQTT-3.1.4-5]: what is sent right behind it is not even looked at."""
    client = await connect()
    await client.send(packet, Publish("t", b"never", 1, packet_id=1), Connect("c"))

    assert await client.until_closed() == [Connack(return_code)]
    await broker.publish("mqtt", b"after")
    assert [record.value async for record in broker.read("mqtt", follow=False)] == [b"after"]
    assert not broker.statistics().doors["mqtt"]["clients"]


@pytest.mark.slow
async def test_a_silent_client_is_closed_after_its_keep_alive(broker: Broker, connect: ConnectRaw) -> None:
    """MQTT 3.1.1, 3.1.2.10: [MQTT-3.1.2-24]. One second is the shortest there is."""
    watcher = await connect("watcher")
    await watcher.ask(Subscribe(1, (Subscription("wills", 0),)))
    client = await connect(Connect("c", keep_alive=1, will=Will("wills", b"silent")))

    assert await client.until_closed() == []
    assert await watcher.receive() == Publish("wills", b"silent")


async def take(client: RawClient, count: int, qos: int) -> list[bytes]:
    found: list[bytes] = []
    with trio.fail_after(3 * WAIT_S):
        while len(found) < count:
            packet = await client.receive()
            if isinstance(packet, Publish):
                found.append(packet.payload)
                if qos:
                    await client.send(Puback(packet.packet_id))
    return found


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_reader_that_stops_holds_up_nobody_and_loses_nothing(
    broker: Broker, connect: ConnectRaw, qos: int
) -> None:
    count, size = 400, 100_000  # 40 MB, far more than sockets and the outbound limit hold
    payloads = [b"%08d" % number + b"x" * size for number in range(count)]
    slow, quick, publisher = await connect("slow"), await connect("quick"), await connect("publisher")
    await slow.ask(Subscribe(1, (Subscription("big", qos),)))
    await quick.ask(Subscribe(1, (Subscription("big", qos),)))

    async def publish() -> None:
        for number, payload in enumerate(payloads):
            assert await publisher.ask(Publish("big", payload, 1, packet_id=number + 1)) == Puback(number + 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        assert await take(quick, count, qos) == payloads
    (tail,) = [broker.live(partition) for partition in broker.topic("mqtt").partitions]
    assert tail.statistics().behind == 1

    assert await take(slow, count, qos) == payloads


async def test_with_several_partitions_a_topic_keeps_its_order(tmp_path: Path) -> None:
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory", door={"mqtt": {"partitions": 4}})
    async with open_broker(tmp_path, config=config) as broker:
        stream = await trio.open_tcp_stream(*broker.addresses["mqtt"])
        topics = [f"t/{number % 7}" for number in range(300)]
        packets = [Publish(topic, b"%d" % n, 1, packet_id=n + 1) for n, topic in enumerate(topics)]
        await stream.send_all(b"".join(map(encode, [Connect("c"), *packets])))
        expected = b"".join(map(encode, [Connack(), *[Puback(packet.packet_id) for packet in packets]]))
        received = b""
        with trio.fail_after(WAIT_S):
            while len(received) < len(expected):
                received += await stream.receive_some()
        assert received == expected
        records = [record async for record in broker.read("mqtt", follow=False)]
        await stream.aclose()

    assert len({record.partition for record in records}) > 1
    for topic in set(topics):
        values = [int(record.value or b"") for record in records if record.key == topic.encode()]
        assert values == [number for number, name in enumerate(topics) if name == topic]


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        stream = await trio.open_tcp_stream(*broker.addresses["mqtt"])
        await stream.send_all(encode(Connect("c")) + encode(Publish("t", b"kept", 1, packet_id=1)))
        expected = encode(Connack()) + encode(Puback(1))
        received = b""
        with trio.fail_after(WAIT_S):
            while len(received) < len(expected):
                received += await stream.receive_some()
        assert received == expected
        await stream.aclose()

    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        assert await keys_and_values(broker) == [(b"t", b"kept")]


async def test_deleting_the_topic_ends_its_subscribers_and_publishers_and_nothing_else(
    broker: Broker, connect: ConnectRaw, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber, publisher, idle = await connect("s"), await connect("p"), await connect("i")
    await subscriber.ask(Subscribe(1, (Subscription("t", 0),)))

    await broker.delete_topic("mqtt")
    await publisher.send(Publish("t", b"x", 1, packet_id=1))

    assert await subscriber.until_closed() == []
    assert await publisher.until_closed() == []
    assert await idle.ask(Pingreq()) == Pingresp()
    assert "closing client 'p': its message was not taken: topic mqtt was deleted" in caplog.text


async def test_the_topic_is_made_large_enough_for_the_largest_packet(tmp_path: Path) -> None:
    door = {"topic": "devices", "max_packet_bytes": 4_000_000}
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory", door={"mqtt": door})
    async with open_broker(tmp_path, config=config) as broker:
        assert broker.topic("devices").settings.max_message_bytes > 4_000_000


async def test_topics_that_are_there_are_made_large_enough_for_the_largest_packet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker must start for somebody to change a topic, so it is no reason not to. Retained copies fit too."""

    def config(max_packet_bytes: int) -> BrokerConfig:
        door = {"mqtt": {"max_packet_bytes": max_packet_bytes}}
        small = TopicsConfig(defaults={"max.message.bytes": "5000"})
        return BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, topics=small, door=door)

    async with open_broker(tmp_path, config=config(4096)) as broker:
        assert broker.topic("mqtt").settings.max_message_bytes == 8192
    async with open_broker(tmp_path, config=config(1024)) as broker:
        assert broker.topic("mqtt").settings.max_message_bytes == 8192
    assert "is raised" not in caplog.text

    caplog.set_level("INFO")
    async with open_broker(tmp_path, config=config(2_000_000)) as broker:
        async with await trio.open_tcp_stream(*broker.addresses["mqtt"]) as stream:
            peer = RawClient(stream, MQTT_3_1_1)
            await peer.ask(Connect("c"))
            await peer.ask(Publish("t", b"x" * 1_999_000, 1, True, packet_id=1))
        with trio.fail_after(WAIT_S):
            async for record in broker.read("mqtt.retained"):
                if record.key == b"t":
                    break
    assert "topic mqtt: max.message.bytes is raised from 8192 to 2004096, for door.mqtt.max_packet_bytes" in caplog.text
    assert "topic mqtt.retained: max.message.bytes is raised" in caplog.text


async def test_the_largest_packet_is_taken_and_a_larger_one_refused(
    broker: Broker, connect: ConnectRaw, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says whose it was."""
    client = await connect("x" * 1024)
    limit = MqttSettings().max_packet_bytes
    largest = Publish("t" * 1000, b"x" * (limit - 1009), 1, packet_id=1)
    assert len(encode(largest)) == limit

    assert await client.ask(largest) == Puback(1)

    await client.send(encode(Publish("t" * 1000, b"x" * (limit - 1008), 1, packet_id=1))[:1000])
    assert await client.until_closed() == []
    (line,) = [text for text in caplog.messages if "closed" in text]
    assert f" '{'x' * 100}': closed: packet type 3, remaining length: the packet has {limit + 1} bytes" in line


async def test_counters(broker: Broker, connect: ConnectRaw) -> None:
    client = await connect("c")
    await client.ask(Subscribe(1, (Subscription("t", 0), Subscription("u", 0))))
    await client.send(Publish("t", b""), Publish("v", b""))
    await client.receive()

    assert broker.statistics().doors["mqtt"] == {
        "clients": 1,
        "subscriptions": 2,
        "messages_received": 2,
        "messages_delivered": 1,
        "messages_missed": 0,
        "messages_expired": 0,
        "messages_oversized": 0,
        "retained": 0,
        "shared_subscriptions": 0,
        "wills_waiting": 0,
    }
