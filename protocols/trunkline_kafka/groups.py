"""Members of consumer groups in Kafka's classic protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

The core's coordinator does all of it; here are its words. A join or a sync may wait for the other members: its answer
comes through a callback, after which the connection goes on.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import BrokerClosing, LogStopped, StoreFull, TrunklineError
from trunkline.groups.classic_messages import JoinReply, JoinRequest, SyncReply, SyncRequest
from trunkline_kafka.bridge import error_code
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange
from trunkline_kafka.messages import join_group as join_messages
from trunkline_kafka.messages import sync_group as sync_messages
from trunkline_kafka.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatResponse
from trunkline_kafka.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from trunkline_kafka.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    MemberResponse,
)

__all__ = ["consumer_group_heartbeat", "group_error", "heartbeat", "join_group", "leave_group", "sync_group"]

_REBALANCE_TIMEOUT_FROM: Final = 1
_ID_FIRST_FROM: Final = 4  # KIP-394
_NULL_PROTOCOL_FROM: Final = 7
_SKIP_ASSIGNMENT_FROM: Final = 9  # KIP-814
_MANY_LEAVE_FROM: Final = 3

_NOT_AVAILABLE: Final = (BrokerClosing, LogStopped, StoreFull)


def group_error(error: TrunklineError) -> ErrorCode:
    """What an error of the coordinator is; one of the log that it writes to means that it cannot serve now."""
    return ErrorCode.COORDINATOR_NOT_AVAILABLE if isinstance(error, _NOT_AVAILABLE) else error_code(error)


def join_group(exchange: Exchange) -> object:
    """Join, and wait for the others."""
    request: join_messages.JoinGroupRequest = exchange.request
    version = exchange.version
    timeout_ms = request.session_timeout_ms
    if version >= _REBALANCE_TIMEOUT_FROM:
        timeout_ms = request.rebalance_timeout_ms
    joining = JoinRequest(
        protocol_type=request.protocol_type,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in request.protocols),
        session_timeout_s=request.session_timeout_ms / 1000,
        rebalance_timeout_s=timeout_ms / 1000,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client=exchange.header.client_id or "",
        host=exchange.transport.peer.rpartition(":")[0],
        knows_id_first=version >= _ID_FIRST_FROM,
        can_skip_assignment=version >= _SKIP_ASSIGNMENT_FROM,
    )

    def reply(result: JoinReply | TrunklineError) -> None:
        exchange.answer(_joined(request, version, result))

    try:
        exchange.server.broker.groups.classic_join(request.group_id, joining, reply)
    except TrunklineError as error:
        return _joined(request, version, error)
    return WAITS


def _joined(
    request: join_messages.JoinGroupRequest, version: int, result: JoinReply | TrunklineError
) -> join_messages.JoinGroupResponse:
    if isinstance(result, TrunklineError):
        return join_messages.JoinGroupResponse(
            error_code=group_error(result),
            protocol_name=None if version >= _NULL_PROTOCOL_FROM else "",
            member_id=result.details.get("member", request.member_id) or "",
        )
    return join_messages.JoinGroupResponse(
        generation_id=result.generation,
        protocol_type=result.protocol_type,
        protocol_name=result.protocol,
        leader=result.leader,
        skip_assignment=result.skip_assignment,
        member_id=result.member_id,
        members=[
            join_messages.JoinGroupResponseMember(member.member_id, member.instance_id, member.metadata)
            for member in result.members
        ],
    )


def sync_group(exchange: Exchange) -> object:
    """Ask for the assignment; the leader brings that of everybody."""
    request: sync_messages.SyncGroupRequest = exchange.request
    syncing = SyncRequest(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments={each.member_id: each.assignment for each in request.assignments},
    )

    def reply(result: SyncReply | TrunklineError) -> None:
        exchange.answer(_synced(result))

    try:
        exchange.server.broker.groups.classic_sync(request.group_id, syncing, reply)
    except TrunklineError as error:
        return _synced(error)
    return WAITS


def _synced(result: SyncReply | TrunklineError) -> sync_messages.SyncGroupResponse:
    if isinstance(result, TrunklineError):
        return sync_messages.SyncGroupResponse(error_code=group_error(result))
    return sync_messages.SyncGroupResponse(
        protocol_type=result.protocol_type, protocol_name=result.protocol, assignment=result.assignment
    )


def heartbeat(exchange: Exchange) -> HeartbeatResponse:
    """A member is alive."""
    request: HeartbeatRequest = exchange.request
    try:
        exchange.server.broker.groups.classic_heartbeat(
            request.group_id, request.member_id, request.generation_id, instance_id=request.group_instance_id
        )
    except TrunklineError as error:
        return HeartbeatResponse(error_code=group_error(error))
    return HeartbeatResponse()


def leave_group(exchange: Exchange) -> LeaveGroupResponse:
    """One member goes, or several (KIP-345); each has its own answer."""
    request: LeaveGroupRequest = exchange.request
    if exchange.version < _MANY_LEAVE_FROM:
        return LeaveGroupResponse(error_code=_leave(exchange, MemberIdentity(request.member_id)))
    return LeaveGroupResponse(
        members=[
            MemberResponse(member.member_id, member.group_instance_id, _leave(exchange, member))
            for member in request.members
        ]
    )


def _leave(exchange: Exchange, member: MemberIdentity) -> ErrorCode:
    try:
        exchange.server.broker.groups.classic_leave(
            exchange.request.group_id, member.member_id, instance_id=member.group_instance_id
        )
    except TrunklineError as error:
        return group_error(error)
    return ErrorCode.NONE


def consumer_group_heartbeat(exchange: Exchange) -> ConsumerGroupHeartbeatResponse:
    """The consumer protocol (KIP-848) is not served. It is advertised all the same, as it is by a Kafka in which it is
    switched off: librdkafka, told to use what nobody advertises, looks for another coordinator for ever.
    """
    reason = "this broker does not serve the consumer protocol of KIP-848; set group.protocol=classic"
    return ConsumerGroupHeartbeatResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, error_message=reason)
