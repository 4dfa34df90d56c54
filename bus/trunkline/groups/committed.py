"""Committed offsets of all groups: written, applied once durable, found again.

A change becomes visible when it is durable, and in the order in which it was written, so what is seen now is what would
be seen after a crash. Taking an offset away is a change like any other. ``Partition.readers`` is kept up to date with
what is visible, so that retention knows who still needs what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trunkline.catalog import TopicCatalog
from trunkline.errors import OffsetOutOfRange, RecordTooLarge, TrunklineError
from trunkline.groups.group import Group, reader_name
from trunkline.groups.offsets import (
    MAX_METADATA_BYTES,
    OffsetAndMetadata,
    decode_offset,
    decode_offset_key,
    encode_offset,
    encode_offset_key,
)
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.pending import AppendReceiver
from trunkline.state_topic import StateTopic

__all__ = ["Changes", "CommittedOffsets"]

Changes = Mapping[TopicPartition, OffsetAndMetadata | None]
"""New offsets; None takes one away."""


class CommittedOffsets:
    """Changes the offsets of groups. Belongs to the broker's thread."""

    def __init__(self, catalog: TopicCatalog, topic: StateTopic, groups: dict[str, Group]) -> None:
        self._catalog = catalog
        self._topic = topic
        self._groups = groups
        self._interned: dict[TopicPartition, TopicPartition] = {}  # 100,000 groups share the names of their partitions
        self._stale: dict[bytes, None] = {}  # keys of offsets whose topic is gone, found at start

    # -- at start ----------------------------------------------------------------------------------

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take in a record of ``__offsets``. Raises ValueError for one of an unknown version."""
        name, partition = decode_offset_key(key)
        group = self._groups.get(name)
        if group is not None:
            group.offsets.pop(partition, None)
        self._stale.pop(key, None)
        if value is None:
            return
        topic_id, committed = decode_offset(value)
        if not self._is_topic(partition, topic_id):
            self._stale[key] = None
            return
        if group is None:
            group = self._groups[name] = Group(name)
        group.offsets[self._intern(partition)] = committed

    def replayed(self) -> None:
        """Everything is read: tell the partitions, and take away what belongs to topics that are gone."""
        for group in self._groups.values():
            for partition, committed in group.offsets.items():
                self._note_reader(group, partition, committed.offset)
        for key in self._stale:
            self._topic.write(key, None)
        self._stale.clear()

    # -- changes -----------------------------------------------------------------------------------

    def check(self, changes: Changes) -> None:
        """Raises UnknownTopic, UnknownPartition, OffsetOutOfRange (negative), RecordTooLarge (metadata)."""
        for partition, given in changes.items():
            found = self.partition(partition)
            if given is None:
                continue
            if given.offset < 0:
                raise OffsetOutOfRange(
                    f"{partition}: offset {given.offset} cannot be committed",
                    log_start_offset=found.log_start_offset,
                    high_watermark=found.high_watermark,
                )
            if len(given.metadata) > MAX_METADATA_BYTES // 4 and len(given.metadata.encode()) > MAX_METADATA_BYTES:
                size = len(given.metadata.encode())
                raise RecordTooLarge(
                    f"{partition}: metadata of {size} bytes cannot be committed; {MAX_METADATA_BYTES} are allowed",
                    size_bytes=size,
                    limit_bytes=MAX_METADATA_BYTES,
                )

    def partition(self, partition: TopicPartition) -> Partition:
        """Raises UnknownTopic, UnknownPartition."""
        return self._catalog.get(partition.topic).partition(partition.partition)

    def topic_id(self, partition: TopicPartition) -> str:
        """The id of its topic, of this life. Raises UnknownTopic."""
        return self._catalog.get(partition.topic).id

    def is_current(self, partition: TopicPartition, topic_id: str) -> bool:
        """Whether the partition is there, and its topic has this id."""
        return self._is_topic(partition, topic_id)

    def change(
        self, group: Group, changes: Changes, now_ms: int, receiver: AppendReceiver | None, token: object
    ) -> None:
        """Write checked changes; ``receiver`` is told (with offset 0) once all of them are durable, never before this
        returns; or that one failed."""
        assert changes
        change = _Change(self, group, len(changes), receiver, token)
        for partition, given in changes.items():
            key = encode_offset_key(group.name, partition)
            if group.pending is None:
                group.pending = {}
            group.pending[partition] = group.pending.get(partition, 0) + 1
            if given is None:
                self._topic.write(key, None, change, _Write(partition, "", None))
                continue
            topic_id = self._catalog.get(partition.topic).id
            committed = OffsetAndMetadata(given.offset, given.metadata, given.leader_epoch, now_ms)
            self._topic.write(key, encode_offset(topic_id, committed), change, _Write(partition, topic_id, committed))

    def finish(self, group: Group, partition: TopicPartition) -> None:
        """A change is durable or has failed."""
        assert group.pending is not None
        group.pending[partition] -= 1
        if not group.pending[partition]:
            del group.pending[partition]
        if not group.pending:
            group.pending = None

    def apply(
        self, group: Group, partition: TopicPartition, topic_id: str, committed: OffsetAndMetadata | None
    ) -> None:
        """A change is durable: show it, unless the group or the topic has gone meanwhile."""
        if self._groups.get(group.name) is not group:
            return
        if committed is None:
            group.offsets.pop(partition, None)
            self._forget_reader(group, partition)
            if group.is_nothing:
                del self._groups[group.name]
        elif self._is_topic(partition, topic_id):
            group.offsets[self._intern(partition)] = committed
            self._note_reader(group, partition, committed.offset)

    def all_of(self, group: Group, topic: str | None = None) -> list[TopicPartition]:
        """Partitions with something written, visible or not yet; of one topic, or of all."""
        found = {*group.offsets, *(group.pending or ())}
        return sorted(partition for partition in found if topic is None or partition.topic == topic)

    def drop(self, group: Group, partitions: Iterable[TopicPartition]) -> None:
        """Take these away at once, and for good when that is durable."""
        for partition in partitions:
            group.offsets.pop(partition, None)
            self._forget_reader(group, partition)
            self._topic.write(encode_offset_key(group.name, partition), None)

    # -- partitions --------------------------------------------------------------------------------

    def _is_topic(self, partition: TopicPartition, topic_id: str) -> bool:
        topic = self._catalog.topics.get(partition.topic)
        return topic is not None and topic.id == topic_id and partition.partition < len(topic.partitions)

    def _intern(self, partition: TopicPartition) -> TopicPartition:
        return self._interned.setdefault(partition, partition)

    def _note_reader(self, group: Group, partition: TopicPartition, offset: int) -> None:
        self.partition(partition).readers[reader_name(group.name)] = offset

    def _forget_reader(self, group: Group, partition: TopicPartition) -> None:
        topic = self._catalog.topics.get(partition.topic)
        if topic is not None and partition.partition < len(topic.partitions):
            found = topic.partitions[partition.partition]
            found.readers.pop(reader_name(group.name), None)
            found.removed_unread.pop(reader_name(group.name), None)


class _Write(NamedTuple):
    """The token of one write: what to show once it is durable."""

    partition: TopicPartition
    topic_id: str
    committed: OffsetAndMetadata | None


class _Change:
    """Waits for the writes of one call; an AppendReceiver."""

    __slots__ = ("_group", "_left", "_offsets", "_receiver", "_token")

    def __init__(
        self, offsets: CommittedOffsets, group: Group, count: int, receiver: AppendReceiver | None, token: object
    ) -> None:
        self._offsets = offsets
        self._group = group
        self._left = count
        self._receiver = receiver
        self._token = token

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, _Write)
        self._offsets.finish(self._group, token.partition)
        self._offsets.apply(self._group, token.partition, token.topic_id, token.committed)
        self._left -= 1
        if not self._left and self._receiver is not None:
            self._receiver.append_done(self._token, 0)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, _Write)
        self._offsets.finish(self._group, token.partition)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.append_failed(self._token, error)
