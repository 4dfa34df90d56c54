"""ListGroups, DescribeGroups, DeleteGroups: groups of all doors, as far as Kafka has words for them.

Of a group whose partitions the broker assigns, members and assignment are told in the form that Kafka's consumers
give them (ConsumerProtocolSubscription and ConsumerProtocolAssignment, version 0), so that tools can show them::

    i16 version = 0
    subscription: [string topic]                          assignment: [string topic, [i32 partition]]
    bytes user data, null
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import partial
from typing import Final

from trunkline.errors import TrunklineError, UnknownGroup
from trunkline.groups import GroupDescription, GroupKind, GroupSummary, MemberDescription
from trunkline.log import TopicPartition
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange, Later
from trunkline_kafka.fields import string
from trunkline_kafka.groups import group_error
from trunkline_kafka.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from trunkline_kafka.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from trunkline_kafka.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse

__all__ = ["delete_groups", "describe_groups", "list_groups"]

_UNKNOWN_IS_ERROR_FROM: Final = 6  # before, DescribeGroups said that an unknown group is dead (KIP-1043)

_TYPES: Final[dict[GroupKind, str]] = {"assigned": "consumer", "classic": "classic", "simple": "classic"}
_CONSUMERS: Final = "consumer"

_START: Final = struct.Struct(">hi")
_COUNT: Final = struct.Struct(">i")
_NO_USER_DATA: Final = b"\xff\xff\xff\xff"


def list_groups(exchange: Exchange) -> ListGroupsResponse:
    """Groups by name, also those that only have offsets."""
    request: ListGroupsRequest = exchange.request
    try:
        groups = exchange.server.broker.groups.list()
    except TrunklineError as error:
        return ListGroupsResponse(error_code=group_error(error))
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    return ListGroupsResponse(
        groups=[
            ListedGroup(group.name, _protocol_type(group), group.state, _TYPES[group.kind])
            for group in groups
            if (not states or group.state.lower() in states) and (not types or _TYPES[group.kind] in types)
        ]
    )


def _protocol_type(group: GroupSummary | GroupDescription) -> str:
    return _CONSUMERS if group.kind == "assigned" else group.protocol_type


def describe_groups(exchange: Exchange) -> DescribeGroupsResponse:
    """Groups and their members."""
    request: DescribeGroupsRequest = exchange.request
    return DescribeGroupsResponse(groups=[_describe(exchange, name) for name in request.groups])


def _describe(exchange: Exchange, name: str) -> DescribedGroup:
    try:
        group = exchange.server.broker.groups.describe(name)
    except UnknownGroup as error:
        if exchange.version >= _UNKNOWN_IS_ERROR_FROM:
            return DescribedGroup(group_error(error), str(error), name, "Dead")
        return DescribedGroup(group_id=name, group_state="Dead")
    except TrunklineError as error:
        return DescribedGroup(group_error(error), str(error), name)
    is_assigned = group.kind == "assigned"
    return DescribedGroup(
        group_id=name,
        group_state=group.state,
        protocol_type=_protocol_type(group),
        protocol_data=group.protocol,
        members=[_member(member, is_assigned) for member in group.members],
    )


def _member(member: MemberDescription, is_assigned: bool) -> DescribedGroupMember:
    return DescribedGroupMember(
        member.member_id,
        member.instance_id,
        member.client,
        f"/{member.host}" if member.host else "",  # as Java writes an address that has no name
        _subscription(member.topics) if is_assigned else member.metadata,
        _assignment(member.assigned) if is_assigned else member.assignment,
    )


def _subscription(topics: Iterable[str]) -> bytes:
    names = [string(topic) for topic in topics]
    return b"".join((_START.pack(0, len(names)), *names, _NO_USER_DATA))


def _assignment(partitions: Iterable[TopicPartition]) -> bytes:
    by_topic: dict[str, list[int]] = {}
    for topic, index in partitions:
        by_topic.setdefault(topic, []).append(index)
    parts = [_START.pack(0, len(by_topic))]
    for topic, indexes in by_topic.items():
        parts += [string(topic), _COUNT.pack(len(indexes)), *map(_COUNT.pack, indexes)]
    return b"".join((*parts, _NO_USER_DATA))


def delete_groups(exchange: Exchange) -> Later:
    """End groups without members, with their offsets."""
    return Later(partial(_delete_all, exchange))


async def _delete_all(exchange: Exchange) -> DeleteGroupsResponse:
    request: DeleteGroupsRequest = exchange.request
    return DeleteGroupsResponse(results=[await _delete(exchange, name) for name in request.groups_names])


async def _delete(exchange: Exchange, name: str) -> DeletableGroupResult:
    try:
        await exchange.server.broker.groups.delete(name)
    except TrunklineError as error:
        return DeletableGroupResult(name, group_error(error))
    return DeletableGroupResult(name, ErrorCode.NONE)
