"""Metadata, topics, settings: what Kafka's administration asks for, with the validation it does."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, TopicsConfig
from trunkline.errors import ConfigurationError
from trunkline.settings import TOPIC_SETTINGS
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import (
    alter_configs,
    create_partitions,
    create_topics,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_log_dirs,
    find_coordinator,
    incremental_alter_configs,
    metadata,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import ConnectTo, Make, RawClient

pytestmark = pytest.mark.trio

TOPIC, BROKER = 2, 4


def asked_for(*names: str, **options: Any) -> Any:
    return metadata.MetadataRequest([metadata.MetadataRequestTopic(name=name) for name in names], **options)


# -- metadata --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(14))
async def test_metadata_names_the_broker_by_the_address_the_client_came_to(
    broker: Broker, client: RawClient, version: int
) -> None:
    topic = await broker.create_topic("t", partitions=2)
    answer = await client.ask("Metadata", asked_for("t"), version)
    (node,) = answer.brokers
    assert (node.node_id, node.host, node.port) == (0, *broker.addresses["kafka"])
    (found,) = answer.topics
    assert (found.error_code, found.name) == (0, "t")
    assert [(each.partition_index, each.leader_id, each.isr_nodes) for each in found.partitions] == [
        (0, 0, [0]),
        (1, 0, [0]),
    ]
    if version >= 1:
        assert answer.controller_id == 0
    if version >= 10:
        assert found.topic_id == uuid.UUID(topic.id).bytes


async def test_all_topics_are_those_that_are_not_the_broker_s_own(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("a")
    await broker.create_topic("b")
    await broker.groups.reset("g", "a", 0)  # makes __offsets
    everything = metadata.MetadataRequest(None)
    assert sorted(topic.name for topic in (await client.ask("Metadata", everything)).topics) == ["a", "b"]
    assert len((await client.ask("Metadata", metadata.MetadataRequest([]), 0)).topics) == 2
    assert (await client.ask("Metadata", metadata.MetadataRequest([]), 1)).topics == []


async def test_a_missing_topic_is_made_where_client_and_settings_allow(
    broker: Broker, client: RawClient, connect_to: ConnectTo, tmp_path: Path
) -> None:
    answer = await client.ask("Metadata", asked_for("new", "not/allowed", "__mine"))
    assert [(topic.name, topic.error_code, len(topic.partitions)) for topic in answer.topics] == [
        ("new", 0, 1),
        ("not/allowed", ErrorCode.INVALID_TOPIC_EXCEPTION, 0),
        ("__mine", ErrorCode.INVALID_TOPIC_EXCEPTION, 0),
    ]
    assert list(broker.topics) == ["new"]
    answer = await client.ask("Metadata", asked_for("other", allow_auto_topic_creation=False))
    assert answer.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    config = BrokerConfig(listen={}, topics=TopicsConfig(auto_create=False), plugins=["kafka"])
    async with open_broker(tmp_path, config=config, store="memory", listen={"kafka": "127.0.0.1:0"}) as strict:
        answer = await (await connect_to(strict)).ask("Metadata", asked_for("other"))
        assert answer.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert not strict.topics


async def test_a_topic_can_be_asked_for_by_its_id(broker: Broker, client: RawClient) -> None:
    topic = await broker.create_topic("t")
    ids = [uuid.UUID(topic.id).bytes, bytes(15) + b"\x01"]
    answer = await client.ask(
        "Metadata", metadata.MetadataRequest([metadata.MetadataRequestTopic(each, None) for each in ids])
    )
    assert [(found.error_code, found.name) for found in answer.topics] == [(0, "t"), (ErrorCode.UNKNOWN_TOPIC_ID, None)]


async def test_the_address_can_be_configured(connect_to: ConnectTo, tmp_path: Path) -> None:
    config = BrokerConfig(listen={}, door={"kafka": {"advertised_address": "broker.example:19092"}}, plugins=["kafka"])
    async with open_broker(tmp_path, config=config, store="memory", listen={"kafka": "127.0.0.1:0"}) as broker:
        client = await connect_to(broker)
        (node,) = (await client.ask("Metadata", asked_for())).brokers
        assert (node.host, node.port) == ("broker.example", 19092)
        (node,) = (await client.ask("DescribeCluster", describe_cluster.DescribeClusterRequest())).brokers
        assert (node.broker_id, node.host, node.port) == (0, "broker.example", 19092)


async def test_an_address_that_is_none_stops_the_start(tmp_path: Path) -> None:
    config = BrokerConfig(listen={}, door={"kafka": {"advertised_address": "nonsense"}}, plugins=["kafka"])
    with pytest.raises(ConfigurationError, match=r"door\.kafka\.advertised_address: "):
        async with open_broker(tmp_path, config=config, store="memory", listen={"kafka": "127.0.0.1:0"}):
            pass


@pytest.mark.parametrize("version", range(7))
async def test_the_coordinator_of_every_group_is_the_broker(broker: Broker, client: RawClient, version: int) -> None:
    answer = await client.ask("FindCoordinator", find_coordinator.FindCoordinatorRequest("g", 0, ["g", "h"]), version)
    found = answer.coordinators if version >= 4 else [answer]
    assert [(each.error_code, each.node_id, each.host, each.port) for each in found] == [
        (0, 0, *broker.addresses["kafka"])
    ] * len(found)


async def test_the_coordinator_of_every_transaction_is_the_broker(broker: Broker, client: RawClient) -> None:
    answer = await client.ask("FindCoordinator", find_coordinator.FindCoordinatorRequest("x", 1), 3)
    assert (answer.error_code, answer.node_id, answer.port) == (0, 0, broker.addresses["kafka"][1])


# -- topics ----------------------------------------------------------------------------------------


def new_topic(name: str, partitions: int = -1, replicas: int = -1, /, **settings: str | None) -> Any:
    configs = [create_topics.CreatableTopicConfig(key.replace("_", "."), value) for key, value in settings.items()]
    return create_topics.CreatableTopic(name, partitions, replicas, configs=configs)


async def create(client: RawClient, *topics: Any, is_test: bool = False) -> dict[str, Any]:
    answer = await client.ask("CreateTopics", create_topics.CreateTopicsRequest(list(topics), 1000, is_test))
    return {topic.name: topic for topic in answer.topics}


async def test_topics_are_made_with_their_settings(broker: Broker, client: RawClient) -> None:
    found = await create(
        client, new_topic("a", 3, 1, retention_ms="1000", min_insync_replicas="1"), new_topic("b"),
    )  # fmt: skip
    assert {name: (each.error_code, each.num_partitions, each.replication_factor) for name, each in found.items()} == {
        "a": (0, 3, 1), "b": (0, 1, 1)
    }  # fmt: skip
    assert found["a"].topic_id == uuid.UUID(broker.topic("a").id).bytes
    assert broker.topic("a").settings.retention_ms == 1000
    assert {each.name: each.value for each in found["a"].configs}["retention.ms"] == "1000"


@pytest.mark.parametrize("is_test", [False, True])
async def test_one_bad_topic_fails_alone_and_says_why(broker: Broker, client: RawClient, is_test: bool) -> None:
    await broker.create_topic("there")
    assigned = create_topics.CreatableReplicaAssignment
    wrong = create_topics.CreatableTopic("elsewhere", -1, -1, [assigned(0, [0]), assigned(1, [7])])
    right = create_topics.CreatableTopic("placed", -1, -1, [assigned(1, [0]), assigned(0, [0])])
    both = create_topics.CreatableTopic("both", 2, -1, [assigned(0, [0])])
    found = await create(
        client,
        new_topic("good"), new_topic("there"), new_topic("in/valid"), new_topic("__mine"), new_topic("none", 0),
        new_topic("many", 100_000), new_topic("replicated", 1, 3), new_topic("x", 1, 1, bogus="1"),
        new_topic("y", 1, 1, min_insync_replicas="2"), new_topic("z", 1, 1, retention_ms=None),
        new_topic("twice"), new_topic("twice"), wrong, right, both,
        is_test=is_test,
    )  # fmt: skip
    assert {name: each.error_code for name, each in found.items()} == {
        "good": 0,
        "there": ErrorCode.TOPIC_ALREADY_EXISTS,
        "in/valid": ErrorCode.INVALID_TOPIC_EXCEPTION,
        "__mine": ErrorCode.INVALID_TOPIC_EXCEPTION,
        "none": ErrorCode.INVALID_PARTITIONS,
        "many": ErrorCode.INVALID_PARTITIONS,
        "replicated": ErrorCode.INVALID_REPLICATION_FACTOR,
        "x": ErrorCode.INVALID_CONFIG,
        "y": ErrorCode.INVALID_CONFIG,
        "z": ErrorCode.INVALID_CONFIG,
        "twice": ErrorCode.INVALID_REQUEST,
        "elsewhere": ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        "placed": 0,
        "both": ErrorCode.INVALID_REQUEST,
    }
    assert all(bool(each.error_code) == bool(each.error_message) for each in found.values())
    assert set(broker.topics) == ({"there"} if is_test else {"there", "good", "placed"})
    assert found["placed"].num_partitions == 2


@pytest.mark.parametrize("version", [1, 5, 6])
async def test_topics_are_deleted_each_for_itself(broker: Broker, client: RawClient, version: int) -> None:
    await broker.create_topic("a")
    by_name = [delete_topics.DeleteTopicState(name) for name in ("missing", "a")]
    request = delete_topics.DeleteTopicsRequest(by_name, ["missing", "a"], 1000)
    answer = await client.ask("DeleteTopics", request, version)
    assert [(each.name, each.error_code) for each in answer.responses] == [
        ("missing", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), ("a", 0)
    ]  # fmt: skip
    assert not broker.topics


async def test_topics_are_deleted_by_their_ids(broker: Broker, client: RawClient) -> None:
    topic_id = uuid.UUID((await broker.create_topic("a")).id).bytes
    asked = [delete_topics.DeleteTopicState(None, topic_id), delete_topics.DeleteTopicState(None, bytes(15) + b"\x01")]
    asked.append(delete_topics.DeleteTopicState("a", topic_id))
    answer = await client.ask("DeleteTopics", delete_topics.DeleteTopicsRequest(asked))
    assert [(each.name, each.error_code) for each in answer.responses] == [
        ("a", 0), (None, ErrorCode.UNKNOWN_TOPIC_ID), ("a", ErrorCode.INVALID_REQUEST)
    ]  # fmt: skip


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(broker: Broker, client: RawClient, version: int) -> None:
    topic = await broker.create_topic("t", partitions=3)
    asked = create_partitions.CreatePartitionsTopic("t", 6, None)
    request = create_partitions.CreatePartitionsRequest([asked], 1000, True)
    answer = await client.ask("CreatePartitions", request, version)
    assert [each.error_code for each in answer.results] == [0]
    assert len(topic.partitions) == 3, "it was only asked whether that could be"
    request.validate_only = False
    answer = await client.ask("CreatePartitions", request, version)
    assert [each.error_code for each in answer.results] == [0]
    assert len(topic.partitions) == 6


async def test_partitions_that_cannot_be_added(broker: Broker, client: RawClient) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        await broker.create_topic(name, partitions=3)
    broker.topic("f").fixed_by = "somebody counts them"
    ours, theirs = (create_partitions.CreatePartitionsAssignment([broker]) for broker in (0, 1))
    cases: list[tuple[str, int, Any, int, str]] = [
        ("a", 2, None, ErrorCode.INVALID_PARTITIONS, "not lowered to 2"),
        ("b", 3, None, ErrorCode.INVALID_PARTITIONS, "has 3 partitions already"),
        ("c", 10_001, None, ErrorCode.INVALID_PARTITIONS, "1 to 10000"),
        ("d", 5, [ours], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "there is one broker"),
        ("e", 4, [theirs], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "there is one broker"),
        ("f", 4, None, ErrorCode.INVALID_PARTITIONS, "somebody counts them"),
        ("x", 1, None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "no topic 'x'"),
        ("y", 1, None, ErrorCode.INVALID_REQUEST, "2 times in the request"),
    ]
    asked = [create_partitions.CreatePartitionsTopic(name, count, replicas) for name, count, replicas, _, _ in cases]
    request = create_partitions.CreatePartitionsRequest([*asked, asked[-1]], 1000)
    answer = await client.ask("CreatePartitions", request)
    assert [(each.name, each.error_code) for each in answer.results] == [(case[0], case[3]) for case in cases]
    for result, case in zip(answer.results, cases, strict=True):
        assert case[4] in result.error_message
    assert {len(topic.partitions) for topic in broker.topics.values()} == {3}
    assigned = create_partitions.CreatePartitionsTopic("a", 5, [ours, ours])
    answer = await client.ask("CreatePartitions", create_partitions.CreatePartitionsRequest([assigned], 1000))
    assert (answer.results[0].error_code, len(broker.topic("a").partitions)) == (0, 5)


# -- settings --------------------------------------------------------------------------------------


async def described(
    client: RawClient, kind: int, name: str, keys: list[str] | None = None
) -> tuple[int, dict[str, Any]]:
    asked = [describe_configs.DescribeConfigsResource(kind, name, keys)]
    answer = await client.ask("DescribeConfigs", describe_configs.DescribeConfigsRequest(asked, False, True))
    (found,) = answer.results
    return found.error_code, {each.name: each for each in found.configs}


async def test_settings_are_described(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", settings={"retention.ms": "5"})
    code, found = await described(client, TOPIC, "t")
    assert code == 0
    assert found.keys() >= TOPIC_SETTINGS.keys()
    changed, default, fixed = (found[name] for name in ("retention.ms", "segment.bytes", "min.insync.replicas"))
    assert (changed.value, changed.config_source, changed.read_only) == ("5", 1, False)
    assert (default.value, default.config_source, default.read_only) == (str(2**30), 5, False)
    assert (fixed.value, fixed.config_source, fixed.read_only) == ("1", 4, True)
    assert changed.documentation == TOPIC_SETTINGS["retention.ms"].meaning
    assert (changed.config_type, found["cleanup.policy"].config_type, found["durability"].config_type) == (5, 7, 2)
    assert [found[name].config_type for name in ("retention.bytes", "segment.bytes", "min.cleanable.dirty.ratio")] == [
        5,
        3,
        6,
    ]
    assert (await described(client, TOPIC, "t", ["retention.ms"]))[1].keys() == {"retention.ms"}
    assert (await described(client, TOPIC, "missing"))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    code, found = await described(client, BROKER, "0")
    assert (code, found["num.partitions"].value, found["num.partitions"].read_only) == (0, "1", True)
    host, port = broker.addresses["kafka"]
    assert found["advertised.listeners"].value == f"PLAINTEXT://{host}:{port}"
    assert (await described(client, BROKER, "7"))[0] == ErrorCode.INVALID_REQUEST
    assert (await described(client, 9, "x"))[0] == ErrorCode.INVALID_REQUEST


async def test_settings_are_replaced_as_a_whole(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", settings={"retention.ms": "5", "segment.bytes": "2048"})

    async def alter(*configs: tuple[str, str | None], kind: int = TOPIC, name: str = "t", is_test: bool = False) -> int:
        resource = alter_configs.AlterConfigsResource(
            kind, name, [alter_configs.AlterableConfig(*each) for each in configs]
        )
        answer = await client.ask("AlterConfigs", alter_configs.AlterConfigsRequest([resource], is_test))
        (found,) = answer.responses
        assert bool(found.error_message) == bool(found.error_code)
        return int(found.error_code)

    assert await alter(("retention.ms", "7"), is_test=True) == 0
    assert broker.topic("t").settings.retention_ms == 5
    assert await alter(("retention.ms", "7"), ("compression.type", "producer")) == 0
    settings = broker.topic("t").settings
    assert (settings.retention_ms, settings.segment_bytes) == (7, 2**30)
    assert await alter(("retention.ms", "x")) == ErrorCode.INVALID_CONFIG
    assert await alter(("retention.ms", None)) == ErrorCode.INVALID_CONFIG
    assert await alter(("storage", "sqlite")) == ErrorCode.INVALID_CONFIG
    assert await alter(("compression.type", "gzip"), is_test=True) == ErrorCode.INVALID_CONFIG
    assert await alter(name="gone") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await alter(kind=BROKER, name="0") == ErrorCode.INVALID_REQUEST
    assert broker.topic("t").settings == settings


SET, DELETE, APPEND, SUBTRACT = range(4)


async def test_settings_are_changed_one_by_one(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", settings={"retention.ms": "5", "segment.bytes": "2048"})

    async def alter(*configs: tuple[str, int, str | None], is_test: bool = False) -> int:
        module = incremental_alter_configs
        resource = module.AlterConfigsResource(TOPIC, "t", [module.AlterableConfig(*each) for each in configs])
        answer = await client.ask("IncrementalAlterConfigs", module.IncrementalAlterConfigsRequest([resource], is_test))
        return int(answer.responses[0].error_code)

    def policy() -> str:
        return broker.topic("t").settings.cleanup_policy

    assert (
        await alter(("retention.ms", SET, "9"), ("segment.bytes", DELETE, None), ("min.insync.replicas", DELETE, None))
        == 0
    )
    assert (broker.topic("t").settings.retention_ms, broker.topic("t").settings.segment_bytes) == (9, 2**30)
    assert await alter(("cleanup.policy", APPEND, "compact")) == 0
    assert policy() == "delete,compact"
    assert await alter(("cleanup.policy", SUBTRACT, "delete")) == 0
    assert policy() == "compact"
    assert await alter(("cleanup.policy", SET, "delete"), is_test=True) == 0
    assert policy() == "compact"
    for wrong in (
        [("retention.ms", APPEND, "9")],
        [("retention.ms", SET, None)],
        [("retention.ms", 9, "1")],
        [("retention.ms", SET, "1"), ("retention.ms", SET, "2")],
        [("retention.ms", SET, "1"), ("retention.ms", DELETE, None)],
        [("bogus", SET, "1")],
    ):
        assert await alter(*wrong) == ErrorCode.INVALID_CONFIG


# -- storage ---------------------------------------------------------------------------------------


async def test_the_size_of_what_is_stored(broker: Broker, client: RawClient, make: Make) -> None:
    await broker.create_topic("t", partitions=2)
    await client.produce("t", make.batch(b"a", size=5000), partition=1)
    for topics in (None, [describe_log_dirs.DescribableLogDirTopic("t", [1, 9])]):
        answer = await client.ask("DescribeLogDirs", describe_log_dirs.DescribeLogDirsRequest(topics))
        (found,) = answer.results
        assert (found.error_code, found.log_dir) == (0, str(broker.config.data.absolute()))
        sizes = {each.partition_index: each.partition_size for each in found.topics[0].partitions}
        assert sizes[1] > 5000
        assert sizes.keys() == ({0, 1} if topics is None else {1})
