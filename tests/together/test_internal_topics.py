"""What the broker remembers in topics of its own is nothing that a client may see or change, through any door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import confluent_kafka
import paho.mqtt.client as paho
import pika
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from pika.exceptions import ChannelClosedByBroker

import trunkline
from trunkline import BlockingBus
from trunkline.config import BrokerConfig
from trunkline.errors import InvalidSetting, InvalidTopicName, TrunklineError, UnknownTopic
from trunkline.testing.background import BackgroundBroker

WAIT_S = 30.0
INTERNAL = ("__offsets", "__queues", "__sessions")


@pytest.fixture(scope="module")
def broker() -> Iterator[BackgroundBroker]:
    """A broker with something in each of its own topics."""
    with BackgroundBroker(config=BrokerConfig(plugins=[])) as broker:
        with trunkline.connect_blocking(broker.url) as bus:
            bus.publish("orders", b"1")
            with bus.group("billing").subscribe("orders", start="earliest") as records:
                next(records)
            with bus.queue("emails", sources=["orders"], start="earliest") as jobs:
                next(jobs).ack()
        device = Device(broker, "device", clean_session=False)
        assert not device.subscribe("a/#").is_failure
        device.close()
        yield broker


@pytest.fixture(scope="module")
def bus(broker: BackgroundBroker) -> Iterator[BlockingBus]:
    with trunkline.connect_blocking(broker.url) as bus:
        yield bus


class Device:
    """An MQTT client."""

    def __init__(self, broker: BackgroundBroker, name: str, *, clean_session: bool = True) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, name, clean_session=clean_session)
        self._codes: Any = None
        self._client.on_subscribe = self._subscribed
        host, port = broker.addresses["mqtt"]
        self._client.connect(host, port)
        while not self._client.is_connected():
            assert self._client.loop(WAIT_S) == 0

    def _subscribed(self, client: paho.Client, data: object, packet_id: int, codes: Any, properties: object) -> None:
        self._codes = codes

    def subscribe(self, topic_filter: str) -> Any:
        """The broker's answer."""
        self._codes = None
        self._client.subscribe(topic_filter, 1)
        while self._codes is None:
            assert self._client.loop(WAIT_S) == 0
        return self._codes[0]

    def close(self) -> None:
        self._client.disconnect()


def test_the_python_client_does_not_find_them(bus: BlockingBus) -> None:
    names = [topic.name for topic in bus.list_topics()]
    assert "orders" in names
    assert not [name for name in names if name.startswith("__")]


@pytest.mark.parametrize("topic", [*INTERNAL, "__new"])
@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda bus, topic: bus.publish(topic, b"x"), InvalidTopicName),
        (lambda bus, topic: next(bus.read(topic)), UnknownTopic),
        (lambda bus, topic: bus.describe_topic(topic), UnknownTopic),
        (lambda bus, topic: bus.create_topic(topic), InvalidTopicName),
        (lambda bus, topic: bus.alter_topic(topic, settings={"retention.ms": "1"}), UnknownTopic),
        (lambda bus, topic: bus.delete_records(topic, {0: 1}), UnknownTopic),
        (lambda bus, topic: bus.delete_topic(topic), UnknownTopic),
        (lambda bus, topic: bus.create_queue(topic), InvalidTopicName),
        (lambda bus, topic: bus.create_queue("spy", sources=[topic]), InvalidSetting),
        (lambda bus, topic: bus.queue("emails").move(topic), InvalidTopicName),
    ],
    ids=["publish", "read", "describe", "create", "alter", "trim", "delete", "queue", "source", "move"],
)
def test_the_python_client_can_do_nothing_with_them(
    bus: BlockingBus, topic: str, use: Callable[[BlockingBus, str], object], error: type[TrunklineError]
) -> None:
    with pytest.raises(error):
        use(bus, topic)


def test_a_group_that_subscribes_to_everything_is_not_given_them(bus: BlockingBus) -> None:
    with bus.group("curious").subscribe("*") as records:
        assert records.next_chunk(WAIT_S)
        (member,) = bus.group("curious").describe().members
    topics = {assigned[0] for assigned in member.assigned}
    assert "orders" in topics
    assert not [topic for topic in topics if topic.startswith("__")]


@pytest.mark.parametrize("topic", INTERNAL)
def test_kafka_s_clients_can_neither_write_nor_read_them(broker: BackgroundBroker, topic: str) -> None:
    host, port = broker.addresses["kafka"]
    servers = {"bootstrap.servers": f"{host}:{port}"}
    answers: list[str] = []
    producer = confluent_kafka.Producer({**servers, "message.timeout.ms": 10_000})
    producer.produce(
        topic, b"x", on_delivery=lambda error, message: answers.append(error.name() if error else "written")
    )
    producer.flush(WAIT_S)
    assert len(answers) == 1
    assert answers != ["written"]
    consumer = confluent_kafka.Consumer({**servers, "group.id": "spy"})
    with pytest.raises(confluent_kafka.KafkaException):
        consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0), timeout=WAIT_S)
    consumer.close()


@pytest.mark.parametrize("topic", INTERNAL)
def test_mqtt_s_clients_cannot_replay_them(broker: BackgroundBroker, topic: str) -> None:
    device = Device(broker, "spy")
    assert device.subscribe(f"$stream/{topic}/#").is_failure
    device.close()


@pytest.mark.parametrize("topic", INTERNAL)
def test_amqp_s_exchanges_and_queues_of_these_names_are_others(
    broker: BackgroundBroker, bus: BlockingBus, topic: str
) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters(*broker.addresses["amqp"]))
    for declare in ("exchange_declare", "queue_declare"):
        with pytest.raises(ChannelClosedByBroker, match="404"):
            getattr(connection.channel(), declare)(topic, passive=True)
    channel = connection.channel()
    channel.queue_declare(topic, durable=True, arguments={"x-queue-type": "classic"})
    channel.confirm_delivery()
    channel.basic_publish("", topic, b"mine")
    assert channel.basic_get(topic, auto_ack=True)[2] == b"mine"
    channel.queue_delete(topic)
    connection.close()
    assert topic not in [found.name for found in bus.list_topics()]
