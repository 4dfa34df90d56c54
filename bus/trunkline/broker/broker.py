"""What a running broker can be asked for, by doors, bridges and the program that it runs in."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from trunkline.bridge import BridgeStatus
from trunkline.bridging import Bridges
from trunkline.catalog import TopicCatalog
from trunkline.config import BrokerConfig
from trunkline.doors import Doors
from trunkline.errors import TrunklineError, UnknownTopic
from trunkline.groups import GroupCoordinator
from trunkline.housekeeping import Housekeeping
from trunkline.live import LiveTail
from trunkline.metadata import MetadataStore
from trunkline.net.reactor import Reactor, ReactorStatistics
from trunkline.partition import Partition
from trunkline.producer_ids import ProducerIds
from trunkline.publishing import PublishedRecord, append_record
from trunkline.queues import Queues
from trunkline.reading import RecordReader, Start
from trunkline.records import ConsumerRecord, Header
from trunkline.sessions import Sessions
from trunkline.state_topic import StateTopic
from trunkline.topic import Topic
from trunkline.transactions.coordinator import TransactionCoordinator
from trunkline.transactions.statistics import TransactionStatistics
from trunkline.views import ViewServices

__all__ = ["Broker", "BrokerStatistics"]


class BrokerStatistics(msgspec.Struct, frozen=True):
    """A snapshot. ``doors`` holds each door's own counters, ``bridges`` how each bridge goes."""

    topics: int
    partitions: int
    net: ReactorStatistics
    transactions: TransactionStatistics
    doors: dict[str, dict[str, int | float]]
    bridges: tuple[BridgeStatus, ...] = ()


class Broker:
    """A running broker. Everything here is for its own trio thread.

    Attributes:
      config: what it was opened with.
      random: the broker's one source of chance, so that tests and simulations can seed it.
      groups, queues, sessions: the views of the log that remember something.
      transactions: their coordinator.
      views: what they are made with.
      doors: what speaks the protocols that it listens for.
      bridges: what moves records to and from other systems by itself.
      is_closing: nothing can be published any more.
    """

    def __init__(
        self,
        config: BrokerConfig,
        reactor: Reactor,
        metadata: MetadataStore,
        catalog: TopicCatalog,
        *,
        now_ms: Callable[[], int],
        spawn: Callable[..., None],
        rng: random.Random,
    ) -> None:
        self.config = config
        self.random = rng
        self.is_closing = False
        self.now_ms = now_ms
        self.start_soon = spawn
        self.housekeeping = Housekeeping(
            catalog.partitions,
            reactor.rounds.clock_ms,  # it is read in worker threads
            config.housekeeping.interval_s,
            config.housekeeping.compaction_bytes_per_s,
        )
        self._reactor = reactor
        self._metadata = metadata
        self._catalog = catalog
        self._live: dict[Partition, LiveTail] = {}
        self._producer_ids = ProducerIds(metadata)
        rounds = reactor.rounds
        self.views = services = ViewServices(
            config=config,
            catalog=catalog,
            rounds=rounds,
            spawn=spawn,
            live=self.live,
            state_topic=lambda name: StateTopic(name, catalog, rounds, spawn),
            ensure_topic=self._ensure_topic,
            rng=rng,
        )
        self.groups = GroupCoordinator(services)
        self.transactions = TransactionCoordinator(services, self.groups, self.new_producer_id)
        self.queues = Queues(services)
        self.housekeeping.make_room = self.queues.attachments.make_room
        self.sessions = Sessions(services)
        self.doors = Doors(self, reactor)
        self.bridges = Bridges(self, metadata, spawn, rng)

    @property
    def addresses(self) -> Mapping[str, tuple[str, int]]:
        """Where each listener listens, as (host, port); the first address where there are several."""
        return self.doors.addresses

    # -- topics ------------------------------------------------------------------------------------

    @property
    def topics(self) -> Mapping[str, Topic]:
        """All topics by name, as they are now; changes as they do."""
        return MappingProxyType(self._catalog.topics)

    def topic(self, name: str) -> Topic:
        """The topic. Raises UnknownTopic."""
        return self._catalog.get(name)

    def partition(self, topic: str, index: int) -> Partition:
        """The partition. Raises UnknownTopic, UnknownPartition."""
        return self._catalog.get(topic).partition(index)

    async def create_topic(
        self, name: str, *, partitions: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Topic:
        """Make a topic; durable when it returns.

        Args:
          partitions: how many; None: ``topics.default_partitions`` of the configuration.
          settings: by Kafka's names, over ``topics.defaults`` of the configuration.

        Raises TopicExists, InvalidTopicName, InvalidSetting. Cancellation: may have happened.
        """
        defaults = self.config.topics
        count = defaults.default_partitions if partitions is None else partitions
        return await self._catalog.create(name, count, {**defaults.defaults, **settings})

    async def ensure_topic(
        self, name: str, *, partitions: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Topic:
        """The topic, made now if it is missing and ``topics.auto_create`` allows.

        Raises UnknownTopic, InvalidTopicName. Cancellation: may have happened.
        """
        found = self.topics.get(name)
        if found is not None:
            return found
        if not self.config.topics.auto_create:
            raise UnknownTopic(
                f"there is no topic {name!r}, and topics.auto_create is off; create it first", topic=name
            )
        return await self._ensure_topic(name, partitions=partitions, settings=settings)

    async def _ensure_topic(
        self, name: str, *, partitions: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Topic:
        """Like ``ensure_topic``, whatever the configuration says about topics that clients name."""
        try:
            return self.topics.get(name) or await self.create_topic(name, partitions=partitions, settings=settings)
        except TrunklineError:
            if name in self.topics:  # somebody else made it meanwhile
                return self.topic(name)
            raise

    async def delete_topic(self, name: str) -> None:
        """Remove a topic and its records for good. Raises UnknownTopic. Cancellation: may have happened."""
        topic = self.topic(name)
        await self._catalog.delete(name)
        for partition in topic.partitions:
            self._live.pop(partition, None)

    async def alter_topic(
        self, name: str, settings: Mapping[str, str | None] = MappingProxyType({}), *, partitions: int | None = None
    ) -> Topic:
        """Change a topic; durable when it returns.

        Args:
          settings: new values; None puts one back to its default.
          partitions: how many there shall be, at least as many as there are. Keys are then spread over all of them,
            so records of a key may be in another partition than those before.

        Raises:
          UnknownTopic, InvalidSetting: nothing was changed.
          TopicExists: a log that belongs to nobody is where a new partition would be; nothing was changed.
          OSError, StoreFull: a new partition could not be made, none was added; settings are changed.

        Cancellation: may have happened.
        """
        return await self._catalog.alter(name, settings, partitions)

    async def delete_records(self, topic: str, partition: int, offset: int = -1) -> int:
        """Remove the records below ``offset`` (-1: all there are) and return the log start offset then.

        Nothing happens below the log start. Raises UnknownTopic, UnknownPartition, OffsetOutOfRange (above the high
        watermark; nothing was removed), BrokerClosing. Cancellation: may have happened.
        """
        target = self.partition(topic, partition)
        self.queues.attachments.hold(target)  # so that it is known who has not read what goes
        await target.trim(target.high_watermark if offset == -1 else offset)
        self.queues.attachments.trimmed(target)
        return target.log_start_offset

    # -- for doors ---------------------------------------------------------------------------------

    def live(self, partition: Partition) -> LiveTail:
        """The live tail of a partition: one for all subscribers."""
        tail = self._live.get(partition)
        if tail is None:
            tail = self._live[partition] = LiveTail(partition, self._reactor.rounds, self.start_soon)
        return tail

    async def new_producer_id(self) -> int:
        """A producer id that this broker has never given out before, also not before a restart."""
        return await self._producer_ids.new()

    # -- in process --------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Iterable[Header] = (),
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> PublishedRecord:
        """Append one record and return where it is, once it is as durable as the topic demands.

        Args:
          partition: None: by murmur2 of the key, or any without a key.
          timestamp: milliseconds since the epoch; None: now.

        Raises:
          UnknownTopic, UnknownPartition, RecordTooLarge, BrokerClosing: nothing was written.
          TypeError: key or value is not bytes; ValueError: the timestamp cannot be stored. Nothing was written.
          LogStopped: it may or may not have been written.

        Cancellation: may have happened.
        """
        found = await self.ensure_topic(topic)
        target = found.partition_for(key) if partition is None else found.partition(partition)
        return await append_record(target, self.now_ms() if timestamp is None else timestamp, key, value, headers)

    def read(
        self,
        topic: str,
        *,
        start: Start = "earliest",
        partitions: Iterable[int] | None = None,
        follow: bool = True,
    ) -> AsyncIterator[ConsumerRecord]:
        """Iterate over records of a topic, in offset order within each partition.

        Args:
          start: ``"earliest"``, ``"latest"``, an offset, a datetime (first record at or after it), or a
            mapping from partition to one of these.
          partitions: which; None: all.
          follow: go on waiting for new records; else stop at the high watermarks as they are now.

        Raises UnknownTopic, UnknownPartition, OffsetOutOfRange. Cancellation: resume from the last offset seen.
        """
        found = self.topic(topic)
        chosen = found.partitions if partitions is None else tuple(found.partition(index) for index in partitions)
        return RecordReader(chosen, start, follow=follow)

    async def ask_door(self, name: str, request: str, arguments: Mapping[str, Any]) -> Any:
        """Ask an open door what only it knows; see :meth:`trunkline.door.Door.ask`. Raises UnsupportedRequest."""
        return await self.doors.ask(name, request, arguments)

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            topics=len(self.topics),
            partitions=sum(len(topic.partitions) for topic in self.topics.values()),
            net=self._reactor.statistics(),
            transactions=self.transactions.statistics(),
            doors=self.doors.statistics(),
            bridges=tuple(self.bridges.statuses()),
        )
