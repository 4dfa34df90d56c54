"""Offsets that belong to a transaction: kept apart until it is decided, then committed or forgotten.

In the internal topic ``__offsets``, beside the committed offsets (:mod:`trunkline.groups.offsets`), integers
big-endian::

    key      u8   kind = 3
             i64  producer id
             ...  as a committed offset's key, after its kind

    value    as a committed offset's

A commit writes the offset as a committed one, then a tombstone of this; an abort writes the tombstone. The order in the
log is what makes it safe to do again after a crash: while the first is not durable, neither is the second, and the
coordinator of transactions waits for the first before it forgets that there is something to do.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import Final

from trunkline.errors import TrunklineError
from trunkline.groups.committed import CommittedOffsets
from trunkline.groups.offsets import (
    OFFSET_KEY,
    OffsetAndMetadata,
    StoredOffset,
    decode_offset,
    decode_offset_key,
    encode_offset,
    encode_offset_key,
)
from trunkline.log import TopicPartition
from trunkline.pending import AppendReceiver
from trunkline.state_topic import StateTopic

__all__ = ["STAGED_KEY", "StagedOffsets"]

STAGED_KEY: Final = 3
_PRODUCER: Final = struct.Struct(">Bq")


def _encode_key(producer_id: int, group: str, partition: TopicPartition) -> bytes:
    return _PRODUCER.pack(STAGED_KEY, producer_id) + encode_offset_key(group, partition)[1:]


class StagedOffsets:
    """Of all groups. Belongs to the broker's thread."""

    def __init__(self, topic: StateTopic, offsets: CommittedOffsets) -> None:
        self._topic = topic
        self._offsets = offsets
        self._staged: dict[tuple[str, int], dict[TopicPartition, StoredOffset]] = {}  # by group and producer

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take in a record of ``__offsets``. Raises ValueError for one of an unknown version."""
        _, producer_id = _PRODUCER.unpack_from(key)
        group, partition = decode_offset_key(bytes([OFFSET_KEY]) + key[_PRODUCER.size :])
        if value is None:
            self._forget(group, producer_id, partition)
        else:
            self._staged.setdefault((group, producer_id), {})[partition] = decode_offset(value)

    def _forget(self, group: str, producer_id: int, partition: TopicPartition) -> None:
        staged = self._staged.get((group, producer_id), {})
        staged.pop(partition, None)
        if not staged:
            self._staged.pop((group, producer_id), None)

    def of_group(self, group: str) -> set[TopicPartition]:
        """Partitions of which a transaction may yet move the offset."""
        return {partition for (name, _), staged in self._staged.items() if name == group for partition in staged}

    def stage(
        self,
        group: str,
        producer_id: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        now_ms: int,
        receiver: AppendReceiver,
        token: object,
    ) -> None:
        """Write checked offsets; ``receiver`` is told (with offset 0) once all are durable, or that one failed."""
        assert offsets
        staging = _Staging(self, group, producer_id, len(offsets), receiver, token)
        for partition, given in offsets.items():
            committed = OffsetAndMetadata(given.offset, given.metadata, given.leader_epoch, now_ms)
            stored = StoredOffset(self._offsets.topic_id(partition), committed)
            self._staged.setdefault((group, producer_id), {})[partition] = stored
            key = _encode_key(producer_id, group, partition)
            self._topic.write(key, encode_offset(*stored), staging, (partition, stored))

    def failed(self, group: str, producer_id: int, partition: TopicPartition, stored: StoredOffset) -> None:
        """It could not be written."""
        if self._staged.get((group, producer_id), {}).get(partition) is stored:
            self._forget(group, producer_id, partition)

    def take(self, group: str, producer_id: int) -> dict[TopicPartition, StoredOffset]:
        """What is staged, with the id of each topic."""
        return dict(self._staged.get((group, producer_id), {}))

    def finish(self, group: str, producer_id: int) -> None:
        """It is decided, and what is to be committed was written: forget what is staged."""
        for partition in self._staged.pop((group, producer_id), {}):
            self._topic.write(_encode_key(producer_id, group, partition), None)

    def keep_only(self, wanted: Collection[tuple[str, int]]) -> None:
        """Forget what belongs to no transaction any more, of those of (group, producer id) that are known."""
        for group, producer_id in [one for one in self._staged if one not in wanted]:
            self.finish(group, producer_id)


class _Staging:
    """Waits for the writes of one call; an AppendReceiver."""

    __slots__ = ("_group", "_left", "_offsets", "_producer_id", "_receiver", "_token")

    def __init__(
        self, offsets: StagedOffsets, group: str, producer_id: int, count: int, receiver: AppendReceiver, token: object
    ) -> None:
        self._offsets = offsets
        self._group = group
        self._producer_id = producer_id
        self._left = count
        self._receiver: AppendReceiver | None = receiver
        self._token = token

    def append_done(self, token: object, offset: int) -> None:
        self._left -= 1
        if not self._left and self._receiver is not None:
            self._receiver.append_done(self._token, 0)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, tuple)
        self._offsets.failed(self._group, self._producer_id, *token)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.append_failed(self._token, error)
