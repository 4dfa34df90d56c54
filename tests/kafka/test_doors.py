"""One record, every door: what Kafka clients publish is read over MQTT and natively, and the other way round."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

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


# -- keys and headers ------------------------------------------------------------------------------


def test_keys_values_and_headers_are_the_same_in_both_directions(all_doors: BackgroundBroker, server: str) -> None:
    """Null and empty are told apart, header names repeat and keep their order, a header may be null."""
    headers = [("a", b"1"), ("b", b""), ("a", b"2"), ("null", None)]
    cases: list[tuple[bytes | None, bytes | None]] = [(None, b"v"), (b"", b""), (b"k", None), (b"\x00\xff", b"\x80")]
    producer = confluent_kafka.Producer({"bootstrap.servers": server})
    for key, value in cases:
        producer.produce("from-kafka", value, key, headers=headers)
    assert producer.flush(WAIT_S) == 0
    with trunkline.connect_blocking(all_doors.url) as bus:
        found = list(bus.read("from-kafka"))
        assert [(record.key, record.value) for record in found] == cases
        assert all(record.headers == tuple(headers) for record in found)
        for key, value in cases:
            bus.publish("from-native", value, key=key, headers=headers)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server, "group.id": "unused"})
    consumer.assign([confluent_kafka.TopicPartition("from-native", 0, 0)])
    messages = consumer.consume(len(cases), WAIT_S)
    consumer.close()
    assert [(message.key(), message.value()) for message in messages] == cases
    assert all(message.headers() == headers for message in messages)


def test_what_mqtt_says_of_a_message_are_headers_to_kafka(all_doors: BackgroundBroker, server: str) -> None:
    """As docs/door-mqtt.md has it, and back again: a Kafka client's headers are user properties."""
    messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    device = paho.Client(CallbackAPIVersion.VERSION2, client_id="attic", protocol=paho.MQTTv5)
    device.on_message = lambda _c, _u, message: messages.put(message)
    device.on_subscribe = lambda *_: subscribed.put(None)
    device.connect(*all_doors.addresses["mqtt"])
    device.loop_start()
    try:
        device.subscribe("from-kafka/#", 1)
        subscribed.get(timeout=WAIT_S)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "answers"
        properties.CorrelationData = b"\x01\x02"
        properties.UserProperty = [("unit", "C"), ("unit", "F"), ("mqtt.qos", "mine")]
        device.publish("home/attic", b"21", 1, properties=properties).wait_for_publish(WAIT_S)
        message = consume(server, "mqtt")
        assert message.key() == b"home/attic"
        assert message.headers() == [
            ("mqtt.client", b"attic"),
            ("mqtt.qos", b"1"),
            ("mqtt.content-type", b"text/plain"),
            ("mqtt.response-topic", b"answers"),
            ("mqtt.correlation", b"\x01\x02"),
            ("unit", b"C"),
            ("unit", b"F"),
            ("mqtt..qos", b"mine"),
        ]
        produce(server, "mqtt", b"from-kafka/1", b"12", unit=b"C", **{"mqtt.content-type": b"text/csv"})
        back: Any = messages.get(timeout=WAIT_S)
        assert (back.topic, back.payload, back.qos) == ("from-kafka/1", b"12", 1)
        assert (back.properties.ContentType, back.properties.UserProperty) == ("text/csv", [("unit", "C")])
    finally:
        device.disconnect()
        device.loop_stop()


def test_what_cannot_be_an_mqtt_message_stays_in_the_log(all_doors: BackgroundBroker, server: str) -> None:
    """No key, or one that is no topic name: other subscribers and messages are not held up."""
    messages: queue.Queue[bytes | bytearray] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    device = paho.Client(CallbackAPIVersion.VERSION2)
    device.on_message = lambda _c, _u, message: messages.put(message.payload)
    device.on_subscribe = lambda *_: subscribed.put(None)
    device.connect(*all_doors.addresses["mqtt"])
    device.loop_start()
    try:
        device.subscribe("#", 1)
        subscribed.get(timeout=WAIT_S)
        producer = confluent_kafka.Producer({"bootstrap.servers": server})
        for number, key in enumerate((None, b"with/+/wildcard", b"\xff\xfe", b"", b"good")):
            producer.produce("mqtt", b"%d" % number, key)
        assert producer.flush(WAIT_S) == 0
        assert messages.get(timeout=WAIT_S) == b"4"
    finally:
        device.disconnect()
        device.loop_stop()


# -- groups ----------------------------------------------------------------------------------------


def kafka_member(server: str, group: str, count: int) -> list[bytes]:
    """So many values read by a member of the group, which commits them and leaves."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.subscribe(["orders"])
    found = []
    for _ in range(count):
        message = consumer.poll(WAIT_S)
        assert message is not None
        assert message.error() is None
        found.append(message.value())
        consumer.commit(message, asynchronous=False)
    consumer.close()
    return found


def native_member(bus: trunkline.BlockingBus, group: str, count: int) -> list[bytes | None]:
    found = []
    with bus.group(group).subscribe("orders") as records:
        for record in records:
            found.append(record.value)
            if len(found) == count:
                records.commit()
                break
    return found


def test_members_of_both_kinds_go_on_where_the_other_stopped(all_doors: BackgroundBroker, server: str) -> None:
    with trunkline.connect_blocking(all_doors.url) as bus:
        for number in range(8):
            bus.publish("orders", b"%d" % number)
        assert kafka_member(server, "billing", 3) == [b"0", b"1", b"2"]
        assert native_member(bus, "billing", 3) == [b"3", b"4", b"5"]
        assert kafka_member(server, "billing", 2) == [b"6", b"7"]
        (found,) = bus.group("billing").describe().offsets
        assert (found.topic, found.partition, found.committed, found.lag) == ("orders", 0, 8, 0)


def test_offsets_that_one_kind_commits_from_outside_are_seen_by_the_other(
    all_doors: BackgroundBroker, server: str
) -> None:
    with trunkline.connect_blocking(all_doors.url) as bus:
        for number in range(4):
            bus.publish("orders", b"%d" % number)
        consumer = confluent_kafka.Consumer({"bootstrap.servers": server, "group.id": "billing"})
        place = confluent_kafka.TopicPartition("orders", 0, 2)
        consumer.commit(offsets=[place], asynchronous=False)
        assert native_member(bus, "billing", 1) == [b"2"]
        (found,) = consumer.committed([confluent_kafka.TopicPartition("orders", 0)], WAIT_S)
        consumer.close()
    assert found.offset == 3


def test_a_kafka_member_cannot_join_native_ones_and_is_told(all_doors: BackgroundBroker, server: str) -> None:
    errors: queue.Queue[confluent_kafka.KafkaError] = queue.Queue()
    with trunkline.connect_blocking(all_doors.url) as bus:
        bus.publish("orders", b"0")
        with bus.group("billing").subscribe("orders") as records:
            assert next(iter(records)).value == b"0"
            consumer = confluent_kafka.Consumer(
                {"bootstrap.servers": server, "group.id": "billing", "error_cb": errors.put}
            )
            consumer.subscribe(["orders"])
            message = consumer.poll(WAIT_S)
            consumer.close()
    assert message is not None
    assert message.error().code() == confluent_kafka.KafkaError.INCONSISTENT_GROUP_PROTOCOL
