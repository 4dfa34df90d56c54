"""The newest offset of each key, in a memory that is set from the start.

A table with open addressing, as Kafka's cleaner has one: for each key 16 bytes of its BLAKE2s digest, and the offset.
Keys themselves are not kept, so it does not matter how long they are. That two keys among a
billion share a digest has a chance of 1 in 10^20. At most :data:`MAX_LOAD` of the slots are used, so a key costs
24 / MAX_LOAD = 32 bytes. (A dict of digests takes about 200.)

The numbers lie in three arrays, because reading one of them makes only an int.
"""

from __future__ import annotations

from array import array
from hashlib import blake2s
from struct import Struct
from typing import Final

__all__ = ["BYTES_PER_KEY", "MAX_LOAD", "KeyMap"]

MAX_LOAD: Final = 0.75
"""Above it collisions make look-ups slow: at 0.75 a key that is there takes 2.5 probes, one that is not 8.5."""

_SLOT_BYTES: Final = 24
BYTES_PER_KEY: Final = round(_SLOT_BYTES / MAX_LOAD)
_halves = Struct("<QQ").unpack


class KeyMap:
    """Made for one cleaning; not for use by two threads.

    Args:
      max_bytes: never take more than this.
      max_keys: there will not be more keys than this; less memory is taken if they are few.
    """

    def __init__(self, max_bytes: int, max_keys: int) -> None:
        slots = max(min(max_bytes // _SLOT_BYTES, int(max_keys / MAX_LOAD) + 1), 2)
        self._slots = slots
        self._high: array[int] = array("Q", bytes(8)) * slots
        self._low: array[int] = array("Q", bytes(8)) * slots
        self._offset: array[int] = array("Q", bytes(8)) * slots  # one more than the offset: 0 is an empty slot
        self.capacity = max(int(slots * MAX_LOAD), 1)
        """How many keys it can hold."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        """What it takes, however many keys there are."""
        return self._slots * _SLOT_BYTES

    @property
    def room(self) -> int:
        """How many more keys it can take."""
        return self.capacity - self._count

    def put(self, key: bytes, offset: int) -> None:
        """Note that ``key`` has a record at ``offset``, which is larger than all before. There is room."""
        high, low = _halves(blake2s(key, digest_size=16).digest())
        offsets = self._offset
        slot = high % self._slots
        while offsets[slot]:
            if self._high[slot] == high and self._low[slot] == low:
                offsets[slot] = offset + 1
                return
            slot = slot + 1 if slot + 1 < self._slots else 0
        assert self._count < self.capacity
        self._high[slot], self._low[slot], offsets[slot] = high, low, offset + 1
        self._count += 1

    def newest(self, key: bytes) -> int:
        """The largest offset noted for ``key``; -1 if there is none."""
        high, low = _halves(blake2s(key, digest_size=16).digest())
        offsets = self._offset
        slot: int = high % self._slots
        while offsets[slot]:
            if self._high[slot] == high and self._low[slot] == low:
                return offsets[slot] - 1
            slot = slot + 1 if slot + 1 < self._slots else 0
        return -1
