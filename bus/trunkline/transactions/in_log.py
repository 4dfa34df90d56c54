"""The transactions of one partition: which are open, which ended and how. Decides; no I/O.

A transaction begins in a partition with the first transactional batch of its producer after that producer's last
marker, and ends with its next marker. Everything before the first open one is decided: that is the *last stable offset*
(LSO), which readers stay below. A marker counts once it is acknowledged: until then it may be lost, and its
transaction holds readers back like an open one.

State is kept as of what was *staged*, so that it can be saved with the producers' and taken back with them when a
store turns out to be full.

Snapshot, integers big-endian i64 but for the counts::

    u32 open transactions, for each:     producer id, first offset
    u32 aborted transactions, for each:  producer id, first offset, offset of its marker, last stable offset then
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from trunkline.errors import CorruptLog
from trunkline.records import BatchHeader
from trunkline.records.markers import is_commit_marker
from trunkline.transactions.aborted import AbortedTransactions

__all__ = ["LogTransactions"]

_COUNT: Final = struct.Struct(">I")
_OPEN: Final = struct.Struct(">qq")
_ABORTED: Final = struct.Struct(">qqqq")


class _Ending(NamedTuple):
    """A transaction whose marker is not acknowledged."""

    producer_id: int
    first_offset: int
    marker_offset: int


class LogTransactions:
    """Made for a partition when the first transactional batch comes.

    Attributes:
      aborted: as of what was staged; one past the last stable offset may be among them.
    """

    __slots__ = ("_ending", "_open", "aborted")

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # producer -> first offset, which grows: the first one is the oldest
        self._ending: list[_Ending] = []
        self.aborted = AbortedTransactions()

    @property
    def open(self) -> dict[int, int]:
        """The first offset of each open transaction, by producer id; a copy."""
        return dict(self._open)

    @property
    def is_settled(self) -> bool:
        """None is open, and every marker is acknowledged."""
        return not self._open and not self._ending

    def is_open(self, producer_id: int) -> bool:
        return producer_id in self._open

    def last_stable_offset(self, acknowledged: int) -> int:
        """Where the first undecided transaction begins; ``acknowledged`` if there is none below it."""
        end = acknowledged
        for first in self._open.values():
            end = min(end, first)
            break
        for ending in self._ending:
            end = min(end, ending.first_offset)
        return end

    # -- as batches are staged ---------------------------------------------------------------------

    def wrote(self, producer_id: int, base_offset: int) -> None:
        """A transactional batch of records was staged."""
        self._open.setdefault(producer_id, base_offset)

    def ended(self, producer_id: int, marker_offset: int, *, is_commit: bool) -> None:
        """A marker was staged. One that ends nothing changes nothing."""
        first = self._open.pop(producer_id, None)
        if first is None:
            return
        self._ending.append(_Ending(producer_id, first, marker_offset))
        if not is_commit:
            stable = next(iter(self._open.values()), marker_offset + 1)
            self.aborted.add(producer_id, first, marker_offset, stable)

    def acknowledged(self, offset: int) -> None:
        """Everything below ``offset`` is acknowledged."""
        if self._ending:
            self._ending = [ending for ending in self._ending if ending.marker_offset >= offset]

    def forget_from(self, offset: int) -> None:
        """What was staged at or past ``offset`` was not written after all."""
        undone = {
            one.producer_id: one.first_offset for one in self._ending if one.first_offset < offset <= one.marker_offset
        }
        self._ending = [one for one in self._ending if one.marker_offset < offset]
        still = {producer: first for producer, first in self._open.items() if first < offset} | undone
        self._open = dict(sorted(still.items(), key=lambda one: one[1]))
        self.aborted.forget_from(offset)

    def forget_aborted_below(self, offset: int) -> None:
        """What was aborted by a marker below ``offset`` is not in the log any more."""
        self.aborted = self.aborted.from_offset(offset)

    # -- at start ----------------------------------------------------------------------------------

    def replay(self, header: BatchHeader, batch: bytes) -> None:
        """Take in a stored batch that is transactional. Raises CorruptBatch for a marker that cannot be read."""
        if not header.is_control:
            if header.record_count:  # else compaction emptied it, and has perhaps dropped the marker
                self.wrote(header.producer_id, header.base_offset)
            return
        is_commit = is_commit_marker(header, batch)
        if is_commit is not None:
            self.ended(header.producer_id, header.base_offset, is_commit=is_commit)

    def snapshot(self) -> bytes:
        """See the module's text."""
        rows = self.aborted.rows()
        parts = [_COUNT.pack(len(self._open))]
        parts += (_OPEN.pack(*one) for one in self._open.items())
        parts.append(_COUNT.pack(len(rows)))
        parts += (_ABORTED.pack(*row) for row in rows)
        return b"".join(parts)

    @classmethod
    def restore(cls, state: bytes) -> LogTransactions:
        """The inverse of ``snapshot``. Raises CorruptLog for anything else."""
        found = cls()
        try:
            (count,) = _COUNT.unpack_from(state)
            position = _COUNT.size
            for _ in range(count):
                producer_id, first = _OPEN.unpack_from(state, position)
                found._open[producer_id] = first
                position += _OPEN.size
            (count,) = _COUNT.unpack_from(state, position)
            position += _COUNT.size
            for _ in range(count):
                producer_id, first, last, stable = _ABORTED.unpack_from(state, position)
                found.aborted.add(producer_id, first, last, stable)
                position += _ABORTED.size
        except struct.error as error:
            raise CorruptLog(f"the saved state of transactions ends too early: {error}") from None
        return found
