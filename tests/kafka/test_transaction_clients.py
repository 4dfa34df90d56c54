"""Transactions with unmodified clients: confluent-kafka, kafka-python, aiokafka; and what other doors show of them."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import Callable, Iterator
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import paho.mqtt.client as paho
import pytest
from confluent_kafka import admin
from paho.mqtt.enums import CallbackAPIVersion

import trunkline
from trunkline.testing.background import BackgroundBroker

WAIT_S = 20.0
NUMBERS = itertools.count()


on_each_store = pytest.mark.parametrize("running", ["segments", "sqlite"], indirect=True)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[BackgroundBroker]:
    """On segments, unless the test asks for others."""
    listen = dict.fromkeys(("kafka", "mqtt", "native"), "127.0.0.1:0")
    with BackgroundBroker(store=getattr(request, "param", "segments"), listen=listen) as broker:
        yield broker


@pytest.fixture
def server(running: BackgroundBroker) -> str:
    host, port = running.addresses["kafka"]
    return f"{host}:{port}"


@pytest.fixture
def make_topic(server: str) -> Callable[[], str]:
    """Makes topics with one partition and a name of their own."""

    def make() -> str:
        name = f"topic-{next(NUMBERS)}"
        client = admin.AdminClient({"bootstrap.servers": server})
        client.create_topics([admin.NewTopic(name, 1, 1)])[name].result(WAIT_S)
        return name

    return make


def transactional(server: str, name: str) -> confluent_kafka.Producer:
    producer = confluent_kafka.Producer({"bootstrap.servers": server, "transactional.id": name, "linger.ms": 0})
    producer.init_transactions(WAIT_S)
    return producer


def read(server: str, topic: str, isolation: str = "read_committed") -> list[bytes]:
    """All that a consumer of this isolation level finds now."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": server, "group.id": "x", "isolation.level": isolation, "enable.partition.eof": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    while True:
        message = consumer.poll(WAIT_S)
        assert message is not None
        if message.error():
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF
            consumer.close()
            return found
        found.append(message.value())


# -- confluent-kafka -----------------------------------------------------------------------------------


@on_each_store
def test_a_consumer_of_committed_records_sees_whole_transactions_only(
    server: str, make_topic: Callable[[], str]
) -> None:
    topic = make_topic()
    producer = transactional(server, topic)
    for values, is_commit in (((b"a", b"b"), True), ((b"no",), False), ((b"c",), True)):
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value)
        if is_commit:
            producer.commit_transaction(WAIT_S)
        else:
            assert producer.flush(WAIT_S) == 0
            producer.abort_transaction(WAIT_S)
    producer.begin_transaction()
    producer.produce(topic, b"open")
    assert producer.flush(WAIT_S) == 0
    assert read(server, topic) == [b"a", b"b", b"c"]
    assert read(server, topic, "read_uncommitted") == [b"a", b"b", b"no", b"c", b"open"]
    producer.abort_transaction(WAIT_S)
    assert read(server, topic) == [b"a", b"b", b"c"]


def test_the_newer_of_two_producers_fences_the_older(server: str, make_topic: Callable[[], str]) -> None:
    topic = make_topic()
    old = transactional(server, topic)
    old.begin_transaction()
    old.produce(topic, b"old")
    assert old.flush(WAIT_S) == 0
    new = transactional(server, topic)
    new.begin_transaction()
    new.produce(topic, b"new")
    new.commit_transaction(WAIT_S)
    with pytest.raises(confluent_kafka.KafkaException) as caught:
        old.commit_transaction(WAIT_S)
    assert caught.value.args[0].fatal()
    assert caught.value.args[0].code() == confluent_kafka.KafkaError._FENCED
    assert read(server, topic) == [b"new"]


@pytest.mark.parametrize("is_commit", [True, False])
def test_offsets_belong_to_the_transaction(server: str, make_topic: Callable[[], str], is_commit: bool) -> None:
    source, target = make_topic(), make_topic()
    plain = confluent_kafka.Producer({"bootstrap.servers": server})
    for number in range(5):
        plain.produce(source, b"%d" % number)
    assert plain.flush(WAIT_S) == 0
    options = {"bootstrap.servers": server, "group.id": target, "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer({**options, "auto.offset.reset": "earliest"})
    consumer.subscribe([source])
    messages: list[confluent_kafka.Message] = []
    while len(messages) < 5:
        messages += consumer.consume(5 - len(messages), WAIT_S)
    producer = transactional(server, target)
    producer.begin_transaction()
    for message in messages:
        producer.produce(target, message.value() + b"!")
    positions = consumer.position(consumer.assignment())
    producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), WAIT_S)
    if is_commit:
        producer.commit_transaction(WAIT_S)
    else:
        producer.abort_transaction(WAIT_S)
    (committed,) = consumer.committed(consumer.assignment(), WAIT_S)
    consumer.close()
    assert committed.offset == (5 if is_commit else confluent_kafka.OFFSET_INVALID)
    assert read(server, target) == ([b"%d!" % number for number in range(5)] if is_commit else [])


# -- kafka-python --------------------------------------------------------------------------------------


def test_kafka_python_s_transactions(server: str, make_topic: Callable[[], str]) -> None:
    source, target = make_topic(), make_topic()
    producer = kafka.KafkaProducer(bootstrap_servers=server, transactional_id=target)
    producer.init_transactions()
    for value, is_commit in ((b"yes", True), (b"no", False), (b"again", True)):
        producer.begin_transaction()
        producer.send(target, value).get(WAIT_S)
        if is_commit:
            offsets = {kafka.TopicPartition(source, 0): kafka.structs.OffsetAndMetadata(7, "", -1)}
            producer.send_offsets_to_transaction(offsets, target)
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=server,
        group_id=target,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    partition = kafka.TopicPartition(target, 0)
    consumer.assign([partition])
    found: list[Any] = []
    while len(found) < 2:
        found += consumer.poll(timeout_ms=1000).get(partition, ())
    assert [message.value for message in found] == [b"yes", b"again"]
    assert consumer.committed(kafka.TopicPartition(source, 0)) == 7
    consumer.close()


def test_kafka_python_s_admin_client_looks_at_transactions(server: str, make_topic: Callable[[], str]) -> None:
    topic = make_topic()
    producer = transactional(server, topic)
    producer.begin_transaction()
    producer.produce(topic, b"a")
    assert producer.flush(WAIT_S) == 0
    client = kafka.KafkaAdminClient(bootstrap_servers=server)
    try:
        listed = {found.transactional_id: found for found in itertools.chain(*client.list_transactions().values())}
        described = client.describe_transactions([topic])[topic]
        partition = kafka.TopicPartition(topic, 0)
        producers = client.describe_producers([partition])[partition]
    finally:
        client.close()
    assert (listed[topic].state.value, listed[topic].producer_id) == ("Ongoing", described.producer_id)
    assert described.topic_partitions == {partition}
    assert [found.current_transaction_start_offset for found in producers.active_producers] == [0]
    producer.abort_transaction(WAIT_S)


# -- aiokafka ------------------------------------------------------------------------------------------


def test_aiokafka_s_transactions(server: str, make_topic: Callable[[], str]) -> None:
    source, target = make_topic(), make_topic()

    async def scenario() -> tuple[list[bytes], int | None]:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=server, transactional_id=target)
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(target, b"yes")
            await producer.send_offsets_to_transaction({aiokafka.TopicPartition(source, 0): 7}, target)
        await producer.begin_transaction()
        await producer.send_and_wait(target, b"no")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(target, b"again")
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=server,
            group_id=target,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(target, 0)])
        found = [(await consumer.getone()).value for _ in range(2)]
        committed = await consumer.committed(aiokafka.TopicPartition(source, 0))
        await consumer.stop()
        return found, committed

    assert asyncio.run(asyncio.wait_for(scenario(), 3 * WAIT_S)) == ([b"yes", b"again"], 7)


# -- other doors ---------------------------------------------------------------------------------------


@on_each_store
def test_nobody_behind_another_door_sees_what_is_not_committed(running: BackgroundBroker, server: str) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    device = paho.Client(CallbackAPIVersion.VERSION2)
    device.on_message = lambda _c, _u, message: heard.put(bytes(message.payload))
    device.on_subscribe = lambda *_: subscribed.put(None)
    device.connect(*running.addresses["mqtt"])
    device.subscribe("news/#", 1)
    device.loop_start()
    try:
        subscribed.get(timeout=WAIT_S)
        with trunkline.connect_blocking(running.url) as bus:
            bus.create_queue("mail", sources=["mqtt"])
            producer = transactional(server, "news")
            for value, is_commit in ((b"first", True), (b"aborted", False), (b"second", True)):
                producer.begin_transaction()
                producer.produce("mqtt", value, b"news/today")
                assert producer.flush(WAIT_S) == 0
                device.publish("news/behind", b"behind " + value, 1).wait_for_publish(WAIT_S)
                if is_commit:
                    producer.commit_transaction(WAIT_S)
                else:
                    producer.abort_transaction(WAIT_S)
            expected = [b"first", b"behind first", b"behind aborted", b"second", b"behind second"]
            assert [heard.get(timeout=WAIT_S) for _ in expected] == expected
            assert [record.value for record in itertools.islice(bus.tail("mqtt", start="earliest"), 5)] == expected
            assert [record.value for record in bus.read("mqtt")] == expected
            with bus.queue("mail") as mail:
                assert [record.value for record in itertools.islice(mail, 5)] == expected
    finally:
        device.loop_stop()
        device.disconnect()
