"""Which queues of a source have taken records that nothing stored speaks of: since when, and whose turn it is.

A queue that nobody consumes would never write, and a restart would have to look at all it took again. So after so many
bytes of the source it is told to. With ten thousand queues that must not be at once: each is a record of its own, and
a tenth of a millisecond. So they take turns, the oldest first, one for each stretch of the source. Hence what a restart
looks at again: the last :data:`AGE_BYTES`, or :data:`TURN_BYTES` for each queue with something unwritten, if that is
more.

Decides only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from trunkline.queues.positions import ITS_OWN

__all__ = ["AGE_BYTES", "Unwritten"]

AGE_BYTES: Final = 16 * 1024 * 1024
"""Of a source: when what a queue took is so old, or somewhat less, its turn may come."""

TURN_BYTES: Final = 16 * 1024
"""Of a source, for each turn: 0.1 ms of writing beside 1 ms of looking at so many bytes in records of 100."""

NOTE_BYTES: Final = 512
"""Of a source, for each queue with something unwritten, before another shared position: each is an exception there."""

MOST_TURNS: Final = 32
"""In a round, so that no round takes longer than some 5 ms for them."""


class Numbered(Protocol):
    """A queue, as far as this goes. Hashable."""

    @property
    def id(self) -> int: ...


Q = TypeVar("Q", bound=Numbered)


class Unwritten(Generic[Q]):
    """Of one source. A queue is here with the offset of the first record it took that is not stored."""

    __slots__ = ("_bytes", "_earned", "_old", "_under_way", "_young")

    def __init__(self) -> None:
        self._young: dict[Q, int] = {}
        self._old: dict[Q, int] = {}  # for at least half the age
        self._under_way: dict[Q, int] = {}  # what is being written now
        self._bytes = 0  # since the young ones began
        self._earned = 0  # bytes for which there was no turn yet

    def __contains__(self, queue: Q) -> bool:
        return queue in self._young or queue in self._old or queue in self._under_way

    def __iter__(self) -> Iterator[Q]:
        return iter({**self._old, **self._young, **self._under_way})

    def took(self, queue: Q, offset: int) -> None:
        """It has taken a record."""
        if queue not in self._young and queue not in self._old:
            self._young[queue] = offset

    def moved(self, queue: Q) -> None:
        """It goes on elsewhere, or with other filters: until that is stored nothing may be said for it."""
        self._old.pop(queue, None)
        self._young[queue] = ITS_OWN

    def forget(self, queue: Q) -> None:
        """It is gone."""
        for held in (self._young, self._old, self._under_way):
            held.pop(queue, None)

    def writes(self, queue: Q) -> None:
        """All that it has taken is on its way to the log."""
        first = self._old.pop(queue, None)
        if first is None:
            first = self._young.pop(queue, None)
        if first is not None:
            self._under_way[queue] = first

    def written(self, queue: Q) -> None:
        """What was on its way is durable."""
        self._under_way.pop(queue, None)

    def passed(self, size_bytes: int) -> bool:
        """So much more of the source was looked at; True: enough for another shared position."""
        self._earned += size_bytes
        self._bytes += size_bytes
        if self._bytes < max(AGE_BYTES // 2, NOTE_BYTES * (len(self._old) + len(self._young))):
            return False
        self._bytes = 0
        self._old.update(self._young)
        self._young = {}
        return True

    def take_due(self) -> list[Q]:
        """Those that shall write now, :data:`MOST_TURNS` at most; call again in the next round until there are none."""
        if not self._old:
            self._earned = 0
            return []
        due = list(islice(self._old, min(self._earned // TURN_BYTES, MOST_TURNS)))
        self._earned -= len(due) * TURN_BYTES
        for queue in due:  # one that cannot write now must not keep the others from it
            self._young[queue] = self._old.pop(queue)
        return due

    def exceptions(self) -> dict[int, int]:
        """What a shared position must not say: by number, below which offset all is stored."""
        found = {queue.id: offset for held in (self._old, self._young) for queue, offset in held.items()}
        for queue, offset in self._under_way.items():
            found[queue.id] = min(offset, found.get(queue.id, offset))
        return found
