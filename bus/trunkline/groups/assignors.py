"""How partitions are dealt out to members: range, round-robin, sticky. Decides only.

Each assignor is a function of what every member may read and what it has now; the same input gives the same output,
in whatever order the members came. Every partition that at least one member may read gets exactly one owner.

*sticky* leaves a partition where it is unless balance needs it elsewhere.

- Where all members may read the same topics, each keeps what it has up to its fair share, and the others go to
  whoever has the least: members end within one partition of each other, and no more partitions move than that needs.
- Else every member keeps all it has and may read, the others are dealt likewise, and then the assignment is levelled:
  while some member has at least two partitions more than another that may read one of them, it gives one away. Each
  such move makes the sum of the squared counts smaller, so there is an end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, Literal

from trunkline.log import TopicPartition

__all__ = ["ASSIGNORS", "Assignor", "AssignorName", "Target", "assign_range", "assign_round_robin", "assign_sticky"]

AssignorName = Literal["sticky", "range", "round-robin"]

Subscriptions = Mapping[str, Set[str]]
"""By member: names of the topics it may read."""

Owners = Mapping[TopicPartition, str]
"""By partition: the member that has it now."""

Target = dict[str, list[TopicPartition]]
"""By member, every one of them: what it shall have."""

Assignor = Callable[[Subscriptions, Mapping[str, int], Owners], Target]
"""(subscriptions, number of partitions by topic, present owners) -> target."""


def _readers(subscriptions: Subscriptions, topics: Mapping[str, int]) -> dict[str, list[str]]:
    """By topic, in order of name: the members that may read it, in order."""
    found: dict[str, list[str]] = {topic: [] for topic in sorted(topics)}
    for member in sorted(subscriptions):
        for topic in subscriptions[member]:
            if topic in found:
                found[topic].append(member)
    return found


def assign_range(subscriptions: Subscriptions, topics: Mapping[str, int], owners: Owners) -> Target:
    """Of every topic, each member gets a run of neighbours; the first get one more if it is not even.

    Topics with the same number of partitions and the same members are split alike, so that a member has the same
    numbers of both (for joins).
    """
    target: Target = {member: [] for member in subscriptions}
    for topic, members in _readers(subscriptions, topics).items():
        if not members:
            continue
        share, extra = divmod(topics[topic], len(members))
        first = 0
        for position, member in enumerate(members):
            end = first + share + (position < extra)
            target[member].extend(TopicPartition(topic, index) for index in range(first, end))
            first = end
    return target


def assign_round_robin(subscriptions: Subscriptions, topics: Mapping[str, int], owners: Owners) -> Target:
    """Partitions in order go to members in turn; a member that may not read the topic is passed over."""
    target: Target = {member: [] for member in subscriptions}
    order = sorted(subscriptions)
    turn = 0
    for topic, members in _readers(subscriptions, topics).items():
        if not members:
            continue
        may_read = set(members)
        for index in range(topics[topic]):
            while order[turn % len(order)] not in may_read:
                turn += 1
            target[order[turn % len(order)]].append(TopicPartition(topic, index))
            turn += 1
    return target


def assign_sticky(subscriptions: Subscriptions, topics: Mapping[str, int], owners: Owners) -> Target:
    """As even as can be, and of all such assignments one that moves little. See the module's text."""
    readers = _readers(subscriptions, topics)
    is_uniform = all(len(members) in (0, len(subscriptions)) for members in readers.values())
    target: Target = {member: [] for member in subscriptions}
    homeless = []
    for topic, members in readers.items():
        may_read = set(members)
        for index in range(topics[topic] if members else 0):
            partition = TopicPartition(topic, index)
            owner = owners.get(partition)
            if owner in may_read:
                target[owner].append(partition)
            else:
                homeless.append(partition)
    if is_uniform and subscriptions:
        homeless += _take_surplus(target, len(homeless))
    _deal(target, homeless, readers)
    if not is_uniform:
        _level(target, readers)
    return target


def _take_surplus(target: Target, homeless: int) -> list[TopicPartition]:
    """Take from every member what it has above its share. Shares differ by one if it does not come out even: who has
    more than the smaller share has a claim to the larger one."""
    total = homeless + sum(len(partitions) for partitions in target.values())
    share, extra = divmod(total, len(target))
    taken = []
    for member in sorted(target):
        keeps = share
        if extra and len(target[member]) > share:
            extra -= 1
            keeps += 1
        taken += target[member][keeps:]
        del target[member][keeps:]
    return taken


def _deal(target: Target, homeless: Sequence[TopicPartition], readers: Mapping[str, Sequence[str]]) -> None:
    """Give each of ``homeless`` to whoever has the least of those who may read it; the hardest to place go first."""
    heaps: dict[tuple[str, ...], list[tuple[int, str]]] = {}  # by who may read: (how many it had, member)
    for partition in sorted(homeless, key=lambda partition: (len(readers[partition.topic]), partition)):
        members = tuple(readers[partition.topic])
        heap = heaps.get(members)
        if heap is None:
            heap = heaps[members] = [(len(target[member]), member) for member in members]
            heapq.heapify(heap)
        while heap[0][0] != len(target[heap[0][1]]):  # it got something through another heap meanwhile
            heapq.heapreplace(heap, (len(target[heap[0][1]]), heap[0][1]))
        member = heap[0][1]
        target[member].append(partition)
        heapq.heapreplace(heap, (len(target[member]), member))


def _level(target: Target, readers: Mapping[str, Sequence[str]]) -> None:
    """Move single partitions from members with more to members with at least two less, until there is no such pair."""
    by_topic: dict[str, dict[str, list[TopicPartition]]] = {member: {} for member in target}
    for member, partitions in target.items():
        for partition in partitions:
            by_topic[member].setdefault(partition.topic, []).append(partition)
    counts = {member: len(partitions) for member, partitions in target.items()}
    is_level = False
    while not is_level:
        is_level = True
        for giver in sorted(target, key=lambda member: (-counts[member], member)):
            for topic in sorted(by_topic[giver]):
                taker = min(readers[topic], key=lambda member: (counts[member], member))
                while by_topic[giver][topic] and counts[giver] - counts[taker] >= 2:
                    by_topic[taker].setdefault(topic, []).append(by_topic[giver][topic].pop())
                    counts[giver] -= 1
                    counts[taker] += 1
                    is_level = False
                    taker = min(readers[topic], key=lambda member: (counts[member], member))
    for member, found in by_topic.items():
        target[member] = [partition for topic in sorted(found) for partition in sorted(found[topic])]


ASSIGNORS: Final[Mapping[str, Assignor]] = {
    "sticky": assign_sticky,
    "range": assign_range,
    "round-robin": assign_round_robin,
}
