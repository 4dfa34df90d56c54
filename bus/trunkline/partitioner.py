"""Which partition a record goes to, decided exactly as Kafka's Java client does.

With a key: ``(murmur2(key) & 0x7fffffff) % partitions``, so that a producer in any language and through any
protocol puts the same key into the same partition. Without: one partition until the batch for it is full, then
another (Kafka KIP-480), because few large batches cost less than many small ones.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = ["StickyPartitioner", "murmur2", "partition_for_key"]

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_U32 = 0xFFFFFFFF

_CACHED_KEYS = 4096
_CACHED_KEY_BYTES = 256  # longer keys would make the cache's memory the peers' choice


def murmur2(key: bytes) -> int:
    """Kafka's 32-bit MurmurHash2 of ``key``, as an unsigned integer."""
    size = len(key)
    hashed = _SEED ^ size
    for word in unpack_from(f"<{size >> 2}I", key):
        word = word * _MULTIPLIER & _U32
        hashed = hashed * _MULTIPLIER & _U32 ^ (word ^ word >> 24) * _MULTIPLIER & _U32
    rest = key[size & ~3 :]
    if rest:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _U32
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _U32
    return hashed ^ hashed >> 15


_murmur2_cached = lru_cache(maxsize=_CACHED_KEYS)(murmur2)


def partition_for_key(key: bytes, partitions: int) -> int:
    """The partition, in ``[0, partitions)``, of all records with this key."""
    if partitions == 1:
        return 0
    hashed = _murmur2_cached(key) if len(key) <= _CACHED_KEY_BYTES else murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


class StickyPartitioner:
    """Chooses partitions for records without a key: the same one until told that its batch is full.

    One for each topic. ``random`` is the only source of randomness.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._current: int | None = None

    def partition(self, partitions: int) -> int:
        """The partition, in ``[0, partitions)``, for the next record. Their number may grow between calls."""
        current = self._current
        if current is None or current >= partitions:
            self._current = current = self._random.randrange(partitions)
        return current

    def on_new_batch(self, partitions: int) -> int:
        """Move on to another partition (the same if there is only one), and return it."""
        current = self._current
        if current is None or partitions == 1:
            self._current = None
            return self.partition(partitions)
        # One of the others, each as likely
        step = self._random.randrange(1, partitions)
        self._current = (current + step) % partitions
        return self._current
