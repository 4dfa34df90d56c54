"""Which consumer of a queue gets the next records. Decides only.

The rules, in this order:

1. A higher consumer priority first; lower ones get what is left when those have no room.
2. With ``single_active`` one consumer gets everything: of those with the highest priority the one that came first. It
   stays the one until it goes, whoever comes meanwhile.
3. The one that holds the fewest records, so that a slow consumer does not hoard; of equals the one served longest ago.
   (Tried: the most free prefetch. Then a consumer with a large prefetch takes all until it is nearly full.)

What is ready is shared between the consumers of a priority: each gets at most its part of it at a time, so that
the first with a large prefetch does not take all.
"""

from __future__ import annotations

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

    __slots__ = ("_active", "_members", "_served", "_turn", "is_single")

    def __init__(self, *, is_single: bool = False) -> None:
        self.is_single = is_single
        self._members: list[S] = []  # by falling priority, then as they came
        self._active: S | None = None
        self._served: dict[S, int] = {}
        self._turn = 0

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
        if self._active is None:
            self._active = consumer

    def remove(self, consumer: S) -> None:
        """Take it out; nothing happens if it is not there."""
        if consumer in self._served:
            del self._served[consumer]
            self._members.remove(consumer)
            if self._active is consumer:
                self._active = self._members[0] if self._members else None

    def choose(self, ready: int) -> tuple[S, int] | None:
        """Who is next, and how many records it gets at most; None if nobody has room."""
        members = self._members
        if self.is_single or len(members) == 1:
            only = self._active
            if only is None or (free := only.free) <= 0:
                return None
            return only, free
        best: S | None = None
        best_free = sharing = 0
        served = self._served
        for member in members:
            if best is not None and member.priority < best.priority:
                break
            free = member.free
            if free <= 0:
                continue
            sharing += 1
            if best is None or (member.unacked, served[member]) < (best.unacked, served[best]):
                best, best_free = member, free
        if best is None:
            return None
        self._turn += 1
        served[best] = self._turn
        return best, min(best_free, max(1, -(-ready // sharing)))
