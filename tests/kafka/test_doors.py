"""One record, every door: what Kafka clients publish is read over MQTT and natively, and the other way round."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import confluent_kafka
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import trunkline
from trunkline.testing.background import BackgroundBroker

WAIT_S = 20.0


@pytest.fixture
def all_doors() -> Iterator[BackgroundBroker]:
    listen = dict.fromkeys(("kafka", "mqtt", "native"), "127.0.0.1:0")
    with BackgroundBroker(store="memory", listen=listen) as broker:
        yield broker


@pytest.fixture
def server(all_doors: BackgroundBroker) -> str:
    host, port = all_doors.addresses["kafka"]
    return f"{host}:{port}"


def produce(server: str, topic: str, key: bytes, value: bytes, **headers: bytes) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": server})
    producer.produce(topic, value, key, headers=list(headers.items()))
    assert producer.flush(WAIT_S) == 0


def consume(server: str, topic: str) -> confluent_kafka.Message:
    """The first message of the topic's first partition."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server, "group.id": "unused"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    assert message is not None
    assert message.error() is None
    return message


def test_native_clients_read_what_kafka_clients_publish(all_doors: BackgroundBroker, server: str) -> None:
    produce(server, "orders", b"k", b"v", unit=b"mm")
    with trunkline.connect_blocking(all_doors.url) as bus:
        record = next(iter(bus.tail("orders", start="earliest")))
    assert (record.key, record.value, record.headers) == (b"k", b"v", (("unit", b"mm"),))


def test_kafka_clients_read_what_native_clients_publish(all_doors: BackgroundBroker, server: str) -> None:
    with trunkline.connect_blocking(all_doors.url) as bus:
        bus.publish("orders", b"v", key=b"k", headers={"unit": b"mm"})
    message = consume(server, "orders")
    assert (message.key(), message.value(), message.headers()) == (b"k", b"v", [("unit", b"mm")])


def test_mqtt_clients_get_what_kafka_clients_publish_and_the_other_way_round(
    all_doors: BackgroundBroker, server: str
) -> None:
    messages: queue.Queue[tuple[str, bytes | bytearray]] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    device = paho.Client(CallbackAPIVersion.VERSION2)
    device.on_message = lambda _c, _u, message: messages.put((message.topic, message.payload))
    device.on_subscribe = lambda *_: subscribed.put(None)
    device.connect(*all_doors.addresses["mqtt"])
    device.subscribe("home/#", 1)
    device.loop_start()
    try:
        subscribed.get(timeout=WAIT_S)
        device.publish("home/attic", b"21", 1).wait_for_publish(WAIT_S)
        assert messages.get(timeout=WAIT_S) == ("home/attic", b"21")
        produce(server, "mqtt", b"home/cellar", b"12")
        assert messages.get(timeout=WAIT_S) == ("home/cellar", b"12")
    finally:
        device.disconnect()
        device.loop_stop()
    message = consume(server, "mqtt")
    assert (message.key(), message.value()) == (b"home/attic", b"21")
    assert ("mqtt.qos", b"1") in message.headers()
