"""A committed offset, and how it is stored.

In the internal topic ``__offsets``, all integers big-endian:

    key      u8   kind = 1
             u16  size of the group's name,  then the name (UTF-8)
             u16  size of the topic's name,  then the name (ASCII)
             u32  partition

    value    u8   version = 1
             16   the topic's id (UUID); the offset means nothing to a later topic of the same name
             i64  offset: the next one to read
             i32  leader epoch of the record before it; -1: not known
             i64  committed, in milliseconds since the epoch
             ...  metadata (UTF-8), up to the end

A tombstone takes the offset away.
"""

from __future__ import annotations

import struct
import uuid
from typing import Final, NamedTuple

import msgspec

from trunkline.log import TopicPartition

__all__ = [
    "MAX_METADATA_BYTES",
    "OFFSET_KEY",
    "OffsetAndMetadata",
    "StoredOffset",
    "decode_offset",
    "decode_offset_key",
    "encode_offset",
    "encode_offset_key",
]

OFFSET_KEY: Final = 1
MAX_METADATA_BYTES: Final = 4096  # Kafka's offset.metadata.max.bytes

_VERSION: Final = 1
_SIZE: Final = struct.Struct(">H")
_KEY_START: Final = struct.Struct(">BH")
_PARTITION: Final = struct.Struct(">I")
_VALUE: Final = struct.Struct(">B16sqiq")


class OffsetAndMetadata(msgspec.Struct, frozen=True, gc=False):
    """How far a group has come in one partition.

    Attributes:
      offset: the next one to read.
      metadata: whatever the committer wants to find again; at most 4096 bytes of UTF-8.
      leader_epoch: of the record before it; -1: not known.
      committed_ms: since the epoch; given by the broker.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = -1
    committed_ms: int = 0


class StoredOffset(NamedTuple):
    """A value of ``__offsets``: a committed offset and the id of the topic it was committed for."""

    topic_id: str
    committed: OffsetAndMetadata


def encode_offset_key(group: str, partition: TopicPartition) -> bytes:
    name, topic = group.encode(), partition.topic.encode()
    return b"".join(
        (
            _KEY_START.pack(OFFSET_KEY, len(name)),
            name,
            _SIZE.pack(len(topic)),
            topic,
            _PARTITION.pack(partition.partition),
        )
    )


def decode_offset_key(key: bytes) -> tuple[str, TopicPartition]:
    """The group and the partition of a key of kind OFFSET_KEY."""
    _, size = _KEY_START.unpack_from(key)
    start = _KEY_START.size + size
    (topic_size,) = _SIZE.unpack_from(key, start)
    topic_start = start + _SIZE.size
    end = topic_start + topic_size
    (partition,) = _PARTITION.unpack_from(key, end)
    return key[_KEY_START.size : start].decode(), TopicPartition(key[topic_start:end].decode(), partition)


def encode_offset(topic_id: str, committed: OffsetAndMetadata) -> bytes:
    id_bytes = bytes.fromhex(topic_id.replace("-", ""))  # a quarter of what uuid.UUID takes
    fixed = _VALUE.pack(_VERSION, id_bytes, committed.offset, committed.leader_epoch, committed.committed_ms)
    return fixed + committed.metadata.encode()


def decode_offset(value: bytes) -> StoredOffset:
    """Raises ValueError for a version that this broker does not know."""
    version, topic_id, offset, leader_epoch, committed_ms = _VALUE.unpack_from(value)
    if version != _VERSION:
        raise ValueError(f"a committed offset of version {version}; this broker knows version {_VERSION}")
    metadata = value[_VALUE.size :].decode()
    return StoredOffset(str(uuid.UUID(bytes=topic_id)), OffsetAndMetadata(offset, metadata, leader_epoch, committed_ms))
