"""The broker: topics, stores, doors and the reactor, put together.

:func:`open_broker` is the one way to get one, in a program, a test, or ``trunkline serve``. It opens
in the order lock, stores, topics, doors, sockets, bridges, and closes in the reverse order: nobody is accepted any
more, bridges finish, what is staged is committed and acknowledged, connections are sent what
they are due, logs are closed.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import crc32c  # noqa: F401 - else trunkline.records.checksum imports it with the first batch, in the middle of a round
import msgspec
import trio

from trunkline.bridge import BridgeStatus
from trunkline.bridging import Bridges
from trunkline.catalog import TopicCatalog
from trunkline.config import BrokerConfig
from trunkline.config_checks import check_config
from trunkline.disk import Disk, RealDisk
from trunkline.doors import Doors
from trunkline.errors import BrokerClosing, TrunklineError, UnknownTopic
from trunkline.groups import GroupCoordinator
from trunkline.housekeeping import Housekeeping
from trunkline.live import LiveTail
from trunkline.lock import lock_directory
from trunkline.metadata import FileMetadata, MetadataStore
from trunkline.net.reactor import Reactor, ReactorStatistics
from trunkline.partition import Partition
from trunkline.plugins import PluginHost
from trunkline.producer_ids import ProducerIds
from trunkline.publishing import PublishedRecord, append_record
from trunkline.queues import Queues
from trunkline.reading import RecordReader, Start
from trunkline.records import ConsumerRecord, Header
from trunkline.rounds import wall_clock_ms
from trunkline.sessions import Sessions
from trunkline.state_topic import StateTopic
from trunkline.stores import OpenStores
from trunkline.topic import Topic
from trunkline.transactions.coordinator import TransactionCoordinator
from trunkline.transactions.statistics import TransactionStatistics
from trunkline.views import ViewServices

__all__ = ["Broker", "BrokerStatistics", "PublishedRecord", "open_broker"]

logger = logging.getLogger("trunkline.broker")


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

    # -- opening and closing -----------------------------------------------------------------------

    async def _open_views(self) -> None:
        for view in (self.groups, self.transactions, self.queues, self.sessions):
            await view.open()

    async def _close_views(self) -> None:
        for view in (self.transactions, self.groups, self.queues, self.sessions):
            try:
                await view.close()
            except (OSError, TrunklineError):  # what it could not write is as after a crash
                logger.exception("%s could not be closed cleanly", type(view).__name__)

    async def _close(self, *, in_order: bool) -> None:
        """Stop accepting; in order: commit what is staged, let connections take what they are due."""
        self.is_closing = True
        self._reactor.stop_listening()
        if in_order:
            for transport in self._reactor.connections:
                transport.shutting_down()
        await self.housekeeping.stop()
        await self.bridges.close(in_order=in_order)
        closing = BrokerClosing("the broker is shutting down; try again when it is back")
        with trio.move_on_after(self.config.limits.shutdown_timeout_s if in_order else 0) as scope:
            await self._catalog.refuse(closing)
            await self._reactor.wait_settled()
            for transport in self._reactor.connections:
                transport.end()
            while self._reactor.connection_count:
                await self._reactor.wait_round()
            await self._close_views()  # they have heard the last of their clients
            self._catalog.refuse_internal(closing)
            await self._reactor.wait_settled()
        self._catalog.refuse_internal(closing)
        if scope.cancelled_caught and in_order:
            logger.warning(
                "closing was not done in %g s (%d connections are left): the next start has more to read",
                self.config.limits.shutdown_timeout_s, self._reactor.connection_count,
            )  # fmt: skip
        self._reactor.drop_connections()
        await self.doors.close()


async def _guarded(function: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Run a door's or partition's own task; its failure is logged and ends nothing else."""
    try:
        await function(*args)
    except Exception:  # the boundary for background work
        logger.exception("background task %s failed", getattr(function, "__qualname__", function))


@asynccontextmanager
async def open_broker(
    data: Path | str | None = None,
    *,
    store: str | None = None,
    listen: Mapping[str, str] | None = None,
    config: BrokerConfig | None = None,
    plugins: PluginHost | None = None,
    disk: Disk | None = None,
    now_ms: Callable[[], int] = wall_clock_ms,
    rng: random.Random | None = None,
    poller: str = "auto",
) -> AsyncIterator[Broker]:
    """Run a broker inside the block.

    Args:
      data: the data directory. None: the configuration's if there is one, else a temporary one that is
        removed at the end.
      store: the store for topics that name none; None: the configuration's, which is ``segments`` by default.
      listen: door names and ``HOST:PORT`` (port 0: any free one). None: what the configuration says; without a
        configuration no door is opened.
      config: see :func:`trunkline.config_sources.load_config`.
      plugins: a host with plugins already added, for tests of plugins; None: installed ones.
      disk, now_ms, rng: the outside world, for simulations.
      poller: ``auto``, ``epoll`` or ``tasks``, see :mod:`trunkline.net.pollers`.

    Raises:
      ConfigurationError, InsecureListener, PluginError, ListenFailed, DataDirectoryLocked, CorruptLog: not opened.

    Cancellation: closes the broker as the end of the block does, in at most ``limits.shutdown_timeout_s``.
    """
    failure: Exception | None = None
    with ExitStack() as stack:
        if config is None:
            config = BrokerConfig(listen={})
            if data is None:
                data = stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-"))
        changes: dict[str, Any] = {"data": Path(data)} if data is not None else {}
        if store is not None:
            changes["storage"] = store
        if listen is not None:
            changes["listen"] = dict(listen)
        config = msgspec.structs.replace(config, **changes)
        host, disk, rng = plugins or PluginHost(), disk or RealDisk(), rng or random.Random()
        closing = trio.Event()
        async with _nursery_without_groups() as nursery:
            broker = await nursery.start(_run_broker, config, host, disk, now_ms, rng, poller, closing)
            try:
                yield broker
            except Exception as error:
                failure = error  # raised below, as it is: the caller may have raised a group
            finally:
                closing.set()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _nursery_without_groups() -> AsyncIterator[trio.Nursery]:
    """A nursery; a single exception, however deep in groups, comes out as itself."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        only: BaseException = group
        while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
            only = only.exceptions[0]
        raise only from only.__cause__


async def _run_broker(
    config: BrokerConfig,
    host: PluginHost,
    disk: Disk,
    now_ms: Callable[[], int],
    rng: random.Random,
    poller: str,
    closing: trio.Event,
    *,
    task_status: trio.TaskStatus[Broker],
) -> None:
    """Open a broker, run it until ``closing``, close it.

    It is a task of its own and shielded once it is open: if it ran in the caller's scope, cancelling the caller
    would end the reactor first, and nothing could be committed or sent any more.
    """
    host.load_all(config.plugins)
    host.store(config.storage)
    for name in config.listen or ():
        host.listener(name)
    for name in config.bridge:
        host.bridge(name)
    check_config(config, host)
    listeners = config.listeners({name: door.default_port for name, door in host.doors.items()})
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_directory(config.data))
        stores = OpenStores(config, host, disk)
        stack.callback(stores.close)
        running = stack.enter_context(trio.CancelScope())
        reactor = await stack.enter_async_context(Reactor.open(config.limits, clock_ms=now_ms, poller=poller))
        nursery = await stack.enter_async_context(trio.open_nursery())

        def spawn(function: Callable[..., Awaitable[Any]], *args: Any) -> None:
            if not nursery.cancel_scope.cancel_called:  # a store that answers too late begins nothing any more
                nursery.start_soon(_guarded, function, *args)

        metadata = FileMetadata(config.data / "metadata.json", disk)
        catalog = TopicCatalog(
            metadata, stores, config.storage, rounds=reactor.rounds, now_ms=reactor.rounds.now_ms, spawn=spawn, rng=rng
        )
        broker = Broker(config, reactor, metadata, catalog, now_ms=reactor.rounds.now_ms, spawn=spawn, rng=rng)
        try:
            await catalog.open()
            await broker._open_views()
            nursery.start_soon(broker.housekeeping.run)
            await broker.doors.open(host, listeners)
            await broker.bridges.open(host)
            running.shield = True
            task_status.started(broker)
            await closing.wait()
        finally:
            with trio.CancelScope(shield=True):  # bounded by shutdown_timeout_s; then logs are closed, which is quick
                await broker._close(in_order=reactor.is_running)
                nursery.cancel_scope.cancel()
                await catalog.close()
