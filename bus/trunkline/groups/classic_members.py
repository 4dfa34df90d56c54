"""A member of a classic group, and the vote on how partitions are assigned."""

from __future__ import annotations

import math
from collections.abc import Collection

from trunkline.groups.classic_messages import JoinedMember, JoinRequest, ReplyToJoin, ReplyToSync

__all__ = ["ClassicMember", "common_protocols", "elect_protocol"]


class ClassicMember:
    """A member, as the coordinator knows it.

    Attributes:
      protocols: assignors it can use with their metadata, the favourite first.
      joining, syncing: who waits for the answer to its JoinGroup or SyncGroup; while somebody does, it counts as alive.
      has_synced: it has asked for its assignment in this generation.
      deadline: when it will be put out if nothing is heard of it; infinite while it waits.
      heard: when it was last heard of.
    """

    __slots__ = (
        "assignment",
        "client",
        "deadline",
        "has_synced",
        "heard",
        "host",
        "instance_id",
        "joining",
        "member_id",
        "protocols",
        "rebalance_timeout_s",
        "session_timeout_s",
        "syncing",
    )

    def __init__(self, member_id: str, request: JoinRequest, now: float) -> None:
        self.member_id = member_id
        self.instance_id = request.instance_id
        self.assignment = b""
        self.joining: ReplyToJoin | None = None
        self.syncing: ReplyToSync | None = None
        self.has_synced = False
        self.update(request)
        self.touch(now)

    def update(self, request: JoinRequest) -> None:
        self.client = request.client
        self.host = request.host
        self.protocols = request.protocols
        self.session_timeout_s = request.session_timeout_s
        self.rebalance_timeout_s = request.rebalance_timeout_s

    def touch(self, now: float) -> None:
        """It was heard of, or was given an answer."""
        self.heard = now
        is_waiting = self.joining is not None or self.syncing is not None
        self.deadline = math.inf if is_waiting else now + self.session_timeout_s

    def metadata(self, protocol: str) -> bytes:
        for name, metadata in self.protocols:
            if name == protocol:
                return metadata
        return b""

    def as_joined(self, protocol: str) -> JoinedMember:
        return JoinedMember(self.member_id, self.instance_id, self.metadata(protocol))


def common_protocols(members: Collection[ClassicMember]) -> set[str]:
    """The protocols that all of ``members`` can use."""
    names = [{name for name, _ in member.protocols} for member in members]
    return set.intersection(*names) if names else set()


def elect_protocol(members: Collection[ClassicMember]) -> str:
    """Each member votes for its favourite among the common protocols; of equals the first by name wins."""
    common = common_protocols(members)
    assert common, "a member without a protocol in common with the others is never let in"
    votes = dict.fromkeys(sorted(common), 0)
    for member in members:
        votes[next(name for name, _ in member.protocols if name in common)] += 1
    return max(votes, key=lambda name: votes[name])
