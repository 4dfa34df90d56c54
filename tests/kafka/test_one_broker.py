"""What Kafka's tools ask of clusters and of access control, answered by a broker that is alone and has none."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.broker import Broker
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import (
    alter_partition_reassignments,
    create_acls,
    delete_acls,
    describe_acls,
    describe_topic_partitions,
    elect_leaders,
    list_partition_reassignments,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import RawClient

pytestmark = pytest.mark.trio


# -- topics, page by page --------------------------------------------------------------------------


async def page(client: RawClient, *names: str, limit: int = 2000, start: tuple[str, int] | None = None) -> Any:
    request = describe_topic_partitions.DescribeTopicPartitionsRequest(
        [describe_topic_partitions.TopicRequest(name) for name in names],
        limit,
        None if start is None else describe_topic_partitions.Cursor(*start),
    )
    return await client.ask("DescribeTopicPartitions", request)


def shape(answer: Any) -> list[tuple[str, int, list[int]]]:
    return [
        (topic.name, topic.error_code, [partition.partition_index for partition in topic.partitions])
        for topic in answer.topics
    ]


async def test_topics_are_described_in_the_order_of_their_names(broker: Broker, client: RawClient) -> None:
    for name, partitions in (("b", 2), ("a", 1), ("c", 1)):
        await broker.create_topic(name, partitions=partitions)
    answer = await page(client)
    assert shape(answer) == [("a", 0, [0]), ("b", 0, [0, 1]), ("c", 0, [0])]
    assert answer.next_cursor is None
    assert answer.topics[0].topic_id == uuid.UUID(broker.topic("a").id).bytes
    found = answer.topics[1].partitions[1]
    assert (found.leader_id, found.leader_epoch, found.replica_nodes, found.isr_nodes) == (0, 0, [0], [0])
    answer = await page(client, "c", "x", "b", "c", "a/b", "__offsets")
    assert shape(answer) == [("__offsets", 3, []), ("a/b", 17, []), ("b", 0, [0, 1]), ("c", 0, [0]), ("x", 3, [])]


async def test_nothing_is_null_that_kafka_s_java_client_looks_into(broker: Broker, client: RawClient) -> None:
    """Its ``Admin.describeTopics`` ended in a NullPointerException (3.9.1)."""
    await broker.create_topic("t")
    (partition,) = (await page(client, "t")).topics[0].partitions
    assert (partition.eligible_leader_replicas, partition.last_known_elr) == ([], [])


async def test_a_page_ends_anywhere_and_the_next_goes_on_there(broker: Broker, client: RawClient) -> None:
    for name in ("a", "b"):
        await broker.create_topic(name, partitions=3)
    for limit in (0, 1, 2, 3, 4, 5, 6):
        found: list[tuple[str, int]] = []
        start = None
        for _ in range(10):
            answer = await page(client, limit=limit, start=start)
            count = sum(len(topic.partitions) for topic in answer.topics)
            assert count <= max(limit, 1)
            found += [(name, index) for name, _, indexes in shape(answer) for index in indexes]
            if answer.next_cursor is None:
                break
            start = answer.next_cursor.topic_name, answer.next_cursor.partition_index
        assert found == [(name, index) for name in ("a", "b") for index in range(3)], limit


async def test_a_cursor_out_of_nowhere(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("b")
    assert shape(await page(client, start=("a", 5))) == [("b", 0, [0])]
    assert shape(await page(client, start=("b", 5))) == [("b", 0, [])]
    assert shape(await page(client, start=("c", 0))) == []
    assert shape(await page(client, start=("b", -1))) == [("b", ErrorCode.INVALID_REQUEST, [])]


async def test_a_page_has_a_largest_size(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", partitions=2001)
    answer = await page(client, limit=2**31 - 1)
    assert len(answer.topics[0].partitions) == 2000
    assert (answer.next_cursor.topic_name, answer.next_cursor.partition_index) == ("t", 2000)


# -- replicas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(3))
async def test_no_leader_need_be_elected(broker: Broker, client: RawClient, version: int) -> None:
    await broker.create_topic("t")
    asked = [elect_leaders.TopicPartitions("t", [0, 1]), elect_leaders.TopicPartitions("x", [0])]
    answer = await client.ask("ElectLeaders", elect_leaders.ElectLeadersRequest(0, asked), version)
    assert [
        (topic.topic, each.partition_id, each.error_code)
        for topic in answer.replica_election_results
        for each in topic.partition_result
    ] == [("t", 0, ErrorCode.ELECTION_NOT_NEEDED), ("t", 1, 3), ("x", 0, 3)]
    answer = await client.ask("ElectLeaders", elect_leaders.ElectLeadersRequest(0, None), version)
    assert (answer.error_code, answer.replica_election_results) == (0, [])


async def test_an_election_of_an_unknown_kind_is_refused(client: RawClient) -> None:
    answer = await client.ask("ElectLeaders", elect_leaders.ElectLeadersRequest(7, None))
    assert answer.error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("version", range(2))
async def test_a_partition_stays_where_it_is(broker: Broker, client: RawClient, version: int) -> None:
    await broker.create_topic("t", partitions=4)
    wanted: list[list[int] | None] = [[0], [1], [0, 1], None, [0]]
    asked = [
        alter_partition_reassignments.ReassignablePartition(index, replicas) for index, replicas in enumerate(wanted)
    ]
    topics = [alter_partition_reassignments.ReassignableTopic("t", asked)]
    request = alter_partition_reassignments.AlterPartitionReassignmentsRequest(topics=topics)
    answer = await client.ask("AlterPartitionReassignments", request, version)
    assert [each.error_code for each in answer.responses[0].partitions] == [0, 39, 39, 85, 3]
    assert "only replica" in answer.responses[0].partitions[1].error_message
    under_way = list_partition_reassignments.ListPartitionReassignmentsRequest()
    answer = await client.ask("ListPartitionReassignments", under_way)
    assert (answer.error_code, answer.topics) == (0, [])


# -- access control --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, 4))
async def test_access_control_is_off(client: RawClient, version: int) -> None:
    code = ErrorCode.SECURITY_DISABLED
    answer = await client.ask("DescribeAcls", describe_acls.DescribeAclsRequest(), version)
    assert (answer.error_code, answer.resources) == (code, [])
    assert "no access control" in answer.error_message
    answer = await client.ask("CreateAcls", create_acls.CreateAclsRequest([create_acls.AclCreation()] * 2), version)
    assert [each.error_code for each in answer.results] == [code, code]
    answer = await client.ask("DeleteAcls", delete_acls.DeleteAclsRequest([delete_acls.DeleteAclsFilter()]), version)
    assert [(each.error_code, each.matching_acls) for each in answer.filter_results] == [(code, [])]
