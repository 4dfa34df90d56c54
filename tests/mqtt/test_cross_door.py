"""One record, every door: what the documentation says of MQTT messages as records, with native and Kafka clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import trio
from tests.mqtt.conftest import WAIT_S, Dial, hello, messages

import trunkline
from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline_mqtt.packets import (
    MQTT_5,
    Connect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.properties import Properties

pytestmark = pytest.mark.trio

LISTEN: dict[str, Any] = dict.fromkeys(("mqtt", "native", "kafka"), "127.0.0.1:0")
ROUTE: dict[str, Any] = {"filter": "dev/{id}/#", "topic": "devices", "partitions": 3, "partition_by": "{id}"}


@pytest.fixture
async def all_doors(tmp_path: Path) -> AsyncIterator[Broker]:
    config = BrokerConfig(listen=LISTEN, storage="memory", door={"mqtt": {"routes": [ROUTE]}})
    async with open_broker(tmp_path, config=config, store="memory", listen=LISTEN) as broker:
        yield broker


@pytest.fixture
async def bus(all_doors: Broker) -> AsyncIterator[trunkline.Bus]:
    host, port = all_doors.addresses["native"]
    async with trunkline.connect(f"trunkline://{host}:{port}") as connected:
        yield connected


async def test_native_clients_read_all_that_an_mqtt_message_says(
    all_doors: Broker, bus: trunkline.Bus, dial: Dial
) -> None:
    device = await dial(all_doors.addresses["mqtt"], Connect("attic", protocol_level=MQTT_5))
    properties = Properties(payload_format=1, message_expiry_s=60, content_type="text/plain", user=(("a", "1"),))
    before = all_doors.now_ms()
    assert await device.ask(Publish("t", b"21", 1, True, packet_id=1, properties=properties)) == Puback(1, 0x00)

    (record,) = [record async for record in bus.read("mqtt")]
    headers = dict(record.headers)
    expires = int(headers.pop("mqtt.expires") or b"")
    assert before + 60_000 <= expires <= all_doors.now_ms() + 60_000
    assert (record.key, record.value) == (b"t", b"21")
    assert headers == {
        "mqtt.client": b"attic",
        "mqtt.qos": b"1",
        "mqtt.retain": b"1",
        "mqtt.format": b"1",
        "mqtt.content-type": b"text/plain",
        "a": b"1",
    }
    with trio.fail_after(WAIT_S):
        async with bus.tail("mqtt.retained", start="earliest") as copies:
            async for copy in copies:  # there are notes of the view's own among them
                if copy.key == b"t":
                    assert copy.value == b"21"
                    break


async def test_native_clients_can_say_all_that_mqtt_has_words_for(
    all_doors: Broker, bus: trunkline.Bus, dial: Dial
) -> None:
    device = await dial(all_doors.addresses["mqtt"], hello(5))
    share = Subscription("$share/g/t/#", 2)
    assert await device.ask(Subscribe(1, (Subscription("t/+", 2), share))) == Suback(1, (2, 2))
    soon = str(all_doors.now_ms() + 60_000).encode()
    headers = {"mqtt.qos": b"2", "mqtt.format": b"1", "mqtt.expires": soon, "mqtt.correlation": b"\0", "x": b"1"}
    await bus.publish("mqtt", b"old", key=b"t/1", headers={"mqtt.expires": b"1"})
    await bus.publish("mqtt", None, key=b"t/1", headers={"mqtt.qos": b"0"})
    await bus.publish("mqtt", b"new", key=b"t/1", headers=headers)

    found = await messages(device, 4)  # each by both subscriptions
    assert sorted((message.payload, message.qos) for message in found) == [(b"", 0), (b"", 0), (b"new", 2), (b"new", 2)]
    rich = [message.properties for message in found if message.payload]
    assert all(properties.user == (("x", "1"),) and properties.correlation == b"\0" for properties in rich)
    assert all(59 <= (properties.message_expiry_s or 0) <= 60 for properties in rich)


async def test_a_native_client_retains_and_takes_away(all_doors: Broker, bus: trunkline.Bus, dial: Dial) -> None:
    await bus.publish("devices", b"kept", key=b"dev/7/state", headers={"mqtt.retain": b"1"})
    await bus.publish("mqtt", b"kept too", key=b"plain", headers={"mqtt.retain": b"1"})
    await bus.publish("mqtt", b"", key=b"plain", headers={"mqtt.retain": b"1"})
    device = await dial(all_doors.addresses["mqtt"], Connect("c"))
    await device.send(Subscribe(1, (Subscription("#", 0),)))

    found = [await device.receive(), await device.receive()]
    assert Publish("dev/7/state", b"kept", retain=True) in found
    assert Suback(1, (0,)) in found
    assert (await all_doors.publish("mqtt", b"", key=b"end")).offset == 2
    assert await device.receive() == Publish("end", b"")


def produce(server: str, topic: str, keys: Sequence[bytes | None]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": server})
    for key in keys:
        producer.produce(topic, b"from Kafka", key)
    assert producer.flush(WAIT_S) == 0


def consume(server: str, topic: str, partition: int, offset: int) -> tuple[bytes | None, bytes | None]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server, "group.id": "unused"})
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, offset)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    assert message is not None
    assert message.error() is None
    return message.key(), message.value()


async def test_kafka_clients_share_routed_topics_with_mqtt(all_doors: Broker, dial: Dial) -> None:
    host, port = all_doors.addresses["kafka"]
    device = await dial(all_doors.addresses["mqtt"], Connect("c"))
    await device.ask(Subscribe(1, (Subscription("dev/#", 1),)))
    await device.send(Publish("dev/7/a", b"from MQTT", 1, packet_id=1))
    packets = [await device.receive(), await device.receive()]
    assert Publish("dev/7/a", b"from MQTT", 1, packet_id=1) in packets
    (record,) = [record async for record in all_doors.read("devices", follow=False)]

    found = await trio.to_thread.run_sync(consume, f"{host}:{port}", "devices", record.partition, record.offset)
    assert found == (b"dev/7/a", b"from MQTT")
    await trio.to_thread.run_sync(produce, f"{host}:{port}", "devices", [b"dev/8/b"])
    assert (await messages(device, 1))[0].topic == "dev/8/b"


async def test_a_topic_of_kafka_s_alone_is_replayed_to_mqtt_clients(all_doors: Broker, dial: Dial) -> None:
    host, port = all_doors.addresses["kafka"]
    await trio.to_thread.run_sync(produce, f"{host}:{port}", "orders", [None, b"7", b"a/+"])
    device = await dial(all_doors.addresses["mqtt"], Connect("c"))
    await device.ask(Subscribe(1, (Subscription("$stream/orders", 1),)))

    found = [message.topic for message in await messages(device, 3)]
    assert found == ["$stream/orders/0", "7", "$stream/orders/0"]


@pytest.mark.parametrize("size", [1024 * 1024, 5_000_000])
async def test_what_is_large_comes_out_of_every_door(
    all_doors: Broker, bus: trunkline.Bus, dial: Dial, size: int
) -> None:
    payload = b"x" * size
    device = await dial(all_doors.addresses["mqtt"], Connect("c"))
    await device.ask(Subscribe(1, (Subscription("big", 0),)))
    await device.send(Publish("big", payload, 1, True, packet_id=1))
    found = [await device.receive(), await device.receive()]
    assert Publish("big", payload) in found
    late = await dial(all_doors.addresses["mqtt"], Connect("late"))
    await late.send(Subscribe(1, (Subscription("big", 0),)))
    found = [await late.receive(), await late.receive()]
    assert Publish("big", payload, retain=True) in found

    (record,) = [record async for record in bus.read("mqtt")]
    assert record.value == payload
    host, port = all_doors.addresses["kafka"]
    assert await trio.to_thread.run_sync(consume, f"{host}:{port}", "mqtt", 0, record.offset) == (b"big", payload)
