"""What a queue's index is made of.

The index says where entries are stored, in *runs*: consecutive sequences at consecutive offsets of one source. Runs
come in the order of their sequences and lie in *chunks*, each one flat array. The newest chunk is open. When it is
full it is *sealed*: encoded, given to the driver to be stored, and from then on in memory only near the head.

What is out of the index's order (leased, returned, delayed) is a *span*, a :class:`Lease`, that carries its location
with it. So a chunk the head has passed is needed only by those of its entries about which nothing is stored yet
(``held``): after a crash they are found again through it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = [
    "ANY_SOURCE",
    "END",
    "GONE",
    "RUN_FIELDS",
    "Chunk",
    "Lease",
    "Piece",
    "Range",
    "cut",
    "fitting",
    "slice_bytes",
]

Range = tuple[int, int]
"""Sequences ``[first, end)``."""

Piece = tuple[int, int, int, int, int, int]
"""A run or part of one: sequence, source, offset, count, size_bytes, expires_ms."""

RUN_FIELDS: Final = 6

MAX_EXTENTS: Final = 128
ANY_SOURCE: Final = -1
"""In the extents of a chunk of more sources than :data:`MAX_EXTENTS`: the one extent of all."""

END: Final = (1 << 63) - 1
"""Larger than any sequence or offset."""

GONE: Final = -1
"""The holder of a span that is settled: it may still be noted for the next delta."""


class Chunk:
    """Runs of one priority, consecutive in its order.

    ``runs``: :data:`Piece` after :data:`Piece`, or None if it is only stored. ``number``: -1 until it is handed out to
    be stored. ``first``, ``end``, ``entries``, ``size_bytes`` and ``extents`` (source, lowest offset, end offset; ...)
    are known when it is sealed.
    """

    __slots__ = (
        "end",
        "entries",
        "extents",
        "first",
        "held",
        "is_passed",
        "is_sealed",
        "number",
        "priority",
        "runs",
        "saved",
        "size_bytes",
        "stored_at",
    )

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.number = -1
        self.stored_at = -1
        self.runs: array[int] | None = array("q")
        self.is_sealed = False
        self.is_passed = False  # the head is behind it
        self.held = 0  # entries taken from it that are live and must be found through it after a crash
        self.saved = 0  # so many numbers of an open chunk's ``runs`` have been in a delta
        self.first = self.end = self.entries = self.size_bytes = 0
        self.extents: array[int] = _NO_EXTENTS

    def seal(self) -> None:
        """No more runs will come."""
        runs = self.runs
        assert runs
        self.is_sealed = True
        self.first = runs[0]
        self.end = runs[-6] + runs[-3]
        self.entries = sum(runs[3::RUN_FIELDS])
        self.size_bytes = sum(runs[4::RUN_FIELDS])
        extents = self._extents()
        if len(extents) > MAX_EXTENTS:
            extents = {ANY_SOURCE: (min(low for low, _ in extents.values()), max(high for _, high in extents.values()))}
        self._set_extents(extents)

    def _extents(self) -> dict[int, Range]:
        assert self.runs is not None
        extents: dict[int, Range] = {}
        for _, source, offset, count, _, _ in self:
            low, end = extents.get(source, (offset, 0))
            extents[source] = (min(low, offset), max(end, offset + count))
        return extents

    def _set_extents(self, extents: dict[int, Range]) -> None:
        self.extents = array("q", [number for source, extent in extents.items() for number in (source, *extent)])

    def load(self, runs: array[int]) -> None:
        """It is in memory again, and by the way all extents are known."""
        self.runs = runs
        if self.extent(ANY_SOURCE) is not None:
            self._set_extents(self._extents())

    def raise_extent(self, source: int, offset: int) -> None:
        """Nothing below ``offset`` of ``source`` is live any more in this chunk, which is in memory."""
        is_known = self.extent(ANY_SOURCE) is None
        extents = {of: (low, end) for of, low, end in self._rows()} if is_known else self._extents()
        low, end = extents.pop(source, (0, 0))
        if end > offset:
            extents[source] = (max(low, offset), end)
        self._set_extents(extents)

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        numbers = iter(self.extents)
        return zip(numbers, numbers, numbers, strict=True)

    def extent(self, source: int) -> Range | None:
        """Offsets of ``source`` that a sealed chunk speaks of lie in this range; None: it has none."""
        extents = self.extents
        for at in range(0, len(extents), 3):
            if extents[at] in (source, ANY_SOURCE):
                return extents[at + 1], extents[at + 2]
        return None

    def is_only_of(self, source: int) -> bool:
        """Whether a sealed chunk speaks of no other source."""
        return len(self.extents) == 3 and self.extents[0] == source

    def __iter__(self) -> Iterator[Piece]:
        return pieces(self.runs or array("q"), 0)


_NO_EXTENTS: Final[array[int]] = array("q")


def pieces(runs: array[int], start: int) -> Iterator[Piece]:
    """The runs in a flat array from index ``start`` on."""
    numbers = iter(runs[start:] if start else runs)
    return zip(numbers, numbers, numbers, numbers, numbers, numbers, strict=True)


class Lease(msgspec.Struct, gc=False):
    """Consecutive entries and where they are stored. Belongs to the state, which changes it when part of it is settled.

    ``deliveries``: how often they were delivered before, 0 the first time. ``holder``: who has them, 0 for nobody.
    ``deadline_ms``: when the holder loses them, ``due_ms``: when they become ready, ``expires_ms``; 0 for never.

    ``chunk``: through which they are found after a crash, if that is all there is to say about them; otherwise they are
    stored with all this, apart from the index (*aside*). ``is_changed``: will be stored with the next delta.
    """

    sequence: int
    count: int
    source: int
    offset: int
    size_bytes: int
    deliveries: int = 0
    holder: int = 0
    deadline_ms: int = 0
    priority: int = 0
    expires_ms: int = 0
    due_ms: int = 0
    chunk: Chunk | None = None
    is_changed: bool = False


def cut(span: Lease, count: int) -> Lease:
    """Cut the first ``count`` entries off ``span``, which keeps the rest."""
    share, more = divmod(span.size_bytes, span.count)
    size = share * count + (more if more < count else count)
    front = Lease(
        span.sequence,
        count,
        span.source,
        span.offset,
        size,
        span.deliveries,
        span.holder,
        span.deadline_ms,
        span.priority,
        span.expires_ms,
        span.due_ms,
        span.chunk,
        span.is_changed,
    )
    span.sequence += count
    span.offset += count
    span.count -= count
    span.size_bytes -= size
    return front


def slice_bytes(size_bytes: int, count: int, first: int, end: int) -> int:
    """What entries ``[first, end)`` of a run count for: the first ``size_bytes % count`` one byte more than the rest.

    A part of a run that is shared out by the same rule gives each entry the same share as the whole run does, so it
    does not matter how often runs are cut.
    """
    share, more = divmod(size_bytes, count)
    return share * (end - first) + min(max(more - first, 0), end - first)


def fitting(size_bytes: int, count: int, room: int) -> int:
    """How many entries from the start of a run count for at most ``room`` bytes together."""
    if size_bytes <= room:
        return count
    share, more = divmod(size_bytes, count)
    if more * (share + 1) >= room:
        return max(room, 0) // (share + 1)
    return (room - more) // share
