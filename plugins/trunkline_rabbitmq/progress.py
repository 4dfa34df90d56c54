"""How far a partition is done, where its records are finished in any order. No I/O."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """Offsets from ``committable`` on are not all done; those below are.

    Attributes:
      position: the offset to read next.
      committable: what may be committed: everything below it is done.
    """

    __slots__ = ("_done", "committable", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.committable = position
        self._done: dict[int, int] = {}  # begin of what is done behind the gap -> its end

    @property
    def behind(self) -> int:
        """Runs of offsets that are done behind one that is not: what a place that does not move costs."""
        return len(self._done)

    def read(self, offset: int, next_offset: int) -> None:
        """The record at ``offset`` is taken; the one after it is at ``next_offset`` or later."""
        assert self.position <= offset < next_offset
        if offset > self.position:
            self.done(self.position, offset)  # compacted away, or never there
        self.position = next_offset

    def done(self, offset: int, next_offset: int) -> None:
        """Offsets in ``[offset, next_offset)`` are finished with. Each is, once."""
        if offset != self.committable:
            self._done[offset] = next_offset
            return
        while next_offset in self._done:
            next_offset = self._done.pop(next_offset)
        self.committable = next_offset
