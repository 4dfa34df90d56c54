"""Whatever one door wrote, every door reads: each way in against each way out, with all that makes a message awkward.

All four doors share one log topic, ``mqtt``. What a door cannot say (AMQP has no keys longer than 255 bytes, MQTT no
message without a topic) is in ``docs/door-mqtt.md`` and ``docs/amqp-mapping.md``; here it is :func:`as_mqtt` and
:func:`as_amqp`.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import confluent_kafka
import paho.mqtt.client as paho
import pika
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

import trunkline
from trunkline.config import BrokerConfig, TopicsConfig
from trunkline.testing.background import BackgroundBroker

WAIT_S = 30.0
TOPIC = "mqtt"
MIB = 1024 * 1024

Headers = tuple[tuple[str, bytes | None], ...]


class Message(NamedTuple):
    """As a record of the log has it. ``timestamp``: ms since the epoch; None: the broker's."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int | None = None


class Seen(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers


LAST = b"matrix/last"
UNIT: Headers = (("unit", "°C".encode()), ("empty", b""))
ANY_DOOR = {
    "plain": Message(b"matrix/kitchen", b"21.5", UNIT),
    "binary": Message(b"matrix/binary", bytes(range(256))),
    "empty": Message(b"matrix/empty", b""),
    "unicode": Message("matrix/küche/温度".encode(), "grün".encode(), (("größe", b"1"),)),
    "dots": Message(b"matrix/a.b/c d", b"x"),
    "1 MiB": Message(b"matrix/large", b"\x00\xff" * (MIB // 2)),
    "longest AMQP key": Message(b"matrix/" + b"k" * 248, b"x"),
}
LOG_ONLY = {
    "repeated header": Message(b"matrix/repeated", b"x", (("a", b"1"), ("a", b"2"))),
    "null header": Message(b"matrix/null", b"x", (("nothing", None), ("b", b"2"))),
    "binary header": Message(b"matrix/binary-header", b"x", (("raw", b"\xff\xfe"), ("b", b"2"))),
    "tombstone": Message(b"matrix/tombstone", None),
    "more headers than a frame": Message(b"matrix/many", b"x", tuple((f"h{n}", b"x" * 100) for n in range(1500))),
    "own time": Message(b"matrix/time", b"x", (), 1_700_000_000_123),
    "very long key": Message(b"matrix/" + b"k" * 60_000, b"x"),
    "no key": Message(None, b"x"),
    "empty key": Message(b"", b"x"),
    "binary key": Message(b"\xff\xfe", b"x"),
    "wildcard in key": Message(b"matrix/+/#", b"x"),
}


@pytest.fixture(scope="module")
def broker() -> Iterator[BackgroundBroker]:
    config = BrokerConfig(
        plugins=[],
        topics=TopicsConfig(defaults={"max.message.bytes": str(4 * MIB)}),
        door={"mqtt": {"max_packet_bytes": 2 * MIB}},
    )
    with BackgroundBroker(config=config) as broker:
        yield broker


# -- writing ---------------------------------------------------------------------------------------


def write_native(broker: BackgroundBroker, messages: list[Message]) -> None:
    with trunkline.connect_blocking(broker.url) as bus:
        for message in messages:
            bus.send(TOPIC, message.value, key=message.key, headers=message.headers, timestamp=message.timestamp)
        bus.flush()


def write_kafka(broker: BackgroundBroker, messages: list[Message]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka(broker), "message.max.bytes": 4 * MIB})
    for message in messages:
        producer.produce(
            TOPIC, message.value, message.key, headers=list(message.headers), timestamp=message.timestamp or 0
        )
        assert producer.flush(WAIT_S) == 0


def write_mqtt(broker: BackgroundBroker, messages: list[Message]) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(*broker.addresses["mqtt"])
    client.loop_start()
    for message in messages:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(name, (value or b"").decode()) for name, value in message.headers]
        assert message.key is not None
        sent = client.publish(message.key.decode(), message.value, 1, properties=properties)
        sent.wait_for_publish(WAIT_S)
        assert sent.is_published()
    client.disconnect()
    client.loop_stop()


def write_amqp(broker: BackgroundBroker, messages: list[Message]) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters(*broker.addresses["amqp"]))
    channel = connection.channel()
    channel.confirm_delivery()
    for message in messages:
        assert message.key is not None
        assert message.value is not None
        headers = {name: (value or b"").decode() for name, value in message.headers}
        channel.basic_publish(
            "amq.topic",
            swapped(message.key).decode(),
            message.value,
            pika.BasicProperties(delivery_mode=2, headers=headers or None),
        )
    connection.close()


# -- reading ---------------------------------------------------------------------------------------


def kafka(broker: BackgroundBroker) -> str:
    host, port = broker.addresses["kafka"]
    return f"{host}:{port}"


def swapped(key: bytes) -> bytes:
    """A key as ``amq.topic`` has it, or back."""
    return key.translate(bytes.maketrans(b"./", b"/."))


def own(headers: Headers) -> Headers:
    """Without what the door that wrote them added, as documented."""
    return tuple(it for it in headers if not it[0].startswith(("mqtt.", "amqp.", "trunkline.", "x-mqtt-")))


def as_written(message: Message) -> Seen:
    return Seen(message.key, message.value, message.headers)


def as_mqtt(message: Message) -> Seen | None:
    """Null is empty; headers that are text are user properties; a key that is no topic name is not delivered."""
    try:
        topic = (message.key or b"").decode()
    except UnicodeDecodeError:
        return None
    if not topic or set(topic) & set("+#\0"):
        return None
    return Seen(message.key, message.value or b"", tuple(it for it in message.headers if is_text(it[1])))


def as_amqp(message: Message) -> Seen:
    """Null is empty; of a name that comes twice the last; of a long key the beginning; no headers beyond a frame."""
    headers = {name: value for name, value in message.headers if is_text(value)}
    if sum(len(name) + len(value or b"") for name, value in headers.items()) > 128 * 1024:
        headers = {}
    return Seen((message.key or b"")[:255], message.value or b"", tuple(headers.items()))


def as_bytes(routing_key: str | bytes) -> bytes:
    """Pika makes text of what is UTF-8."""
    return routing_key.encode() if isinstance(routing_key, str) else routing_key


def is_text(value: bytes | None) -> bool:
    try:
        return value is not None and value.decode() is not None
    except UnicodeDecodeError:
        return False


class Readers:
    """Begun before anything is written; each then reads up to the message with the key ``LAST``."""

    def __init__(self, broker: BackgroundBroker) -> None:
        self._broker = broker
        with trunkline.connect_blocking(broker.url) as bus:
            self.start = bus.offsets(TOPIC)[0].latest
        self._amqp = pika.BlockingConnection(pika.ConnectionParameters(*broker.addresses["amqp"]))
        self._channel = self._amqp.channel()
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, "amq.topic", "#")
        self._mqtt_messages: queue.Queue[Any] = queue.Queue()
        subscribed: queue.Queue[None] = queue.Queue()
        self._mqtt = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._mqtt.on_message = lambda _client, _data, message: self._mqtt_messages.put(message)
        self._mqtt.on_subscribe = lambda *_: subscribed.put(None)
        self._mqtt.connect(*broker.addresses["mqtt"])
        self._mqtt.loop_start()
        self._mqtt.subscribe("#", options=SubscribeOptions(qos=1))
        subscribed.get(timeout=WAIT_S)

    def close(self) -> None:
        self._amqp.close()
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def native(self) -> list[Seen]:
        found: list[Seen] = []
        with trunkline.connect_blocking(self._broker.url) as bus:
            for record in bus.tail(TOPIC, start=self.start):
                found.append(Seen(record.key, record.value, own(record.headers)))
                if record.key == LAST:
                    break
        return found

    def kafka(self) -> list[Seen]:
        consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka(self._broker), "group.id": "unused"})
        consumer.assign([confluent_kafka.TopicPartition(TOPIC, 0, self.start)])
        found: list[Seen] = []
        while not found or found[-1].key != LAST:
            message = consumer.poll(WAIT_S)
            assert message is not None
            assert message.error() is None
            found.append(Seen(message.key(), message.value(), own(tuple(message.headers() or ()))))
        consumer.close()
        return found

    def mqtt(self) -> list[Seen]:
        found: list[Seen] = []
        while not found or found[-1].key != LAST:
            message = self._mqtt_messages.get(timeout=WAIT_S)
            pairs = getattr(message.properties, "UserProperty", [])
            headers = tuple((name, value.encode()) for name, value in pairs)
            found.append(Seen(message.topic.encode(), bytes(message.payload), own(headers)))
        return found

    def amqp(self) -> list[Seen]:
        found = []
        for method, properties, body in self._consume():
            table = properties.headers or {}
            headers = tuple((name, str(value).encode()) for name, value in table.items())
            found.append(Seen(swapped(as_bytes(method.routing_key)), body, own(headers)))
        return found

    def amqp_timestamps(self) -> list[int]:
        return [properties.timestamp for _, properties, _ in self._consume()]

    def _consume(self) -> Iterator[tuple[Any, Any, bytes]]:
        for method, properties, body in self._channel.consume(self._queue, auto_ack=True, inactivity_timeout=WAIT_S):
            assert method is not None
            yield method, properties, body
            if swapped(as_bytes(method.routing_key)) == LAST:
                break
        self._channel.cancel()


@pytest.fixture
def readers(broker: BackgroundBroker) -> Iterator[Readers]:
    found = Readers(broker)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("write", "cases"),
    [
        (write_native, ANY_DOOR | LOG_ONLY),
        (write_kafka, ANY_DOOR | LOG_ONLY),
        (write_mqtt, ANY_DOOR),
        (write_amqp, ANY_DOOR),
    ],
    ids=["native", "kafka", "mqtt", "amqp"],
)
def test_every_door_reads_it(
    broker: BackgroundBroker,
    readers: Readers,
    write: Callable[[BackgroundBroker, list[Message]], None],
    cases: dict[str, Message],
) -> None:
    messages = [*cases.values(), Message(LAST, b"")]
    write(broker, messages)
    expected = [as_written(message) for message in messages]
    assert readers.native() == expected
    assert readers.kafka() == expected
    assert readers.mqtt() == [seen for seen in map(as_mqtt, messages) if seen is not None]
    assert readers.amqp() == [as_amqp(message) for message in messages]


def test_the_time_of_a_record_is_the_same_behind_every_door_that_has_one(
    broker: BackgroundBroker, readers: Readers
) -> None:
    write_native(broker, [Message(LAST, b"", UNIT, 1_700_000_000_123)])
    with trunkline.connect_blocking(broker.url) as bus:
        assert next(iter(bus.tail(TOPIC, start=readers.start))).timestamp == 1_700_000_000_123
    consumer = confluent_kafka.Consumer({"bootstrap.servers": kafka(broker), "group.id": "unused"})
    consumer.assign([confluent_kafka.TopicPartition(TOPIC, 0, readers.start)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    assert message is not None
    assert message.timestamp() == (confluent_kafka.TIMESTAMP_CREATE_TIME, 1_700_000_000_123)
    assert readers.amqp_timestamps() == [1_700_000_000]
