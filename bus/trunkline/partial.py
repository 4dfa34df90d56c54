"""A frame of which a part has arrived, put together where it will stay.

A connection that has one in :attr:`trunkline.door.Connection.partial` lets the core receive right into it: a large
frame is then copied once, by the kernel, where cutting bites off and joining them takes two copies more. Whoever takes
the whole frame owns its memory, and may have a batch in it written to disk from there.

Memory is taken for what has arrived, and for some that is to come: :data:`AHEAD_BYTES`, :data:`AHEAD_TIMES` what is
there, or as much as a frame had that the peer has sent before. So who promises more than it ever sends gets no more
than those.
"""

from __future__ import annotations

from typing import Final, cast

__all__ = ["PartialFrame", "may_stay"]

AHEAD_BYTES: Final = 256 * 1024
"""As much as is read from a peer in a round; a frame up to this size is never moved."""

AHEAD_TIMES: Final = 2
"""Moving what is there whenever it has doubled costs about a copy, of a peer's first large frame."""

LEAST_ROOM_BYTES: Final = 16 * 1024
"""When less than this is missing, receiving it together with what follows, and copying it, costs less."""

_LEAST_SHARE: Final = 8


class PartialFrame:
    """Give it what arrives until it is whole.

    Args:
      size: of the whole frame; checked against the receiver's limit.
      data: from ``at`` on it is the beginning of the frame, and less than all of it.
      ahead: memory for so many bytes may be taken at once; the size of the largest frame that the same peer has sent.

    Attributes:
      have: bytes that have arrived.
    """

    __slots__ = ("_ahead", "_buffer", "_view", "have", "size")

    def __init__(self, size: int, data: bytes, at: int = 0, ahead: int = 0) -> None:
        self._ahead = max(AHEAD_BYTES, ahead)
        self.size = size
        self.have = 0
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self.add(data, at)

    @property
    def held_bytes(self) -> int:
        """The memory that it has."""
        return len(self._buffer)

    @property
    def is_whole(self) -> bool:
        """Nothing is missing."""
        return self.have == self.size

    @property
    def room(self) -> memoryview | None:
        """Where what follows belongs, in part or all of it; None if too little is missing to be worth it."""
        if self.size - self.have < LEAST_ROOM_BYTES:
            return None
        if self.have == len(self._buffer):
            self._grow(self.have)
        return self._view[self.have :]

    def filled(self, size: int) -> None:
        """So many bytes were put into ``room``."""
        self.have += size

    def add(self, data: bytes, at: int = 0) -> int:
        """Copy what belongs here of ``data``, from ``at`` on; return how many bytes."""
        size = min(self.size - self.have, len(data) - at)
        end = self.have + size
        if end > len(self._buffer):
            self._grow(end)
        self._view[self.have : end] = memoryview(data)[at : at + size]
        self.have = end
        return size

    def _grow(self, least: int) -> None:
        buffer = bytearray(min(self.size, max(self._ahead, AHEAD_TIMES * least)))
        view = memoryview(buffer)
        view[: self.have] = self._view[: self.have]
        self._buffer, self._view = buffer, view

    def take(self) -> bytes | bytearray:
        """The whole frame, which belongs to the caller from now on; a small one as bytes, which are easier to use."""
        assert self.have == self.size
        return self._buffer if self.size >= LEAST_ROOM_BYTES else bytes(self._buffer)


def may_stay(batch: bytes | bytearray | memoryview) -> bool:
    """Whether a batch may stay in its frame's memory until it is committed.

    It may if that memory belongs to the receiver, as a frame's does that was taken from here, and if not much more than
    the batch is held that way: what waits for the disk is counted, and limited, by batches.
    """
    if type(batch) is not memoryview or batch.readonly:
        return False
    return len(batch) * _LEAST_SHARE >= len(cast(bytearray, batch.obj))
