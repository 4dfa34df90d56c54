"""A member of an assigned group: what it wants, what it has, and until when it is believed to be alive."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from trunkline.errors import InvalidFilter
from trunkline.groups.assignors import ASSIGNORS
from trunkline.groups.members import Assignment, MemberListener
from trunkline.groups.patterns import compile_pattern
from trunkline.log import TopicPartition

__all__ = ["AssignedMember", "Subscription", "subscriptions"]


class Subscription(msgspec.Struct, frozen=True):
    """What a member asks for when it joins.

    Attributes:
      topics: names; a topic that is not there yet counts from when it is made.
      pattern: a regular expression that matches whole names of topics, also of those made later.
      assignor: see :data:`trunkline.groups.assignors.ASSIGNORS`; all members of a group use the same.
    """

    topics: tuple[str, ...] = ()
    pattern: str | None = None
    assignor: str = "sticky"

    def check(self) -> None:
        """Raises InvalidFilter for a pattern that is none, ValueError for an assignor that is none."""
        if self.assignor not in ASSIGNORS:
            raise ValueError(f"there is no assignor {self.assignor!r}; use one of {', '.join(ASSIGNORS)}")
        if self.pattern is not None:
            try:
                compile_pattern(self.pattern)
            except re.error as error:
                raise InvalidFilter(
                    f"pattern {self.pattern[:80]!r} is no regular expression that topics can be matched by: {error}",
                    pattern=self.pattern[:300],
                ) from None

    def names(self, topics: Iterable[str], matched: dict[str, frozenset[str]]) -> frozenset[str]:
        """Which of ``topics`` it covers. ``matched``: what patterns were found to match, shared by members."""
        if self.pattern is None:
            return frozenset(self.topics)
        found = matched.get(self.pattern)
        if found is None:
            takes = compile_pattern(self.pattern).matches
            found = matched[self.pattern] = frozenset(name for name in topics if takes(name))
        return found.union(self.topics)

    def covers(self, topic: str) -> bool:
        return topic in self.topics or (self.pattern is not None and compile_pattern(self.pattern).matches(topic))


class AssignedMember:
    """A member, as the coordinator knows it.

    Attributes:
      listener: the door's end; None while a static member is away.
      assigned: what it may read.
      revoking: what it was told to give up, and has not confirmed.
      deadline: when it will be put out if nothing is heard of it.
      revoke_deadline: when it will be put out if it has not given up what it is to give up; infinite: nothing.
      is_told: it knows its assignment.
    """

    __slots__ = (
        "assigned",
        "client",
        "deadline",
        "heard",
        "instance_id",
        "is_told",
        "listener",
        "member_id",
        "rebalance_timeout_s",
        "revoke_deadline",
        "revoking",
        "session_timeout_s",
        "subscription",
    )

    def __init__(
        self,
        member_id: str,
        instance_id: str | None,
        subscription: Subscription,
        *,
        client: str,
        session_timeout_s: float,
        rebalance_timeout_s: float,
        now: float,
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.subscription = subscription
        self.client = client
        self.session_timeout_s = session_timeout_s
        self.rebalance_timeout_s = rebalance_timeout_s
        self.listener: MemberListener | None = None
        self.assigned: set[TopicPartition] = set()
        self.revoking: set[TopicPartition] = set()
        self.revoke_deadline = math.inf
        self.is_told = False
        self.touch(now)

    def tell(self, assignment: Assignment) -> None:
        """Unless it has gone meanwhile: what was on its way is not told any more then."""
        if self.listener is not None:
            self.listener.assignment_changed(assignment)

    def touch(self, now: float) -> None:
        """It was heard of."""
        self.heard = now
        self.deadline = now + self.session_timeout_s

    def revoke(self, partitions: Iterable[TopicPartition], now: float) -> None:
        self.assigned.difference_update(partitions)
        self.revoking.update(partitions)
        self.revoke_deadline = min(self.revoke_deadline, now + self.rebalance_timeout_s)
        self.is_told = False

    def confirm(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """It has given these up; returns those that it was to give up."""
        confirmed = sorted(self.revoking.intersection(partitions))
        self.revoking.difference_update(confirmed)
        if not self.revoking:
            self.revoke_deadline = math.inf
        return confirmed

    def assignment(self, generation: int) -> Assignment:
        return Assignment(generation, tuple(sorted(self.assigned)), tuple(sorted(self.revoking)))


def subscriptions(
    members: Mapping[str, AssignedMember], topics: Mapping[str, int]
) -> tuple[dict[str, frozenset[str]], dict[str, int]]:
    """By member, the topics it may read; and the number of partitions of those topics that are there."""
    matched: dict[str, frozenset[str]] = {}
    names = {member_id: member.subscription.names(topics, matched) for member_id, member in members.items()}
    wanted: Sequence[str] = sorted(set().union(*names.values()))
    return names, {name: topics[name] for name in wanted if name in topics}
