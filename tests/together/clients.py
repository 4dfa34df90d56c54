"""Clients of every door that go on whatever happens to their broker, and tell what they know.

A publisher knows which of its messages were acknowledged; a consumer knows what it has received. All of them publish to
and consume one log topic, ``mqtt``: MQTT topics ``fleet/NAME``, routing keys ``fleet.NAME`` of exchange ``amq.topic``,
keys ``fleet/NAME`` of the Kafka and native clients. So what each of them wrote has to arrive at all.

Each runs in a thread of its own, on its library's own reconnecting where there is any.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import confluent_kafka
import paho.mqtt.client as paho
import pika
from kafka import KafkaConsumer
from kafka.errors import KafkaError
from paho.mqtt.enums import CallbackAPIVersion, MessageState
from pika.exceptions import AMQPError

import trunkline

TOPIC = "mqtt"
GROUP = "crew"
QUEUE = "fleet"
UNDER_WAY = 30
"""Messages of one publisher that are not acknowledged yet."""

Addresses = dict[str, tuple[str, int]]


class Client(ABC):
    """Runs from :meth:`start` to :meth:`stop`; an error that its author did not expect ends it, and the test."""

    name: ClassVar[str]

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Again, or if it was never started, does nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(60)
        assert not self._thread.is_alive(), f"{self.name} hangs"

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def pause(self) -> None:
        """Before the next attempt, while the broker is away."""
        self._stopping.wait(0.05)

    def kafka_server(self) -> str:
        host, port = self.addresses["kafka"]
        return f"{host}:{port}"

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:  # told by the test
            self.failure = error

    @abstractmethod
    def run(self) -> None: ...

    @property
    @abstractmethod
    def progress(self) -> int:
        """Grows as long as the client gets on."""


class Publisher(Client):
    """``acknowledged``: values that the broker has answered for. ``is_exactly_once``: none of them is stored twice."""

    is_exactly_once = True

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        self.acknowledged: set[bytes] = set()

    @property
    def progress(self) -> int:
        return len(self.acknowledged)

    def values(self) -> Iterator[bytes]:
        number = 0
        while not self.is_stopping:
            yield f"{self.name} {number}".encode()
            number += 1


class Consumer(Client):
    """``received``: how often each value was."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        self.received: Counter[bytes] = Counter()

    def so_far(self) -> Counter[bytes]:
        """A copy of ``received``, while the thread goes on."""
        return Counter(dict.copy(self.received))

    @property
    def progress(self) -> int:
        return len(self.received)


# -- MQTT ------------------------------------------------------------------------------------------


class Paho(paho.Client):
    """At the second attempt to connect again paho forgets what it has released (QoS 2), and publishes it anew."""

    def _messages_reconnect_reset_out(self) -> None:
        released = [it for it in self._out_messages.values() if it.state == MessageState.MQTT_MS_RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in released:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


def device(name: str) -> paho.Client:
    """With a session that is kept."""
    client = Paho(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    client.reconnect_delay_set(1, 1)
    return client


class Device(Publisher):
    qos = 1
    is_exactly_once = False  # QoS 1: what was not acknowledged is sent again
    name = "device-1"

    def run(self) -> None:
        answered: SimpleQueue[int] = SimpleQueue()
        client = device(self.name)
        client.on_publish = lambda _client, _data, mid, _reason, _properties: answered.put(mid)
        client.connect(*self.addresses["mqtt"])
        client.loop_start()
        waiting: dict[int, bytes] = {}
        for value in self.values():
            waiting[client.publish(f"fleet/{self.name}", value, self.qos).mid] = value
            while len(waiting) > UNDER_WAY and not self.is_stopping:
                self._note(answered, waiting)
        deadline = time.monotonic() + 30
        while waiting and time.monotonic() < deadline:
            self._note(answered, waiting)
        assert not waiting, f"{self.name}: {len(waiting)} are not acknowledged"
        client.disconnect()
        client.loop_stop()

    def _note(self, answered: SimpleQueue[int], waiting: dict[int, bytes]) -> None:
        try:
            self.acknowledged.add(waiting.pop(answered.get(timeout=0.1)))
        except Empty:
            return


class CarefulDevice(Device):
    qos = 2
    is_exactly_once = True
    name = "device-2"


class Subscriber(Consumer):
    qos = 1
    name = "subscriber-1"

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        self.has_subscribed = threading.Event()

    def run(self) -> None:
        client = device(self.name)
        client.on_subscribe = lambda *_: self.has_subscribed.set()
        client.on_message = lambda _client, _data, message: self.received.update([bytes(message.payload)])
        client.connect(*self.addresses["mqtt"])
        client.subscribe("fleet/#", self.qos)  # once: the session outlives the broker
        client.loop_start()
        self._stopping.wait()
        client.disconnect()
        client.loop_stop()


class CarefulSubscriber(Subscriber):
    """Gets what was published with QoS 2 exactly once; other doors' records count as QoS 1."""

    qos = 2
    name = "subscriber-2"


# -- AMQP ------------------------------------------------------------------------------------------


class AmqpClient(Client):
    def run(self) -> None:
        host, port = self.addresses["amqp"]
        while not self.is_stopping:
            try:
                connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
                self.work(connection.channel())
                connection.close()
            except (AMQPError, OSError):
                self.pause()

    @abstractmethod
    def work(self, channel: Any) -> None: ...


class AmqpPublisher(AmqpClient, Publisher):
    """Waits for each confirm, and publishes again what had none."""

    is_exactly_once = False
    name = "amqp-publisher"

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(addresses)
        self._values = self.values()
        self._unconfirmed: bytes | None = None

    def work(self, channel: Any) -> None:
        channel.confirm_delivery()
        while True:
            if self._unconfirmed is None:
                self._unconfirmed = next(self._values, None)
                if self._unconfirmed is None:
                    return
            channel.basic_publish(
                "amq.topic", f"fleet.{self.name}", self._unconfirmed, pika.BasicProperties(delivery_mode=2)
            )
            self.acknowledged.add(self._unconfirmed)
            self._unconfirmed = None


class AmqpWorker(AmqpClient, Consumer):
    name = "amqp-worker"

    def work(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=50)
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.1):
            if method is not None:
                self.received[body] += 1
                channel.basic_ack(method.delivery_tag)
            if self.is_stopping:
                channel.cancel()
                return


def declare(addresses: Addresses) -> None:
    """The queue that AMQP's worker and the native one share out among them; from then on it takes all."""
    host, port = addresses["amqp"]
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, "amq.topic", "fleet.#")
    connection.close()


# -- Kafka -----------------------------------------------------------------------------------------


IMPATIENT = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "log_level": 0}


class KafkaPublisher(Publisher):
    """Idempotent."""

    name = "kafka-publisher"

    def run(self) -> None:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": self.kafka_server(), "enable.idempotence": True, "linger.ms": 1, **IMPATIENT}
        )
        waiting: deque[bytes] = deque()

        def answered(error: Any, message: Any) -> None:
            assert error is None, error
            waiting.remove(message.value())
            self.acknowledged.add(message.value())

        for value in self.values():
            waiting.append(value)
            producer.produce(TOPIC, value, f"fleet/{self.name}", on_delivery=answered)
            while len(waiting) > UNDER_WAY and not self.is_stopping:
                producer.poll(0.1)
        assert producer.flush(30) == 0


class ConfluentMember(Consumer):
    """One of two members of a group, of two libraries."""

    name = "confluent-member"

    def run(self) -> None:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.kafka_server(),
                "group.id": GROUP,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "partition.assignment.strategy": "range",
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
                **IMPATIENT,
            }
        )
        consumer.subscribe([TOPIC])
        while not self.is_stopping:
            messages = [message for message in consumer.consume(100, 0.1) if message.error() is None]
            self.received.update(message.value() for message in messages)
            if messages:
                try:
                    consumer.commit(asynchronous=False)
                except confluent_kafka.KafkaException:
                    continue  # the next one says as much, or what it had comes again
        consumer.close()


class KafkaPythonMember(Consumer):
    name = "kafka-python-member"

    def run(self) -> None:
        consumer = KafkaConsumer(
            TOPIC,
            bootstrap_servers=self.kafka_server(),
            group_id=GROUP,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6000,
            heartbeat_interval_ms=500,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=200,
        )
        while not self.is_stopping:
            try:
                found = consumer.poll(100, max_records=100)
                self.received.update(record.value for records in found.values() for record in records)
                if found:
                    consumer.commit()
            except KafkaError:
                self.pause()
        consumer.close()


# -- native ----------------------------------------------------------------------------------------


class NativeClient(Client):
    def run(self) -> None:
        host, port = self.addresses["native"]
        with trunkline.connect_blocking(f"trunkline://{host}:{port}") as bus:
            self.work(bus)

    @abstractmethod
    def work(self, bus: Any) -> None: ...


class NativePublisher(NativeClient, Publisher):
    """Idempotent."""

    name = "native-publisher"

    def work(self, bus: Any) -> None:
        waiting: deque[tuple[bytes, Any]] = deque()
        for value in self.values():
            waiting.append((value, bus.send(TOPIC, value, key=f"fleet/{self.name}")))
            while waiting and (len(waiting) > UNDER_WAY or self.is_stopping):
                self._note(*waiting.popleft())
        while waiting:
            self._note(*waiting.popleft())

    def _note(self, value: bytes, delivery: Any) -> None:
        delivery.result(60)
        self.acknowledged.add(value)


class NativeReader(NativeClient, Consumer):
    """Gets each record exactly once, over all restarts."""

    name = "native-reader"

    def work(self, bus: Any) -> None:
        with bus.tail(TOPIC, start="earliest") as reader:
            while not self.is_stopping:
                self.received.update(record.value for record in reader.next_chunk(0.2))


class NativeWorker(NativeClient, Consumer):
    """Takes from the queue that was declared over AMQP."""

    name = "native-worker"

    def work(self, bus: Any) -> None:
        with bus.queue(QUEUE) as jobs:
            while not self.is_stopping:
                records = jobs.next_chunk(0.2)
                self.received.update(record.value for record in records)
                jobs.ack(records)
