"""The topics of a broker: creates, opens, alters and deletes them.

The metadata store says which topics there are; stores keep their logs. A topic comes into being with
its metadata entry and its logs are made after it, so a crash in between leaves an empty topic. It
ends the other way round: the entry is marked first, the logs go, then the entry; a marked entry found
at start is finished off. Partitions are added as topics are made: the entry says how many there shall be, then their
logs are made. A log without an entry is never touched: it is reported, and neither a topic of that name
nor that partition can be made until somebody has looked.

Topics whose names begin with ``__`` are the broker's own (:mod:`trunkline.state_topic`). They are kept apart, so that
nothing that works on topics by name can reach them.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import trio

from trunkline.errors import InvalidSetting, InvalidTopicName, TopicExists, TrunklineError, UnknownTopic
from trunkline.log import Log, Store, TopicPartition
from trunkline.metadata import MetadataEntry, MetadataStore
from trunkline.partition import Partition
from trunkline.rounds import Rounds
from trunkline.settings import TopicSettings, check_setting_names, check_topic_name
from trunkline.stores import OpenStores
from trunkline.topic import Topic, check_partition_count

__all__ = ["INTERNAL_PREFIX", "GrowthListener", "TopicCatalog", "TopicListener"]

logger = logging.getLogger("trunkline.catalog")

INTERNAL_PREFIX: Final = "__"
"""Topics with such names belong to the broker."""

TopicListener = Callable[[str, "Topic | None"], None]
"""Told of an ordinary topic's name when it was made (with it) or deleted (with None). It must not raise."""

GrowthListener = Callable[["Topic", int], None]
"""Told of an ordinary topic that got more partitions, and of the first that is new. It must not raise."""


class _Entry(msgspec.Struct, omit_defaults=True):
    """A topic as the metadata store keeps it, under ``topics/NAME``."""

    id: str
    partitions: int
    storage: str
    settings: dict[str, str] = {}
    leader_epoch: int = 0
    replicas: tuple[int, ...] = (0,)
    is_deleting: bool = False


class TopicCatalog:
    """Belongs to the broker's thread; one administrative call at a time.

    Attributes:
      topics: the ordinary ones, by name.
      internal: the broker's own, by name.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        stores: OpenStores,
        default_store: str,
        *,
        rounds: Rounds,
        now_ms: Callable[[], int],
        spawn: Callable[..., None],
        rng: random.Random,
    ) -> None:
        self.topics: dict[str, Topic] = {}
        self.internal: dict[str, Topic] = {}
        self._listeners: list[TopicListener] = []
        self._growth_listeners: list[GrowthListener] = []
        self._metadata = metadata
        self._stores = stores
        self._default_store = default_store
        self._rounds = rounds
        self._now_ms = now_ms
        self._spawn = spawn
        self._random = rng
        self._lock = trio.Lock()
        self._refusal: TrunklineError | None = None
        self._internal_refusal: TrunklineError | None = None

    # -- start and end -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Open every topic that the metadata store knows. Raises CorruptLog, OSError."""
        entries = await self._metadata.list("topics/")
        for key, stored in entries.items():
            entry = msgspec.convert(stored.value, _Entry)
            name = key.removeprefix("topics/")
            if entry.is_deleting:
                await self._remove(name, entry, stored.revision)
            else:
                await self._open_topic(name, entry)
        await self._stores.get(self._default_store)
        for store_name, store in self._stores.opened.items():
            for log in await trio.to_thread.run_sync(store.list):
                if log.topic not in self.topics and log.topic not in self.internal:
                    logger.warning("store %s holds %s, which is no known topic; it is left alone", store_name, log)

    async def _open_topic(self, name: str, entry: _Entry) -> None:
        settings = TopicSettings.parse(entry.settings)
        topic = Topic(name, entry.id, settings, self._random)
        await self._open_partitions(topic, entry)
        if name.startswith(INTERNAL_PREFIX):
            self.internal[name] = topic
        else:
            self.topics[name] = topic
            self._tell(name, topic)

    async def _open_partitions(self, topic: Topic, entry: _Entry) -> None:
        """Open those of the entry that the topic does not have yet: all of them, or none."""
        opened: list[Partition] = []
        try:
            for index in range(len(topic.partitions), entry.partitions):
                opened.append(await self._open_partition(topic, index, entry))
        except BaseException:
            with trio.CancelScope(shield=True):
                for partition in opened:
                    partition.refuse(UnknownTopic(f"{partition.name} could not be opened", topic=topic.name))
                    await self._close_log(partition)
            raise
        topic.partitions += tuple(opened)

    def on_change(self, listener: TopicListener) -> None:
        """Tell ``listener`` of every ordinary topic that is made or deleted from now on."""
        self._listeners.append(listener)

    def on_growth(self, listener: GrowthListener) -> None:
        """Tell ``listener`` of every ordinary topic that gets more partitions from now on."""
        self._growth_listeners.append(listener)

    def _tell(self, name: str, topic: Topic | None) -> None:
        for listener in self._listeners:
            listener(name, topic)

    async def _open_partition(self, topic: Topic, index: int, entry: _Entry) -> Partition:
        store = await self._stores.get(entry.storage)

        def open_log() -> tuple[Log, Partition]:
            log = store.open(TopicPartition(topic.name, index), topic.settings)
            partition = Partition(
                topic,
                index,
                log,
                is_blocking=store.blocking,
                rounds=self._rounds,
                now_ms=self._now_ms,
                spawn=self._spawn,
                leader_epoch=entry.leader_epoch,
                replicas=entry.replicas,
            )
            log.flush()  # what recovery found is shown to readers, so it must be durable first
            partition.recover_producers()
            return log, partition

        _, partition = await trio.to_thread.run_sync(open_log)
        return partition

    async def refuse(self, error: TrunklineError) -> None:
        """Raise ``error`` from now on for administration, and for appends but to internal topics.

        Waits for a call that is under way.
        """
        self._refusal = error
        _refuse_appends(self.topics, error)
        async with self._lock:
            _refuse_appends(self.topics, error)  # in a topic that was made meanwhile

    def refuse_internal(self, error: TrunklineError) -> None:
        """Raise ``error`` for internal topics too, once their owners have written what they must."""
        self._internal_refusal = error
        _refuse_appends(self.internal, error)

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def close(self) -> None:
        """Close every log, after :meth:`refuse` and :meth:`refuse_internal`."""
        for partition in self.partitions():
            partition.close_listeners(None)
            await self._close_log(partition)

    async def _close_log(self, partition: Partition, *, keep: bool = True) -> None:
        """What cannot be closed cleanly is logged; recovery deals with it at the next start."""
        try:
            await partition.close_log(keep=keep)
        except (OSError, TrunklineError):
            logger.exception("%s: could not be closed cleanly", partition.name)

    # -- administration ----------------------------------------------------------------------------

    def get(self, name: str) -> Topic:
        """The topic. Raises UnknownTopic."""
        topic = self.topics.get(name)
        if topic is None:
            raise UnknownTopic(f"there is no topic {name!r}; create it first", topic=name)
        return topic

    def partitions(self) -> list[Partition]:
        """Of all topics, internal ones too."""
        topics = [*self.topics.values(), *self.internal.values()]
        return [partition for topic in topics for partition in topic.partitions]

    async def create(self, name: str, partitions: int, settings: Mapping[str, str]) -> Topic:
        """Make a topic; durable when it returns.

        Raises TopicExists, InvalidTopicName, InvalidSetting. Cancellation: may have happened.
        """
        check_topic_name(name)
        if name.startswith(INTERNAL_PREFIX):
            raise InvalidTopicName(
                f"topic name {name!r} is not allowed: names that begin with {INTERNAL_PREFIX} are the broker's own",
                topic=name,
            )
        check_partition_count(name, partitions)
        parsed = TopicSettings.parse(settings)
        async with self._lock:
            self._check_open()
            if name in self.topics:
                raise TopicExists(f"topic {name} is already there", topic=name)
            await self._add(name, partitions, parsed.storage or self._default_store, settings)
            return self.topics[name]

    async def ensure_internal(self, name: str, settings: Mapping[str, str]) -> Topic:
        """The internal topic of this name, made now with one partition if it is missing.

        It is in the default store of the time it is made. Cancellation: may have happened.
        """
        assert name.startswith(INTERNAL_PREFIX)
        async with self._lock:
            if name not in self.internal:
                if self._internal_refusal is not None:
                    raise self._internal_refusal
                await self._add(name, 1, self._default_store, settings)
            return self.internal[name]

    async def _add(self, name: str, partitions: int, storage: str, settings: Mapping[str, str]) -> None:
        store = await self._stores.get(storage)
        await self._refuse_leftovers(name, storage, store)
        topic_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        entry = _Entry(topic_id, partitions, storage, dict(settings))
        with trio.CancelScope(shield=True):  # half a topic could be neither used nor made again
            await self._make(name, entry)

    async def _make(self, name: str, entry: _Entry) -> None:
        revision = await self._metadata.compare_and_set(f"topics/{name}", msgspec.to_builtins(entry), 0)
        try:
            await self._open_topic(name, entry)
        except (OSError, TrunklineError):
            await self._remove(name, entry, revision)
            raise

    async def _refuse_leftovers(self, name: str, store_name: str, store: Store, first: int = 0) -> None:
        stored = await trio.to_thread.run_sync(store.list)
        leftovers = [log for log in stored if log.topic == name and log.partition >= first]
        if leftovers:
            raise TopicExists(
                f"store {store_name} already holds {len(leftovers)} logs named {name} that belong to no known "
                f"{'partition' if first else 'topic'}; move them away first, or bring back the metadata.json "
                "that knew them",
                topic=name,
            )

    async def alter(self, name: str, changes: Mapping[str, str | None], partitions: int | None = None) -> Topic:
        """Change settings, None puts one back to its default; and add partitions, until there are so many.

        Settings of storage take effect when the log is opened next (``segment.*``, ``index.*``), others at once.
        Raises UnknownTopic, InvalidSetting, and TopicExists if a log is already where a new partition would be.
        Cancellation: may have happened.
        """
        async with self._lock:
            self._check_open()
            topic = self.get(name)
            if "storage" in changes:
                raise InvalidSetting(f"topic {name}: storage is chosen when a topic is created", setting="storage")
            stored = await self._stored(name)
            entry = msgspec.convert(stored.value, _Entry)
            check_setting_names(changes)
            merged = {**entry.settings, **changes}
            entry.settings = {setting: value for setting, value in merged.items() if value is not None}
            parsed = TopicSettings.parse(entry.settings)
            had = len(topic.partitions)
            if partitions is not None and partitions != had:
                topic.check_growth(partitions)
                await self._refuse_leftovers(name, entry.storage, await self._stores.get(entry.storage), had)
                entry.partitions = partitions
            with trio.CancelScope(shield=True):  # what the entry says must be there
                revision = await self._metadata.compare_and_set(
                    f"topics/{name}", msgspec.to_builtins(entry), stored.revision
                )
                topic.settings = parsed
                if entry.partitions > had:
                    await self._grow(topic, entry, revision)
            return topic

    async def _grow(self, topic: Topic, entry: _Entry, revision: int) -> None:
        had = len(topic.partitions)
        try:
            await self._open_partitions(topic, entry)
        except (OSError, TrunklineError):
            store = await self._stores.get(entry.storage)
            for index in range(had, entry.partitions):
                await trio.to_thread.run_sync(store.delete, TopicPartition(topic.name, index))
            entry.partitions = had
            await self._metadata.compare_and_set(f"topics/{topic.name}", msgspec.to_builtins(entry), revision)
            raise
        for listener in self._growth_listeners:
            listener(topic, had)

    async def _stored(self, name: str) -> MetadataEntry:
        stored = await self._metadata.get(f"topics/{name}")
        assert stored is not None, "an open topic has an entry"
        return stored

    async def delete(self, name: str) -> None:
        """Remove a topic and its records for good. Raises UnknownTopic. Cancellation: may have happened."""
        async with self._lock:
            self._check_open()
            topic = self.get(name)
            stored = await self._stored(name)
            entry = msgspec.convert(stored.value, _Entry)
            entry.is_deleting = True
            value: dict[str, Any] = msgspec.to_builtins(entry)
            with trio.CancelScope(shield=True):  # nor could half of one be deleted again
                revision = await self._metadata.compare_and_set(f"topics/{name}", value, stored.revision)
                del self.topics[name]
                gone = UnknownTopic(f"topic {name} was deleted", topic=name)
                for partition in topic.partitions:
                    partition.refuse(gone)
                for partition in topic.partitions:
                    await partition.wait_idle()
                    partition.close_listeners(gone)
                    await self._close_log(partition, keep=False)
                await self._remove(name, entry, revision)
            self._tell(name, None)

    async def _remove(self, name: str, entry: _Entry, revision: int) -> None:
        store = await self._stores.get(entry.storage)
        for index in range(entry.partitions):
            await trio.to_thread.run_sync(store.delete, TopicPartition(name, index))
        await self._metadata.compare_and_set(f"topics/{name}", None, revision)


def _refuse_appends(topics: Mapping[str, Topic], error: TrunklineError) -> None:
    for topic in topics.values():
        for partition in topic.partitions:
            partition.refuse(error)
