"""Requests and replies of Kafka's classic group protocol, without their encoding (KIP-62, KIP-345, KIP-394, KIP-814).

What assignors send each other through it, subscriptions and assignments, is opaque here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from trunkline.errors import TrunklineError

__all__ = ["JoinReply", "JoinRequest", "JoinedMember", "ReplyToJoin", "ReplyToSync", "SyncReply", "SyncRequest"]


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """JoinGroup.

    Attributes:
      member_id: empty the first time.
      instance_id: of a static member (KIP-345).
      client, host: for descriptions; new member ids begin with the client's name.
      rebalance_timeout_s: how long the others wait for this member to join again (before v1: its session timeout).
      protocols: names of assignors with their metadata, the favourite first.
      knows_id_first: give a new member its id and have it join again (v4 and later, KIP-394).
      can_skip_assignment: understands ``skip_assignment`` (v9 and later, KIP-814).
    """

    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    session_timeout_s: float
    rebalance_timeout_s: float
    member_id: str = ""
    instance_id: str | None = None
    client: str = ""
    host: str = ""
    knows_id_first: bool = True
    can_skip_assignment: bool = False


class JoinedMember(msgspec.Struct, frozen=True):
    """A member, as the leader is told of it."""

    member_id: str
    instance_id: str | None
    metadata: bytes


class JoinReply(msgspec.Struct, frozen=True):
    """The answer to JoinGroup. ``members``: of the leader only."""

    generation: int
    protocol_type: str
    protocol: str
    leader: str
    member_id: str
    members: tuple[JoinedMember, ...] = ()
    skip_assignment: bool = False


class SyncRequest(msgspec.Struct, frozen=True, kw_only=True):
    """SyncGroup. ``assignments``: from the leader, by member id. Names of protocols are checked if given (v5)."""

    member_id: str
    generation: int
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: Mapping[str, bytes] = {}


class SyncReply(msgspec.Struct, frozen=True):
    """The answer to SyncGroup."""

    protocol_type: str
    protocol: str
    assignment: bytes


ReplyToJoin = Callable[[JoinReply | TrunklineError], None]
ReplyToSync = Callable[[SyncReply | TrunklineError], None]
