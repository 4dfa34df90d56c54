"""Consumer groups: members that share the partitions of topics, and the offsets they have committed.

Decide, without I/O or a clock:

    group               one group: its offsets, and one of two state machines while it has members
    assigned            the broker assigns (assigned_members, assignors, members)
    classic             members assign, Kafka's classic protocol (classic_members, classic_roster, classic_states,
                        classic_messages)
    effects             what a state machine wants done
    history, explain    why a group was rebalanced, and sentences about it
    patterns            which topics a subscription by pattern means

Drive:

    coordinator         all groups of a broker, on top of admin (what people ask), describe and driver (time, saves,
                        topics)
    committed, staged   committed offsets; those of transactions that are open
    offsets, stored     how offsets and groups are stored
    outbox              nothing is told that a crash could take back
    description         what can be asked about a group, as plain values
"""

from trunkline.groups.classic_messages import JoinedMember, JoinReply, JoinRequest, SyncReply, SyncRequest
from trunkline.groups.coordinator import GroupCoordinator
from trunkline.groups.description import (
    GroupDescription,
    GroupKind,
    GroupSummary,
    MemberDescription,
    OffsetDescription,
    RebalanceReport,
)
from trunkline.groups.members import Assignment, JoinedGroup, MemberListener
from trunkline.groups.offsets import OffsetAndMetadata

__all__ = [
    "Assignment",
    "GroupCoordinator",
    "GroupDescription",
    "GroupKind",
    "GroupSummary",
    "JoinReply",
    "JoinRequest",
    "JoinedGroup",
    "JoinedMember",
    "MemberDescription",
    "MemberListener",
    "OffsetAndMetadata",
    "OffsetDescription",
    "RebalanceReport",
    "SyncReply",
    "SyncRequest",
]
