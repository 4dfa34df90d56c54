"""The frames of consumer groups, and what is in their bodies; ``docs/protocol-native-groups.md`` is the text.

A client numbers its members itself, as it does its streams, and both sides speak of a member by that number
from then on; the id that the group knows it by is told in the answer to *join*. What may be long is one CBOR item
in the body: partitions are a map from topic to an array, what describes groups is a map with the attributes below
as keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import cbor2
import msgspec

from trunkline_native.header import Count, Header, Int32, Position

__all__ = [
    "Assigned",
    "AssignedPartitions",
    "CommitOffsets",
    "CommittedOffsets",
    "DeleteGroup",
    "DescribeGroup",
    "GroupDescribed",
    "GroupDescription",
    "GroupMember",
    "GroupOffset",
    "GroupReset",
    "GroupSummary",
    "GroupsListed",
    "Heartbeat",
    "JoinGroup",
    "JoinedGroup",
    "LastRebalance",
    "LeaveGroup",
    "ListGroups",
    "MemberFencedPush",
    "OffsetEntry",
    "Offsets",
    "Partitions",
    "OffsetsCommitted",
    "ResetGroup",
    "Revoked",
    "encode_body",
]

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

Partitions = dict[str, list[Int32]]
"""In a body: partitions by topic."""

# -- from the client ------------------------------------------------------------------------------


class JoinGroup(Header, tag=20, frozen=True):
    """Become a member, or (``member_id``) go on being one; answered by :class:`JoinedGroup`.

    ``pattern``: a regular expression that topics' whole names match, also of topics made later.
    """

    id: Count
    member: Count
    group: str
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    assignor: str = "sticky"
    member_id: str = ""
    instance_id: str | None = None
    session_timeout_ms: Milliseconds = 10_000
    rebalance_timeout_ms: Milliseconds = 60_000


class LeaveGroup(Header, tag=21, frozen=True):
    """Be a member no longer, at once; a static member keeps its place until its session timeout."""

    id: Count
    member: Count


class Heartbeat(Header, tag=22, frozen=True):
    """Still here."""

    id: Count
    member: Count


class Revoked(Header, tag=23, frozen=True):
    """The partitions in the body were given up: they may be given to others."""

    id: Count
    member: Count


class CommitOffsets(Header, tag=24, frozen=True):
    """Commit the offsets in the body. ``member`` null: from outside, while the group has no members."""

    id: Count
    group: str
    member: Count | None = None


class CommittedOffsets(Header, tag=25, frozen=True):
    """Ask for the committed offsets of the partitions in the body; an empty body asks for all."""

    id: Count
    group: str


class DescribeGroup(Header, tag=26, frozen=True):
    """Ask for a group's state, also in sentences."""

    id: Count
    group: str


class ListGroups(Header, tag=27, frozen=True):
    """Ask for the names of all groups, and how they are."""

    id: Count


class ResetGroup(Header, tag=28, frozen=True):
    """Set the committed offsets of a topic (``partitions`` null: all of it); ``dry_run``: only tell."""

    id: Count
    group: str
    topic: str
    position: Position
    partitions: list[Int32] | None = None
    dry_run: bool = False


class DeleteGroup(Header, tag=29, frozen=True):
    """Forget a group that has no members, or only its offsets of ``topic``."""

    id: Count
    group: str
    topic: str | None = None


# -- from the server ------------------------------------------------------------------------------


class JoinedGroup(Header, tag=84, frozen=True):
    """A member now, known to the group as ``member_id``."""

    id: Count
    member_id: str
    generation: Count


class OffsetsCommitted(Header, tag=89, frozen=True):
    """The committed offsets, in the body; partitions without one are left out."""

    id: Count


class GroupDescribed(Header, tag=90, frozen=True):
    """The body is a :class:`GroupDescription`."""

    id: Count


class GroupsListed(Header, tag=91, frozen=True):
    """The body is an array of :class:`GroupSummary`."""

    id: Count


class GroupReset(Header, tag=92, frozen=True):
    """The body has an array ``[partition, old offset or null, new offset]`` for each partition."""

    id: Count


class Assigned(Header, tag=112, frozen=True):
    """What a member may read now, and what it is to give up; the body is an :class:`AssignedPartitions`."""

    member: Count
    generation: Count


class MemberFencedPush(Header, tag=113, frozen=True):
    """A member is one no longer, for the reason that ``code`` names."""

    member: Count
    code: str
    message: str = ""
    details: Mapping[str, Any] = {}
    retriable: bool = False


# -- in bodies ------------------------------------------------------------------------------------


class AssignedPartitions(msgspec.Struct, frozen=True, array_like=True):
    """``assigned``: all that it may read now. ``revoked``: to be given up, and confirmed with :class:`Revoked`."""

    assigned: Partitions
    revoked: Partitions = {}


class OffsetEntry(msgspec.Struct, frozen=True, array_like=True):
    """An offset to commit, or one that is; ``committed_ms``: when it was, since the epoch; only ever received."""

    partition: Int32
    offset: Count
    metadata: str = ""
    committed_ms: Count = 0


Offsets = dict[str, list[OffsetEntry]]
"""In a body: offsets by topic."""


class GroupMember(msgspec.Struct, frozen=True):
    """A member of a group.

    Attributes:
      client: as the client calls itself.
      topics, pattern: what it has subscribed to.
      assigned: the partitions it may read, as pairs of topic and number.
      revoking: those it was asked to give up and has not yet.
      heartbeat_age_s: how long it has not been heard of.
    """

    member_id: str
    instance_id: str | None = None
    client: str = ""
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    assigned: tuple[tuple[str, int], ...] = ()
    revoking: tuple[tuple[str, int], ...] = ()
    session_timeout_s: float = 0.0
    rebalance_timeout_s: float = 0.0
    heartbeat_age_s: float = 0.0


class GroupOffset(msgspec.Struct, frozen=True):
    """How far a group has come in a partition.

    Attributes:
      committed: the next offset to read; None: nothing was committed yet.
      lag: records from there, or from the log's start, to the high watermark.
      owner: the id of the member that reads it, where the broker assigns; None: nobody.
    """

    topic: str
    partition: int
    committed: int | None
    log_start: int
    high_watermark: int
    lag: int
    metadata: str = ""
    owner: str | None = None


class LastRebalance(msgspec.Struct, frozen=True):
    """The last time that partitions were dealt out anew.

    Attributes:
      when_ms: it began, in milliseconds since the epoch.
      reason: a sentence.
      seconds: how long it took, or has taken until now if ``is_over`` is false.
      late: ids of the members that the others waited for in vain, or are waiting for.
    """

    when_ms: int
    reason: str
    seconds: float = 0.0
    is_over: bool = True
    late: tuple[str, ...] = ()


class GroupDescription(msgspec.Struct, frozen=True):
    """A consumer group.

    Attributes:
      kind: who assigns partitions: ``assigned`` (the broker), ``classic`` (a member, as in Kafka's older protocol), or
        ``simple`` (nobody yet: there are only offsets).
      generation: grows with each change of who reads what.
      protocol: how partitions are dealt out: the assignor.
      removed_unread: records that retention removed before the group had read them, since the broker was opened.
      explanation: sentences on how it is: why it stands still, why it was rebalanced, who was late.
    """

    name: str
    kind: str
    state: str
    generation: int = 0
    protocol: str = ""
    protocol_type: str = ""
    members: tuple[GroupMember, ...] = ()
    offsets: tuple[GroupOffset, ...] = ()
    last_rebalance: LastRebalance | None = None
    removed_unread: int = 0
    explanation: tuple[str, ...] = ()

    @property
    def lag(self) -> int:
        """Records that the group has not read, over all of its partitions."""
        return sum(entry.lag for entry in self.offsets)


class GroupSummary(msgspec.Struct, frozen=True):
    """A consumer group in a list; attributes as of :class:`GroupDescription`, but ``members`` is how many."""

    name: str
    kind: str
    state: str
    members: int = 0
    protocol_type: str = ""


def encode_body(value: object) -> bytes:
    """What goes into a body, as one CBOR item."""
    return cbor2.dumps(msgspec.to_builtins(value))
