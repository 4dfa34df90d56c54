"""What a door and a group's coordinator say to each other about a member of an assigned group."""

from __future__ import annotations

from typing import Protocol

import msgspec

from trunkline.errors import TrunklineError
from trunkline.log import TopicPartition

__all__ = ["Assignment", "JoinedGroup", "MemberListener"]


class Assignment(msgspec.Struct, frozen=True):
    """What a member may read now.

    Attributes:
      generation: of the target it belongs to; commit with it.
      assigned: all the partitions it may read, those it had before among them, in order.
      revoked: partitions it had and must give up: stop reading, commit, then call ``revoked``. Nobody else gets them
        before that, or before the rebalance timeout is over and the member is put out.
    """

    generation: int
    assigned: tuple[TopicPartition, ...]
    revoked: tuple[TopicPartition, ...] = ()


class JoinedGroup(msgspec.Struct, frozen=True):
    """The answer to a join; the member's first :class:`Assignment` follows."""

    member_id: str
    generation: int


class MemberListener(Protocol):
    """A door's end of one member. Called in the broker's thread; may call the coordinator back at once."""

    def assignment_changed(self, assignment: Assignment) -> None:
        """It says all there is to know, so an earlier one that was not acted upon yet can be forgotten."""

    def fenced(self, error: TrunklineError) -> None:
        """No longer a member: expired, put out, replaced (same instance id), or the group was deleted. Told once."""
