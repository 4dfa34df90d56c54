"""What a batch holds: records."""

from __future__ import annotations

import msgspec

__all__ = ["ConsumerRecord", "Header", "Record"]

Header = tuple[str, bytes | None]
"""A header's name and value."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as stored.

    Attributes:
      offset: its position in the partition.
      timestamp: ms since the epoch; of creation or of append, as the topic is set. -1: unknown.
      key: None is not the same as empty; it decides the partition, and what compaction keeps.
      value: None is a tombstone: it deletes the key when the topic is compacted.
      headers: in the order given; names may repeat.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


class ConsumerRecord(Record, frozen=True, gc=False, kw_only=True):
    """A record with the place it was read from."""

    topic: str
    partition: int
