"""One record, every door: a device, a worker, a reader and a program on the same records."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import kafka
import paho.mqtt.client as paho
import pika
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import trunkline
from trunkline.testing.background import BackgroundBroker

WAIT_S = 20.0

Connect = Callable[..., pika.BlockingConnection]


def get(channel: Any, queue_name: str) -> tuple[Any, pika.BasicProperties, bytes]:
    """The next message, once it is there."""
    deadline = monotonic() + WAIT_S
    while monotonic() < deadline:
        found = channel.basic_get(queue_name, auto_ack=True)
        if found[0] is not None:
            return found  # type: ignore[no-any-return]  # pika is not typed
    raise AssertionError(f"nothing came to {queue_name}")


def read_by_kafka(broker: BackgroundBroker, topic: str, count: int) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of the first records."""
    host, port = broker.addresses["kafka"]
    consumer = kafka.KafkaConsumer(bootstrap_servers=f"{host}:{port}", auto_offset_reset="earliest")
    consumer.assign([kafka.TopicPartition(topic, 0)])
    found: list[tuple[bytes | None, bytes | None]] = []
    deadline = monotonic() + WAIT_S
    while len(found) < count and monotonic() < deadline:
        for records in consumer.poll(timeout_ms=200).values():
            found += [(record.key, record.value) for record in records]
    consumer.close()
    return found


class Device:
    """A client of paho, connected."""

    def __init__(self, broker: BackgroundBroker, topic: str) -> None:
        self.got: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.properties: dict[str, Any] = {}
        ready: queue.Queue[None] = queue.Queue()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._take
        self.client.on_subscribe = lambda *_: ready.put(None)
        self.client.connect(*broker.addresses["mqtt"])
        self.client.loop_start()
        self.client.subscribe(topic, qos=1)
        ready.get(timeout=WAIT_S)

    def _take(self, _client: Any, _userdata: Any, message: Any) -> None:
        self.properties = vars(message.properties)
        self.got.put((message.topic, bytes(message.payload)))

    def publish(self, topic: str, payload: bytes, **user: str) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "text/plain"
        properties.UserProperty = list(user.items())
        self.client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(WAIT_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def device(amqp_broker: BackgroundBroker, name: str) -> Iterator[Device]:
    found = Device(amqp_broker, f"{name}/+/temp")
    yield found
    found.close()


def test_a_device_a_worker_a_reader_and_a_program_share_their_records(
    amqp_broker: BackgroundBroker, channel: Any, device: Device, name: str
) -> None:
    channel.queue_declare(name, durable=True)
    channel.queue_bind(name, "amq.topic", f"{name}.*.temp")
    device.publish(f"{name}/kitchen/temp", b"21", unit="C")
    method, properties, body = get(channel, name)
    assert (method.exchange, method.routing_key, body) == ("amq.topic", f"{name}.kitchen.temp", b"21")
    assert properties.content_type == "text/plain"
    assert properties.headers is not None
    assert properties.headers["unit"] == "C"
    channel.basic_publish("amq.topic", f"{name}.hall.temp", b"19")
    assert device.got.get(timeout=WAIT_S) == (f"{name}/kitchen/temp", b"21")
    assert device.got.get(timeout=WAIT_S) == (f"{name}/hall/temp", b"19")
    expected = [(f"{name}/kitchen/temp".encode(), b"21"), (f"{name}/hall/temp".encode(), b"19")]
    assert read_by_kafka(amqp_broker, "mqtt", 2) == expected
    with trunkline.connect_blocking(amqp_broker.url) as bus:
        records = iter(bus.tail("mqtt", start="earliest"))
        assert [(record.key, record.value) for _, record in zip(expected, records, strict=False)] == expected


def test_devices_get_what_is_published_to_amq_topic_whoever_else_does_and_all_that_mqtt_has_words_for(
    channel: Any, device: Device, name: str
) -> None:
    """Also what is not persistent, though a queue in memory gets it: whether one does is nobody's business here."""
    own = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(own, "amq.topic", f"{name}.#")
    said = pika.BasicProperties(
        content_type="text/plain", reply_to="replies.to.me", correlation_id="7", expiration="60000", headers={"a": "b"}
    )
    for payload in (b"1", b"2", b"3"):
        channel.basic_publish("amq.topic", f"{name}.hall.temp", payload, said)
        assert device.got.get(timeout=WAIT_S) == (f"{name}/hall/temp", payload)
        assert 58 <= device.properties.pop("MessageExpiryInterval") <= 60
        assert device.properties.items() >= {
            "ContentType": "text/plain", "ResponseTopic": "replies/to/me", "CorrelationData": b"7"
        }.items()  # fmt: skip
        assert device.properties["UserProperty"] == [("a", "b")]
    for payload in (b"4", b"5", b"6"):
        channel.basic_publish("amq.topic", f"{name}.hall.temp", payload, pika.BasicProperties(content_type="text/x"))
        assert device.got.get(timeout=WAIT_S) == (f"{name}/hall/temp", payload)
        assert device.properties["ContentType"] == "text/x"
    assert get(channel, own)[1].expiration == "60000"


def test_an_exchange_is_a_topic_for_the_others(amqp_broker: BackgroundBroker, channel: Any, name: str) -> None:
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(f"{name}-q", durable=True)
    channel.queue_bind(f"{name}-q", name, "eu.#")
    channel.basic_publish(name, "eu.de", b"1", pika.BasicProperties(headers={"size": 5}))
    host, port = amqp_broker.addresses["kafka"]
    producer = kafka.KafkaProducer(bootstrap_servers=f"{host}:{port}")
    for key, value in ((b"us.ny", b"no"), (b"eu.fr", b"2")):
        producer.send(name, value, key=key, headers=[("size", b"6")]).get(timeout=WAIT_S)
    producer.close()
    with trunkline.connect_blocking(amqp_broker.url) as bus:
        bus.publish(name, b"3", key=b"eu.it")
        record = next(iter(bus.tail(name, start="earliest")))
    assert (record.key, record.value, dict(record.headers)["size"]) == (b"eu.de", b"1", b"5")
    got = [get(channel, f"{name}-q") for _ in range(3)]
    assert [(method.routing_key, body) for method, _, body in got] == [
        ("eu.de", b"1"),
        ("eu.fr", b"2"),
        ("eu.it", b"3"),
    ]
    assert [properties.headers for _, properties, _ in got] == [{"size": 5}, {"size": "6"}, None]
    assert [value for _, value in read_by_kafka(amqp_broker, name, 4)] == [b"1", b"no", b"2", b"3"]
