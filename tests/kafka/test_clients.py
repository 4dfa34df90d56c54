"""Unmodified clients over real sockets: kafka-python, confluent-kafka, aiokafka and kcat."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka
import kafka
import kafka.admin
import pytest
import trio
import trustme
from confluent_kafka import admin

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, TlsConfig

pytestmark = pytest.mark.trio

WAIT_S = 20.0


async def in_thread(broker: Broker, scenario: Callable[..., Any], *args: Any) -> Any:
    """Run a blocking scenario, which gets the broker's address, beside it."""
    host, port = broker.addresses["kafka"]
    with trio.fail_after(3 * WAIT_S):
        return await trio.to_thread.run_sync(scenario, f"{host}:{port}", *args)


async def stored(broker: Broker, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) async for record in broker.read(topic, follow=False)]


# -- kafka-python ----------------------------------------------------------------------------------


def hello_kafka(server: str) -> list[bytes]:
    producer = kafka.KafkaProducer(bootstrap_servers=server)
    for _ in range(10):
        producer.send("test-topic", b"Hello Kafka!")
    producer.flush()
    producer.close()
    consumer = kafka.KafkaConsumer(
        "test-topic", bootstrap_servers=server, auto_offset_reset="earliest", group_id="test-group"
    )
    found = []
    for message in consumer:
        found.append(message.value)
        if len(found) == 10:
            break
    consumer.close()
    return found


async def test_the_well_known_snippet(broker: Broker) -> None:
    assert await in_thread(broker, hello_kafka) == [b"Hello Kafka!"] * 10
    committed = broker.groups.committed("test-group")
    assert [(str(partition), offset.offset) for partition, offset in committed.items()] == [("test-topic/0", 10)]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_kafka_python_with_every_compression(broker: Broker, compression: str) -> None:
    def scenario(server: str) -> list[tuple[Any, ...]]:
        producer = kafka.KafkaProducer(bootstrap_servers=server, compression_type=compression, acks="all")
        for number in range(20):
            producer.send("t", b"v" * 100, key=b"%d" % number, headers=[("h", b"x")])
        producer.close()
        consumer = kafka.KafkaConsumer(bootstrap_servers=server)
        partition = kafka.TopicPartition("t", 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        found: list[Any] = []
        while len(found) < 20:
            found += consumer.poll(timeout_ms=1000).get(partition, ())
        consumer.close()
        return [(message.key, message.value, message.headers) for message in found]

    found = await in_thread(broker, scenario)
    assert found == [(b"%d" % number, b"v" * 100, [("h", b"x")]) for number in range(20)]
    assert await stored(broker, "t") == [(b"%d" % number, b"v" * 100) for number in range(20)]


async def test_kafka_python_s_administration(broker: Broker) -> None:
    def scenario(server: str) -> None:
        client = kafka.admin.KafkaAdminClient(bootstrap_servers=server)
        client.create_topics([kafka.admin.NewTopic("made", 3, 1, topic_configs={"retention.ms": "5000"})])
        assert "made" in client.list_topics()
        described = client.describe_configs(
            [kafka.admin.ConfigResource(kafka.admin.ConfigResourceType.TOPIC, "made", {"retention.ms": None})]
        )
        assert "5000" in str(described)
        assert client.describe_cluster()["brokers"]
        client.delete_topics(["made"])
        assert "made" not in client.list_topics()
        client.close()

    await in_thread(broker, scenario)


# -- confluent-kafka -------------------------------------------------------------------------------


async def test_confluent_kafka_both_ways(broker: Broker) -> None:
    await broker.create_topic("t", partitions=3)

    def scenario(server: str) -> dict[int, list[bytes]]:
        failed: list[Any] = []

        def note(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        producer = confluent_kafka.Producer(
            {"bootstrap.servers": server, "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 1}
        )
        for number in range(3000):
            producer.produce("t", b"%d" % number, partition=number % 3, on_delivery=note)
        assert producer.flush(WAIT_S) == 0
        assert not failed
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": server, "group.id": "g", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe(["t"])
        found: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        while sum(map(len, found.values())) < 3000:
            for message in consumer.consume(1000, 1.0):
                assert message.error() is None
                found[message.partition()].append(message.value())
        consumer.commit(asynchronous=False)
        consumer.close()
        return found

    found = await in_thread(broker, scenario)
    assert found == {index: [b"%d" % number for number in range(index, 3000, 3)] for index in range(3)}
    assert sorted(offset.offset for offset in broker.groups.committed("g").values()) == [1000, 1000, 1000]


async def test_a_consumer_that_wants_the_broker_to_assign_is_told_at_once(broker: Broker) -> None:
    """KIP-848. Were it not advertised, librdkafka would look for another coordinator and never say so."""
    await broker.create_topic("t")

    def scenario(server: str) -> confluent_kafka.KafkaError:
        failed: list[confluent_kafka.KafkaError] = []
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": server, "group.id": "g", "group.protocol": "consumer", "error_cb": failed.append}
        )
        consumer.subscribe(["t"])
        message = consumer.poll(WAIT_S)
        assert message is not None
        consumer.close()
        return message.error()

    error = await in_thread(broker, scenario)
    assert error.code() == confluent_kafka.KafkaError._FATAL
    assert "API version not supported: ConsumerGroupHeartbeat" in error.str()


async def test_two_confluent_consumers_share_a_group(broker: Broker) -> None:
    await broker.create_topic("t", partitions=4)

    def scenario(server: str) -> list[int]:
        options = {"bootstrap.servers": server, "group.id": "g", "auto.offset.reset": "earliest",
                   "partition.assignment.strategy": "cooperative-sticky"}  # fmt: skip
        one, two = confluent_kafka.Consumer(options), confluent_kafka.Consumer(options)
        for consumer in (one, two):
            consumer.subscribe(["t"])
        while not (len(one.assignment()) == len(two.assignment()) == 2):
            for consumer in (one, two):
                consumer.poll(0.05)
        shared = sorted(partition.partition for consumer in (one, two) for partition in consumer.assignment())
        one.close()
        while len(two.assignment()) < 4:
            two.poll(0.05)
        two.close()
        return shared

    assert await in_thread(broker, scenario) == [0, 1, 2, 3]


async def test_confluent_kafka_s_administration(broker: Broker) -> None:
    def scenario(server: str) -> None:
        client = admin.AdminClient({"bootstrap.servers": server})

        def done(futures: dict[Any, Any]) -> list[Any]:
            return [future.result(WAIT_S) for future in futures.values()]

        done(client.create_topics([admin.NewTopic("made", 2, 1)]))
        assert list(client.list_topics(timeout=WAIT_S).topics) == ["made"], "its request has bytes left over"
        with pytest.raises(confluent_kafka.KafkaException, match="the replication factor can be 1, not 3"):
            done(client.create_topics([admin.NewTopic("replicated", 1, 3)]))
        resource = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, "made")
        entry = admin.ConfigEntry("retention.ms", "77", incremental_operation=admin.AlterConfigOpType.SET)
        resource.add_incremental_config(entry)
        done(client.incremental_alter_configs([resource]))
        (settings,) = done(client.describe_configs([resource]))
        assert settings["retention.ms"].value == "77"
        producer = confluent_kafka.Producer({"bootstrap.servers": server})
        for _ in range(10):
            producer.produce("made", b"x", partition=0)
        producer.flush(WAIT_S)
        partition = confluent_kafka.TopicPartition("made", 0)
        (found,) = done(client.list_offsets({partition: admin.OffsetSpec.latest()}))
        assert found.offset == 10
        done(client.delete_records([confluent_kafka.TopicPartition("made", 0, 4)]))
        (found,) = done(client.list_offsets({partition: admin.OffsetSpec.earliest()}))
        assert found.offset == 4
        assert [node.id for node in client.describe_cluster().result(WAIT_S).nodes] == [0]
        done(client.delete_topics(["made"]))

    await in_thread(broker, scenario)
    assert "made" not in broker.topics


async def test_confluent_kafka_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "broker.pem"))
    tls = TlsConfig(certificate=str(tmp_path / "broker.pem"))
    config = BrokerConfig(plugins=["kafka"], tls=tls)

    def scenario(server: str) -> None:
        options = {"bootstrap.servers": server, "security.protocol": "ssl", "ssl.ca.location": str(tmp_path / "ca.pem")}
        producer = confluent_kafka.Producer(options)
        producer.produce("t", b"x" * 500_000, b"k")
        assert producer.flush(WAIT_S) == 0
        consumer = confluent_kafka.Consumer({**options, "group.id": "g"})
        consumer.assign([confluent_kafka.TopicPartition("t", 0, 0)])
        message = consumer.poll(WAIT_S)
        consumer.close()
        assert message is not None
        assert message.value() == b"x" * 500_000

    async with open_broker(
        config=config, data=tmp_path / "data", store="memory", listen={"kafka": "127.0.0.1:0"}
    ) as broker:
        await in_thread(broker, scenario)


# -- aiokafka --------------------------------------------------------------------------------------


async def test_aiokafka_both_ways(broker: Broker) -> None:
    def scenario(server: str) -> list[tuple[Any, ...]]:
        async def run() -> list[tuple[Any, ...]]:
            producer = aiokafka.AIOKafkaProducer(bootstrap_servers=server, enable_idempotence=True)
            await producer.start()
            for number in range(10):
                await producer.send_and_wait("t", b"%d" % number, key=b"k", headers=[("h", b"x")])
            await producer.stop()
            consumer = aiokafka.AIOKafkaConsumer(
                "t", bootstrap_servers=server, group_id="g", auto_offset_reset="earliest"
            )
            await consumer.start()
            found = [await asyncio.wait_for(consumer.getone(), WAIT_S) for _ in range(10)]
            await consumer.commit()
            await consumer.stop()
            return [(message.offset, message.key, message.value, message.headers) for message in found]

        return asyncio.run(run())

    found = await in_thread(broker, scenario)
    assert found == [(number, b"k", b"%d" % number, (("h", b"x"),)) for number in range(10)]
    assert [offset.offset for offset in broker.groups.committed("g").values()] == [10]


# -- kcat ------------------------------------------------------------------------------------------


def run_kcat(kcat: str, server: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [kcat, "-b", server, *arguments], input=stdin, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_kcat_both_ways(broker: Broker, kcat: str) -> None:
    """librdkafka 2.0: it compresses only for a broker that offers Produce 0 to 3 (KAFKA-18659)."""

    def scenario(server: str) -> str:
        lines = "".join(f"k{number}:{'v' * 200}\n" for number in range(20))
        run_kcat(kcat, server, "-P", "-t", "t", "-K:", "-z", "snappy", stdin=lines)
        return run_kcat(kcat, server, "-C", "-t", "t", "-o", "beginning", "-e", "-q", "-f", "%o %k\n")

    assert await in_thread(broker, scenario) == "".join(f"{number} k{number}\n" for number in range(20))
    assert broker.partition("t", 0).log.size_bytes() < 20 * 200, "it was compressed"


async def test_kcat_lists_what_there_is(broker: Broker, kcat: str) -> None:
    await broker.create_topic("t", partitions=2)
    found = json.loads(await in_thread(broker, lambda server: run_kcat(kcat, server, "-L", "-J")))
    assert [node["id"] for node in found["brokers"]] == [0]
    assert [(topic["topic"], len(topic["partitions"])) for topic in found["topics"]] == [("t", 2)]


async def test_kcat_as_a_member_of_a_group(broker: Broker, kcat: str) -> None:
    for number in range(5):
        await broker.publish("t", b"%d" % number)

    def scenario(server: str) -> str:
        return run_kcat(kcat, server, "-G", "g", "-X", "auto.offset.reset=earliest", "-q", "-c", "5", "t")

    assert await in_thread(broker, scenario) == "0\n1\n2\n3\n4\n"
