"""Which consumer of a queue gets the next records. Decides only.

The rules, in this order:

1. A higher consumer priority first; lower ones get what is left when those have no room.
2. With ``single_active`` one consumer gets everything: of those with the highest priority the one that came first. It
   stays the one until it goes, whoever comes meanwhile.
3. The one that holds the fewest records, so that a slow consumer does not hoard; of equals the one served longest ago.
   (Tried: the most free prefetch. Then a consumer with a large prefetch takes all until it is nearly full.)

What is ready is shared between the consumers of a priority: each gets at most its part of it at a time, so that
the first with a large prefetch does not take all.

Those who may be served stand in a heap, made anew for each distribution (:meth:`Roster.begin`) and when it has run out.
A consumer's place in it is put right when it comes to the top, so each turn costs the logarithm of their number:
ten thousand consumers that get a record each do not cost ten thousand looks at all of them. It holds those of one
priority, and the next are looked for behind them: from the first again only when all have had their turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

__all__ = ["UNLIMITED", "Roster", "Servable"]

UNLIMITED: Final = 1 << 40
"""What a consumer without a prefetch limit has."""


class Servable(Protocol):
    """A consumer, as far as this decision goes."""

    priority: int
    unacked: int

    @property
    def free(self) -> int:
        """How many more records it may get now; 0 or less: none."""


S = TypeVar("S", bound=Servable)


class Roster(Generic[S]):
    """The consumers of one queue."""

    __slots__ = ("_active", "_heap", "_members", "_passed", "_served", "_turn", "is_single")

    def __init__(self, *, is_single: bool = False) -> None:
        self.is_single = is_single
        self._members: list[S] = []  # by falling priority, then as they came
        self._active: S | None = None
        self._served: dict[S, int] = {}
        self._turn = 0
        self._passed = 0  # so many members were looked at when the heap was made
        self._heap: list[tuple[int, int, int, S]] = []  # held, served when, to tell equals apart, who

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._members))

    @property
    def active(self) -> S | None:
        """With ``is_single``: the one that gets everything."""
        return self._active

    def add(self, consumer: S) -> None:
        place = len(self._members)
        while place and self._members[place - 1].priority < consumer.priority:
            place -= 1
        self._members.insert(place, consumer)
        self._served[consumer] = 0
        self.begin()
        if self._active is None:
            self._active = consumer

    def remove(self, consumer: S) -> None:
        """Take it out; nothing happens if it is not there."""
        if consumer in self._served:
            del self._served[consumer]
            self._members.remove(consumer)
            self._passed = 0
            if self._active is consumer:
                self._active = self._members[0] if self._members else None

    def begin(self) -> None:
        """What they hold and may get has changed in any way since the last choice."""
        self._heap = []
        self._passed = 0

    def choose(self, ready: int) -> tuple[S, int] | None:
        """Who is next, and how many records it gets at most; None if nobody has room."""
        members = self._members
        if self.is_single or len(members) == 1:
            only = self._active
            if only is None or (free := only.free) <= 0:
                return None
            return only, free
        chosen = self._choose(ready)
        if chosen is None and self._passed:
            self._fill()
            chosen = self._choose(ready)
        if chosen is None:
            self._passed = 0
            self._fill()
            chosen = self._choose(ready)
        return chosen

    def _fill(self) -> None:
        """Everybody with room, of the highest priority of which there is one, behind those that had their turn."""
        heap: list[tuple[int, int, int, S]] = []
        members, number = self._members, self._passed
        while number < len(members):
            member = members[number]
            if heap and member.priority < heap[0][3].priority:
                break
            if member.free > 0:
                heap.append((member.unacked, self._served[member], number, member))
            number += 1
        heapq.heapify(heap)
        self._heap = heap
        self._passed = number

    def _choose(self, ready: int) -> tuple[S, int] | None:
        heap, served = self._heap, self._served
        while heap:
            unacked, turn, number, member = heap[0]
            if member not in served or (free := member.free) <= 0:
                heapq.heappop(heap)
            elif (unacked, turn) != (member.unacked, served[member]):
                heapq.heapreplace(heap, (member.unacked, served[member], number, member))
            else:
                self._turn += 1
                served[member] = self._turn
                return member, min(free, max(1, -(-ready // len(heap))))
        return None
