"""Consumer groups: members that share the partitions of topics, and the offsets they have committed."""

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
