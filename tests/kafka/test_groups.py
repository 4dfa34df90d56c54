"""Consumer groups in Kafka's words; what they do is tested with the core's coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from trunkline.broker import Broker
from trunkline.log import TopicPartition
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.messages import (
    delete_groups,
    describe_groups,
    heartbeat,
    join_group,
    leave_group,
    list_groups,
    offset_commit,
    offset_delete,
    offset_fetch,
    sync_group,
)

if TYPE_CHECKING:
    from tests.kafka.conftest import Connect, RawClient

pytestmark = pytest.mark.trio


def joining(member_id: str = "", *, protocols: tuple[str, ...] = ("range",), instance_id: str | None = None) -> Any:
    offered = [join_group.JoinGroupRequestProtocol(name, b"topics of " + name.encode()) for name in protocols]
    return join_group.JoinGroupRequest("g", 10_000, 30_000, member_id, instance_id, "consumer", offered)


async def join(client: RawClient, version: int = 9, **options: Any) -> Any:
    """Join as a client does: with the id that it is given."""
    answer = await client.ask("JoinGroup", joining(**options), version)
    if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
        answer = await client.ask("JoinGroup", joining(answer.member_id, **options), version)
    return answer


def syncing(member: Any, **assignments: bytes) -> Any:
    assigned = [sync_group.SyncGroupRequestAssignment(name, data) for name, data in assignments.items()]
    return sync_group.SyncGroupRequest("g", member.generation_id, member.member_id, None, "consumer", "range", assigned)


async def stable(client: RawClient, version: int = 9) -> Any:
    """A group of one."""
    member = await join(client, version)
    request = syncing(member)
    request.assignments = [sync_group.SyncGroupRequestAssignment(member.member_id, b"mine")]
    answer = await client.ask("SyncGroup", request)
    assert (answer.error_code, answer.assignment) == (0, b"mine")
    return member


@pytest.mark.parametrize("version", range(10))
async def test_a_member_joins_in_every_version(client: RawClient, version: int) -> None:
    first = await client.ask("JoinGroup", joining(), version)
    assert (first.error_code == ErrorCode.MEMBER_ID_REQUIRED) == (version >= 4), "KIP-394"
    assert first.member_id.startswith("test-")
    member = first if version < 4 else await client.ask("JoinGroup", joining(first.member_id), version)
    assert (member.error_code, member.generation_id, member.protocol_name) == (0, 1, "range")
    assert member.leader == member.member_id
    assert [(each.member_id, each.metadata) for each in member.members] == [(member.member_id, b"topics of range")]


async def test_members_get_what_the_leader_assigns(connect: Connect) -> None:
    one, two = await connect(), await connect()
    first = await stable(one)
    await two.send("JoinGroup", joining(), 3)  # it waits for the other
    while (
        await one.ask("Heartbeat", heartbeat.HeartbeatRequest("g", 1, first.member_id))
    ).error_code != ErrorCode.REBALANCE_IN_PROGRESS:
        await trio.lowlevel.checkpoint()
    first = await join(one, member_id=first.member_id)
    second = await two.receive()
    assert (first.generation_id, second.generation_id) == (2, 2)
    assert (len(first.members), second.members, second.leader) == (2, [], first.member_id)
    await two.send("SyncGroup", syncing(second))
    request = syncing(first)
    for member, share in ((first, b"this"), (second, b"that")):
        request.assignments.append(sync_group.SyncGroupRequestAssignment(member.member_id, share))
    assert (await one.ask("SyncGroup", request)).assignment == b"this"
    assert (await two.receive()).assignment == b"that"
    left = await two.ask("LeaveGroup", leave_group.LeaveGroupRequest("g", second.member_id), 2)
    assert left.error_code == 0


async def test_several_leave_at_once_each_with_an_answer(client: RawClient) -> None:
    member = await join(client, instance_id="static")
    gone = [leave_group.MemberIdentity("", "static"), leave_group.MemberIdentity("nobody")]
    answer = await client.ask("LeaveGroup", leave_group.LeaveGroupRequest("g", members=gone))
    assert answer.error_code == 0
    assert [each.error_code for each in answer.members] == [0, ErrorCode.UNKNOWN_MEMBER_ID]
    again = await client.ask("Heartbeat", heartbeat.HeartbeatRequest("g", 1, member.member_id))
    assert again.error_code == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"session_timeout_ms": 1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"protocols": []}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
@pytest.mark.parametrize("version", [0, 6, 9])
async def test_a_join_that_is_refused(
    client: RawClient, changes: dict[str, Any], code: ErrorCode, version: int
) -> None:
    request = joining()
    for name, value in changes.items():
        setattr(request, name, value)
    answer = await client.ask("JoinGroup", request, version)
    assert (answer.error_code, answer.generation_id, answer.member_id) == (code, -1, request.member_id)


async def test_who_speaks_of_another_generation_is_told(client: RawClient) -> None:
    member = await stable(client)
    beat = heartbeat.HeartbeatRequest("g", 7, member.member_id)
    assert (await client.ask("Heartbeat", beat)).error_code == ErrorCode.ILLEGAL_GENERATION
    request = syncing(member)
    request.generation_id = 7
    assert (await client.ask("SyncGroup", request)).error_code == ErrorCode.ILLEGAL_GENERATION
    request.member_id = "nobody"
    assert (await client.ask("SyncGroup", request)).error_code == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_member_that_disconnects_while_it_waits_harms_nobody(broker: Broker, connect: Connect) -> None:
    one, two = await connect(), await connect()
    first = await stable(one)
    await two.send("JoinGroup", joining(), 3)
    while broker.groups.describe("g").state != "PreparingRebalance":
        await trio.lowlevel.checkpoint()
    await trio.aclose_forcefully(two.stream)
    again = await join(one, member_id=first.member_id)
    assert (again.error_code, again.generation_id) == (0, 2)


# -- offsets ---------------------------------------------------------------------------------------


def committing(
    offsets: dict[tuple[str, int], int], *, generation: int = -1, member: str = "", metadata: str = ""
) -> Any:
    topics: dict[str, list[Any]] = {}
    for (topic, partition), offset in offsets.items():
        one = offset_commit.OffsetCommitRequestPartition(partition, offset, 0, metadata)
        topics.setdefault(topic, []).append(one)
    named = [offset_commit.OffsetCommitRequestTopic(*each) for each in topics.items()]
    return offset_commit.OffsetCommitRequest("g", generation, member, topics=named)


def codes(answer: Any) -> list[int]:
    return [each.error_code for topic in answer.topics for each in topic.partitions]


@pytest.mark.parametrize("version", range(2, 10))
async def test_offsets_are_committed_and_read_again(broker: Broker, client: RawClient, version: int) -> None:
    await broker.create_topic("t", partitions=2)
    answer = await client.ask("OffsetCommit", committing({("t", 1): 5}, metadata="why"), version)
    assert codes(answer) == [0]
    fetch_version = max(version - 1, 1)
    topics = [offset_fetch.OffsetFetchRequestTopic("t", [0, 1]), offset_fetch.OffsetFetchRequestTopic("gone", [0])]
    many = [offset_fetch.OffsetFetchRequestGroup("g", None, -1, [offset_fetch.OffsetFetchRequestTopics("t", [0, 1])])]
    answer = await client.ask("OffsetFetch", offset_fetch.OffsetFetchRequest("g", topics, many), fetch_version)
    found = answer.groups[0] if fetch_version >= 8 else answer
    offsets = [(each.committed_offset, each.metadata, each.error_code) for each in found.topics[0].partitions]
    assert offsets == [(-1, "", 0), (5, "why", 0)]
    assert broker.groups.committed("g")[TopicPartition("t", 1)].offset == 5


async def test_an_unknown_group_has_no_offsets_and_no_error(client: RawClient) -> None:
    request = offset_fetch.OffsetFetchRequest("never", [offset_fetch.OffsetFetchRequestTopic("t", [0])])
    answer = await client.ask("OffsetFetch", request, 7)
    assert answer.error_code == 0
    assert answer.topics[0].partitions[0].committed_offset == -1


async def test_all_offsets_of_a_group(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", partitions=3)
    await client.ask("OffsetCommit", committing({("t", 2): 1, ("t", 0): 0}))
    groups = [offset_fetch.OffsetFetchRequestGroup(name, None, -1, None) for name in ("g", "other")]
    answer = await client.ask("OffsetFetch", offset_fetch.OffsetFetchRequest(groups=groups), 9)
    found = [
        [(each.name, [p.partition_index for p in each.partitions]) for each in group.topics] for group in answer.groups
    ]
    assert found == [[("t", [0, 2])], []]
    answer = await client.ask("OffsetFetch", offset_fetch.OffsetFetchRequest("g", None), 5)
    assert [each.committed_offset for each in answer.topics[0].partitions] == [0, 1]


async def test_each_partition_of_a_commit_has_its_own_answer(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    answer = await client.ask("OffsetCommit", committing({("t", 0): 3, ("t", 9): 3, ("gone", 0): 3}))
    assert codes(answer) == [0, 3, 3]
    answer = await client.ask("OffsetCommit", committing({("t", 0): 3}, metadata="x" * 5000))
    assert codes(answer) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]


async def test_a_negative_offset_takes_away_what_was_committed(broker: Broker, client: RawClient) -> None:
    """kafkajs commits -1 or -2 to reset a group to one of the ends; its consumers then go by their own setting."""
    await broker.create_topic("t", partitions=2)
    assert codes(await client.ask("OffsetCommit", committing({("t", 0): -2}))) == [0]
    assert not broker.groups.list(), "there was nothing to take away"
    await client.ask("OffsetCommit", committing({("t", 0): 3, ("t", 1): 3}))
    assert codes(await client.ask("OffsetCommit", committing({("t", 0): -2, ("t", 1): 4}))) == [0, 0]
    assert [(str(place), each.offset) for place, each in broker.groups.committed("g").items()] == [("t/1", 4)]
    await client.ask("OffsetCommit", committing({("t", 1): -1}))
    assert not broker.groups.list(), "a group of which nothing is left"


async def test_commits_are_fenced(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    member = await stable(client)
    for changes, code in (
        ({"generation": 1, "member": member.member_id}, 0),
        ({"generation": 9, "member": member.member_id}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation": 1, "member": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({}, ErrorCode.UNKNOWN_MEMBER_ID),
    ):
        assert codes(await client.ask("OffsetCommit", committing({("t", 0): 3}, **changes))) == [code]


# -- administration --------------------------------------------------------------------------------


async def test_groups_are_listed_and_described(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t")
    member = await stable(client)
    await broker.groups.reset("simple", "t", 0)
    answer = await client.ask("ListGroups", list_groups.ListGroupsRequest())
    assert [(each.group_id, each.protocol_type, each.group_state, each.group_type) for each in answer.groups] == [
        ("g", "consumer", "Stable", "classic"), ("simple", "", "Empty", "classic")
    ]  # fmt: skip
    for options, names in (((["stable"], []), ["g"]), ((["Dead"], []), []), (([], ["consumer"]), [])):
        answer = await client.ask("ListGroups", list_groups.ListGroupsRequest(*options))
        assert [each.group_id for each in answer.groups] == names
    answer = await client.ask("DescribeGroups", describe_groups.DescribeGroupsRequest(["g", "none"]), 6)
    found, missing = answer.groups
    assert (found.group_state, found.protocol_type, found.protocol_data) == ("Stable", "consumer", "range")
    (described,) = found.members
    assert (described.member_id, described.member_metadata) == (member.member_id, b"topics of range")
    assert (described.member_assignment, described.client_id, described.client_host) == (b"mine", "test", "/127.0.0.1")
    assert (missing.error_code, missing.group_state) == (ErrorCode.GROUP_ID_NOT_FOUND, "Dead")
    answer = await client.ask("DescribeGroups", describe_groups.DescribeGroupsRequest(["none"]), 5)
    assert (answer.groups[0].error_code, answer.groups[0].group_state) == (0, "Dead")


async def test_a_group_whose_partitions_the_broker_assigns_is_described_too(broker: Broker, client: RawClient) -> None:
    class Listener:
        def assignment_changed(self, assignment: Any) -> None:
            changed.set()

        def fenced(self, error: Any) -> None:
            raise AssertionError(error)

    changed = trio.Event()
    await broker.create_topic("t", partitions=2)
    broker.groups.join("native", Listener(), topics=["t"], client="me")
    await changed.wait()
    answer = await client.ask("DescribeGroups", describe_groups.DescribeGroupsRequest(["native"]))
    (found,) = answer.groups
    (member,) = found.members
    assert (found.group_state, found.protocol_type, member.client_id) == ("Stable", "consumer", "me")
    assert member.member_metadata == b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"
    assert member.member_assignment == b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff"
    joined = await join(client, version=3)
    assert joined.error_code == 0
    request = joining()
    request.group_id = "native"
    answer = await client.ask("JoinGroup", request, 3)
    assert answer.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


async def test_groups_and_offsets_are_deleted_when_nobody_is_in_them(broker: Broker, client: RawClient) -> None:
    await broker.create_topic("t", partitions=3)
    await client.ask("OffsetCommit", committing({("t", 0): 0, ("t", 1): 1, ("t", 2): 2}))
    one = offset_delete.OffsetDeleteRequestPartition
    topics = [offset_delete.OffsetDeleteRequestTopic("t", [one(1), one(9)])]
    answer = await client.ask("OffsetDelete", offset_delete.OffsetDeleteRequest("g", topics))
    assert (answer.error_code, codes(answer)) == (0, [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION])
    assert sorted(each.partition for each in broker.groups.committed("g")) == [0, 2]
    answer = await client.ask("OffsetDelete", offset_delete.OffsetDeleteRequest("none", topics))
    assert answer.error_code == ErrorCode.GROUP_ID_NOT_FOUND
    member = await stable(client)
    answer = await client.ask("DeleteGroups", delete_groups.DeleteGroupsRequest(["g", "none"]))
    assert [each.error_code for each in answer.results] == [ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND]
    answer = await client.ask("OffsetDelete", offset_delete.OffsetDeleteRequest("g", topics))
    assert answer.error_code == ErrorCode.NON_EMPTY_GROUP
    await client.ask("LeaveGroup", leave_group.LeaveGroupRequest("g", member.member_id), 2)
    answer = await client.ask("DeleteGroups", delete_groups.DeleteGroupsRequest(["g"]))
    assert [each.error_code for each in answer.results] == [0]
    assert not broker.groups.committed("g")
