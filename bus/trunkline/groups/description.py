"""What can be asked about a group, as plain values."""

from __future__ import annotations

from typing import Literal

import msgspec

from trunkline.log import TopicPartition

__all__ = ["GroupDescription", "GroupKind", "GroupSummary", "MemberDescription", "OffsetDescription", "RebalanceReport"]

GroupKind = Literal["assigned", "classic", "simple"]
"""Who assigns partitions: the broker; a member (Kafka's classic protocol); or nobody yet, there are only offsets."""


class MemberDescription(msgspec.Struct, frozen=True):
    """A member.

    Attributes:
      topics, pattern: what an assigned member subscribed to.
      assigned: what it may read now; revoking: what it was asked to give up and has not yet.
      heartbeat_age_s: how long it has not been heard of; 0 while it waits for an answer.
      metadata, assignment: of a classic member, as it sent and got them.
      host: where a classic member joined from.
    """

    member_id: str
    instance_id: str | None
    client: str
    topics: tuple[str, ...]
    pattern: str | None
    assigned: tuple[TopicPartition, ...]
    revoking: tuple[TopicPartition, ...]
    session_timeout_s: float
    rebalance_timeout_s: float
    heartbeat_age_s: float
    metadata: bytes = b""
    assignment: bytes = b""
    host: str = ""


class OffsetDescription(msgspec.Struct, frozen=True):
    """A partition of a group.

    Attributes:
      committed: None: nothing was committed.
      lag: records from the committed offset, or the log start if there is none, to the high watermark.
      owner: the id of the member that reads it, where the broker assigns.
    """

    topic: str
    partition: int
    committed: int | None
    log_start: int
    high_watermark: int
    lag: int
    metadata: str
    owner: str | None


class RebalanceReport(msgspec.Struct, frozen=True):
    """The last time that partitions were dealt out anew.

    Attributes:
      when_ms: it began, in milliseconds since the epoch.
      reason: a sentence.
      seconds: how long it took, or has taken until now if ``is_over`` is false.
      late: ids of the members that the others waited for in vain, or are waiting for.
    """

    when_ms: int
    reason: str
    seconds: float
    is_over: bool
    late: tuple[str, ...]


class GroupDescription(msgspec.Struct, frozen=True):
    """A group, its members, and how far it has come.

    Attributes:
      state: ``Empty``, ``Stable``; classic: ``PreparingRebalance``, ``CompletingRebalance``; assigned: ``Assigning``,
        ``Reconciling``.
      protocol: the assignor (assigned), or the assignor that the members voted for (classic).
      protocol_type: of a classic group, as its members gave it.
      removed_unread: records that retention removed before the group had read them, since the broker was opened.
    """

    name: str
    kind: GroupKind
    state: str
    generation: int
    protocol: str
    protocol_type: str
    members: tuple[MemberDescription, ...]
    offsets: tuple[OffsetDescription, ...]
    last_rebalance: RebalanceReport | None
    removed_unread: int


class GroupSummary(msgspec.Struct, frozen=True):
    """A group in a list."""

    name: str
    kind: GroupKind
    state: str
    members: int
    protocol_type: str
