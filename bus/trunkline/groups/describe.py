"""Descriptions of groups, and sentences about why one stands still."""

from __future__ import annotations

import math

from trunkline.catalog import TopicCatalog
from trunkline.groups.assigned import AssignedGroup
from trunkline.groups.assigned_members import AssignedMember, subscriptions
from trunkline.groups.classic import ClassicGroup
from trunkline.groups.classic_members import ClassicMember
from trunkline.groups.description import (
    GroupDescription,
    GroupSummary,
    MemberDescription,
    OffsetDescription,
    RebalanceReport,
)
from trunkline.groups.group import Group, reader_name
from trunkline.log import TopicPartition

__all__ = ["describe_group", "state_of", "summarize"]


def state_of(group: Group) -> str:
    """In Kafka's words; see :class:`~trunkline.groups.description.GroupDescription`."""
    machine = group.machine
    if machine is None or not machine.members:
        return "Empty" if not isinstance(machine, ClassicGroup) else machine.state.value
    if isinstance(machine, ClassicGroup):
        return machine.state.value
    if machine.due_at != math.inf:
        return "Assigning"
    return "Stable" if machine.is_stable else "Reconciling"


def summarize(group: Group) -> GroupSummary:
    return GroupSummary(group.name, group.kind, state_of(group), len(group.members), _protocol_type(group))


def _protocol_type(group: Group) -> str:
    """As the members give it, or the last ones that there were did."""
    machine = group.machine
    return (machine.protocol_type if isinstance(machine, ClassicGroup) else "") or group.protocol_type


def describe_group(group: Group, catalog: TopicCatalog, now: float, now_ms: int) -> GroupDescription:
    """``now`` in the clock of the state machines, ``now_ms`` since the epoch."""
    machine = group.machine
    protocol = ""
    members: tuple[MemberDescription, ...] = ()
    if isinstance(machine, ClassicGroup):
        protocol = machine.protocol
        members = tuple(_classic_member(member, protocol, now) for member in machine.members.values())
    elif machine is not None and machine.members:
        protocol = next(iter(machine.members.values())).subscription.assignor
        members = tuple(_assigned_member(member, now) for member in machine.members.values())
    reader = reader_name(group.name)
    return GroupDescription(
        name=group.name,
        kind=group.kind,
        state=state_of(group),
        generation=group.current_generation,
        protocol=protocol,
        protocol_type=_protocol_type(group),
        members=members,
        offsets=_offsets(group, catalog),
        last_rebalance=_report(group, now, now_ms),
        removed_unread=sum(
            partition.removed_unread.get(reader, 0)
            for topic in {partition.topic for partition in group.offsets}
            if topic in catalog.topics
            for partition in catalog.topics[topic].partitions
        ),
    )


def _assigned_member(member: AssignedMember, now: float) -> MemberDescription:
    return MemberDescription(
        member.member_id,
        member.instance_id,
        member.client,
        member.subscription.topics,
        member.subscription.pattern,
        tuple(sorted(member.assigned)),
        tuple(sorted(member.revoking)),
        member.session_timeout_s,
        member.rebalance_timeout_s,
        now - member.heard,
    )


def _classic_member(member: ClassicMember, protocol: str, now: float) -> MemberDescription:
    return MemberDescription(
        member.member_id,
        member.instance_id,
        member.client,
        (),
        None,
        (),
        (),
        member.session_timeout_s,
        member.rebalance_timeout_s,
        0.0 if member.deadline == math.inf else now - member.heard,
        member.metadata(protocol),
        member.assignment,
        member.host,
    )


def _offsets(group: Group, catalog: TopicCatalog) -> tuple[OffsetDescription, ...]:
    """Of every partition that has a committed offset, an owner, or a member that may read it."""
    owners: dict[TopicPartition, str] = {}
    wanted = set(group.offsets)
    if isinstance(group.machine, AssignedGroup):
        owners = group.machine.owners
        counts = {name: len(topic.partitions) for name, topic in catalog.topics.items()}
        _, read = subscriptions(group.machine.members, counts)
        wanted.update(owners)
        wanted.update(TopicPartition(name, index) for name, count in read.items() for index in range(count))
    found = []
    for name in sorted(wanted):
        topic = catalog.topics.get(name.topic)
        if topic is None or name.partition >= len(topic.partitions):
            continue  # it is being deleted
        partition = topic.partitions[name.partition]
        committed = group.offsets.get(name)
        start, end = partition.log_start_offset, partition.high_watermark
        found.append(
            OffsetDescription(
                name.topic,
                name.partition,
                None if committed is None else committed.offset,
                start,
                end,
                max(0, end - (start if committed is None else max(start, committed.offset))),
                "" if committed is None else committed.metadata,
                owners.get(name),
            )
        )
    return tuple(found)


def _report(group: Group, now: float, now_ms: int) -> RebalanceReport | None:
    machine = group.machine
    rebalance = machine.rebalance if machine is not None and machine.rebalance is not None else group.rebalance
    if rebalance is None:
        return None
    ended = now if rebalance.ended is None else rebalance.ended
    late = list(rebalance.late)
    if isinstance(machine, ClassicGroup) and not rebalance.is_over:
        late += machine.missing()
    elif isinstance(machine, AssignedGroup) and not rebalance.is_over:
        late += [member.member_id for member in machine.members.values() if member.revoking]
    return RebalanceReport(
        round(now_ms - (now - rebalance.began) * 1000),
        rebalance.reason,
        ended - rebalance.began,
        rebalance.is_over,
        tuple(dict.fromkeys(late)),
    )
