"""A group's record: what of it survives a restart.

In the internal topic ``__offsets``, beside the committed offsets (:mod:`trunkline.groups.offsets`):

    key      u8   kind = 2
             ...  the group's name (UTF-8)

    value    u8   version = 1
             ...  MessagePack: an array whose first element is "assigned" or "classic", then the fields of the class of
                  that kind below, in order; members are arrays of their fields likewise

    ["assigned", generation, empty since (ms since the epoch; 0: it has members), assignor, [static member, ...]]
    ["classic", generation, empty since, protocol type, protocol, leader, is stable, [member, ...]]

A tombstone ends the group. Of assigned groups only static members are kept, since the others' connections end with the
broker; of classic groups all are, because Kafka's clients come back to a restarted broker as who they were.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.groups.assigned import AssignedGroup
from trunkline.groups.assigned_members import AssignedMember, Subscription
from trunkline.groups.classic import ClassicGroup
from trunkline.groups.classic_members import ClassicMember
from trunkline.groups.classic_messages import JoinRequest
from trunkline.groups.classic_states import STABLE
from trunkline.log import TopicPartition

__all__ = [
    "GROUP_KEY",
    "StoredAssigned",
    "StoredClassic",
    "StoredGroup",
    "decode_group",
    "encode_group",
    "encode_group_key",
    "restore_assigned",
    "restore_classic",
    "store_group",
]

GROUP_KEY: Final = 2
_VERSION: Final = 1


class StoredStatic(msgspec.Struct, array_like=True, frozen=True):
    """A static member of an assigned group. ``partitions``: those of the target."""

    member_id: str
    instance_id: str
    client: str
    topics: tuple[str, ...]
    pattern: str | None
    session_timeout_s: float
    rebalance_timeout_s: float
    partitions: tuple[tuple[str, int], ...]


class StoredAssigned(msgspec.Struct, array_like=True, frozen=True, tag="assigned"):
    """See the module's text."""

    generation: int
    empty_since_ms: int
    assignor: str
    members: tuple[StoredStatic, ...]


class StoredMember(msgspec.Struct, array_like=True, frozen=True):
    """A member of a classic group."""

    member_id: str
    instance_id: str | None
    client: str
    host: str
    session_timeout_s: float
    rebalance_timeout_s: float
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes


class StoredClassic(msgspec.Struct, array_like=True, frozen=True, tag="classic"):
    """See the module's text."""

    generation: int
    empty_since_ms: int
    protocol_type: str
    protocol: str
    leader: str
    is_stable: bool
    members: tuple[StoredMember, ...]


StoredGroup = StoredAssigned | StoredClassic

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[StoredGroup] = msgspec.msgpack.Decoder(StoredGroup)


def encode_group_key(group: str) -> bytes:
    return bytes([GROUP_KEY]) + group.encode()


def encode_group(stored: StoredGroup) -> bytes:
    return bytes([_VERSION]) + _encoder.encode(stored)


def decode_group(value: bytes) -> StoredGroup:
    """Raises ValueError for a version that this broker does not know."""
    if value[0] != _VERSION:
        raise ValueError(f"a group's record of version {value[0]}; this broker knows version {_VERSION}")
    return _decoder.decode(value[1:])


def store_group(group: AssignedGroup | ClassicGroup, now_ms: int) -> StoredGroup:
    """What to keep of it, as it is now."""
    empty_since_ms = 0 if group.members else now_ms
    if isinstance(group, ClassicGroup):
        return StoredClassic(
            group.generation,
            empty_since_ms,
            group.protocol_type,
            group.protocol,
            group.leader,
            group.state is STABLE,
            tuple(_store_member(member) for member in group.members.values()),
        )
    wanted: dict[str, list[tuple[str, int]]] = {}
    for partition, owner in group.target.items():
        wanted.setdefault(owner, []).append((partition.topic, partition.partition))
    return StoredAssigned(
        group.generation,
        empty_since_ms,
        next((member.subscription.assignor for member in group.members.values()), ""),
        tuple(
            _store_static(member, tuple(sorted(wanted.get(member.member_id, ()))))
            for member in group.members.values()
            if member.instance_id is not None
        ),
    )


def _store_member(member: ClassicMember) -> StoredMember:
    return StoredMember(
        member.member_id,
        member.instance_id,
        member.client,
        member.host,
        member.session_timeout_s,
        member.rebalance_timeout_s,
        member.protocols,
        member.assignment,
    )


def _store_static(member: AssignedMember, partitions: tuple[tuple[str, int], ...]) -> StoredStatic:
    assert member.instance_id is not None
    return StoredStatic(
        member.member_id,
        member.instance_id,
        member.client,
        member.subscription.topics,
        member.subscription.pattern,
        member.session_timeout_s,
        member.rebalance_timeout_s,
        partitions,
    )


def restore_assigned(group: AssignedGroup, stored: StoredAssigned, now: float) -> None:
    """Put the static members back, as ones who are away; the rest is dealt out once they could all have come back."""
    for kept in stored.members:
        member = AssignedMember(
            kept.member_id,
            kept.instance_id,
            Subscription(kept.topics, kept.pattern, stored.assignor),
            client=kept.client,
            session_timeout_s=kept.session_timeout_s,
            rebalance_timeout_s=kept.rebalance_timeout_s,
            now=now,
        )
        member.assigned.update(TopicPartition(topic, index) for topic, index in kept.partitions)
        group.members[member.member_id] = member
        group.static[kept.instance_id] = member.member_id
        group.owners.update(dict.fromkeys(member.assigned, member.member_id))
    group.target = dict(group.owners)
    longest_s = max(kept.session_timeout_s for kept in stored.members)
    group.ask("the broker was restarted", now + longest_s)


def restore_classic(group: ClassicGroup, stored: StoredClassic, now: float) -> None:
    """Put the members back. What was not assigned when the broker ended is assigned anew, in another generation."""
    for kept in stored.members:
        request = JoinRequest(
            protocol_type=stored.protocol_type,
            protocols=kept.protocols,
            session_timeout_s=kept.session_timeout_s,
            rebalance_timeout_s=kept.rebalance_timeout_s,
            instance_id=kept.instance_id,
            client=kept.client,
            host=kept.host,
        )
        member = group.members[kept.member_id] = ClassicMember(kept.member_id, request, now)
        member.assignment = kept.assignment
        member.has_synced = True
        if kept.instance_id is not None:
            group.static[kept.instance_id] = kept.member_id
    group.protocol_type, group.protocol, group.leader = stored.protocol_type, stored.protocol, stored.leader
    if stored.is_stable:
        group.state = STABLE
    else:
        group.resume("the broker was restarted while the group was rebalanced", now)
