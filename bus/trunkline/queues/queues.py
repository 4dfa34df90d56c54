"""All queues of a broker.

Definitions are durable before a call returns. Which partitions a queue takes from follows from its definition and the
topics that there are: topics that appear later are attached when they do, those that go take their entries along.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from trunkline.catalog import INTERNAL_PREFIX
from trunkline.errors import (
    BrokerClosing,
    InvalidSetting,
    InvalidTopicName,
    QueueExists,
    QueueInUse,
    TrunklineError,
    UnknownQueue,
)
from trunkline.queues.config import DEFAULTS, DEFINITION, Definition, QueueConfig, QueueSource
from trunkline.queues.context import QueueContext
from trunkline.queues.feeds import SourceFeed
from trunkline.queues.persist import Persister
from trunkline.queues.positions import position_key
from trunkline.queues.queue import Queue
from trunkline.queues.recovery import Replay
from trunkline.queues.spill import make_room
from trunkline.queues.volatile import MemoryBudget, VolatileQueue
from trunkline.records import Header
from trunkline.settings import check_topic_name

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues.dead_letters import DeadLetterHandler
    from trunkline.topic import Topic
    from trunkline.views import ViewServices

__all__ = ["Queues"]

logger = logging.getLogger("trunkline.queues")

_WAITED_FOR: Final = 1_000_000
"""Offsets of a source that a start waits to have looked at; beyond, queues say that they are loading."""


class Queues:
    """Made and opened by the broker; belongs to its thread."""

    def __init__(self, services: ViewServices) -> None:
        self._services = services
        self._context = QueueContext(services)
        self._queues: dict[str, Queue] = {}
        self._by_topic: dict[str, dict[Queue, None]] = {}  # those that name it as a source
        self._feeds: dict[Partition, SourceFeed] = {}
        self._next_id = 1
        self._budget = MemoryBudget(services.config.limits.max_volatile_bytes)
        self._timers = trio.CancelScope()
        self._is_open = False

    # -- start and end -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored, and look at what came after. Raises CorruptLog, OSError."""
        replay = Replay(self._context.sources)
        await self._context.topic.replay(replay.apply)
        self._next_id = replay.next_id
        self._context.marks.secret = replay.secret
        known: set[int] = set()
        for name, definition in replay.definitions.items():
            known.add(definition.id)
            self._add(self._found(name, definition, replay))
            await trio.lowlevel.checkpoint()
        for queue_id, found in replay.found.items():
            if queue_id not in known:
                for key in found.keys:
                    self._context.topic.write(key, None)
        self._drop_gone_sources(replay)
        self._services.catalog.on_change(self._topic_changed)
        self._services.catalog.on_growth(self._topic_grew)
        self._is_open = True
        for queue in self._queues.values():
            self._attach(queue, replay)
            if queue.persister is not None:
                queue.serve_soon()  # something may be due
        self._services.spawn(self._run_timers)
        for feed in tuple(self._feeds.values()):
            if feed.distance <= _WAITED_FOR:
                await feed.wait_caught_up()

    def _found(self, name: str, definition: Definition, replay: Replay) -> Queue:
        found = replay.found.get(definition.id)
        if found is None:
            return Queue(self._context, name, definition)
        state, number = found.restore(name)
        queue = Queue(self._context, name, definition, state)
        queue.persister = Persister(queue, found.head, number, found.chunk_counts(), found.index)
        return queue

    def _drop_gone_sources(self, replay: Replay) -> None:
        """Topics were deleted, and this was not written any more."""
        sources = self._context.sources
        for queue in self._queues.values():
            for source in tuple(queue.state.positions):
                sources.reserve(source)
                if sources.partition(source) is None:
                    queue.drop_source(source)
        for source in replay.shared:
            sources.reserve(source)
            if sources.partition(source) is None:
                self._context.topic.write(position_key(source), None)
        for source in sources.gone():
            sources.forget(source)

    async def _run_timers(self) -> None:
        with self._timers:
            await self._context.run_timers()

    async def close(self) -> None:
        """Cancel consumers; write what must be kept."""
        closing = BrokerClosing("the broker is shutting down; try again when it is back")
        for queue in self:
            queue.cancel_consumers(closing)
        self._context.is_closing = True
        self._timers.cancel()
        for queue in self:
            if queue.has_unwritten:
                queue.changed()
        for queue in self:  # a door may still delete some
            try:
                await queue.wait_durable()
            except TrunklineError as error:
                logger.error("queue %s: what it remembers could not be written: %s", queue.name, error)
        entries = [feed.position_entry() for feed in self._feeds.values()]
        try:
            await self._context.topic.write_durable(entry for entry in entries if entry is not None)
        except TrunklineError as error:
            logger.error("how far queues have come could not be written: %s", error)
        for feed in self._feeds.values():
            feed.close()

    # -- queues ------------------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        return name in self._queues

    def __iter__(self) -> Iterator[Queue]:
        return iter(tuple(self._queues.values()))

    def __len__(self) -> int:
        return len(self._queues)

    def names(self) -> list[str]:
        """Of all queues, sorted."""
        return sorted(self._queues)

    def get(self, name: str) -> Queue:
        """The queue. Raises UnknownQueue."""
        queue = self._queues.get(name)
        if queue is None:
            raise UnknownQueue(f"there is no queue {name!r}; declare it first", queue=name)
        return queue

    async def declare(self, name: str, config: QueueConfig | None = None) -> Queue:
        """The queue of this name, made now if it is missing; durable on return.

        Args:
          config: None: as it is, or the defaults. Where sources begin is not compared.

        Raises QueueExists (with another config), InvalidTopicName, InvalidSetting, InvalidFilter. Cancellation: may
        have happened.
        """
        check_topic_name(name)
        if name.startswith(INTERNAL_PREFIX):
            raise InvalidTopicName(
                f"queue name {name!r} is not allowed: names that begin with {INTERNAL_PREFIX} are the broker's own",
                topic=name,
            )
        if config is not None:
            config.check(name)
        async with self._context.holding(name):
            queue = self._queues.get(name)
            if queue is not None:
                setting = None if config is None else queue.config.difference(config)
                if setting is not None:
                    raise QueueExists(
                        f"queue {name} is there with another {setting}; declare it as it is, or alter it",
                        queue=name,
                        setting=setting,
                    )
                return queue
            return await self._make(name, DEFAULTS.check(name) if config is None else config)

    async def _make(self, name: str, config: QueueConfig) -> Queue:
        queue_id, self._next_id = self._next_id, self._next_id + 1
        fixed = msgspec.structs.replace(config, sources=self._fixed(config.sources))
        definition = Definition(queue_id, fixed, self._context.now_ms())
        # A queue that is stored and not here would come back at the next start.
        with trio.CancelScope(shield=True), self._context.defining():
            await self._context.topic.write_durable([Replay.next_id_entry(self._next_id), definition.entry(name)])
            queue = Queue(self._context, name, definition)
            self._add(queue)
            self._attach(queue)
        return queue

    def declare_volatile(self, name: str, config: QueueConfig) -> Queue:
        """Make a queue that does not outlive the broker; see :mod:`trunkline.queues.volatile`.

        It begins with what is published from now on, but for sources that begin elsewhere.

        Raises QueueExists (whatever that one is), InvalidTopicName, InvalidSetting, InvalidFilter.
        """
        check_topic_name(name)
        config.check(name)
        if name in self._queues:
            raise QueueExists(f"there is a queue {name} already", queue=name, setting="")
        fixed = msgspec.structs.replace(config, sources=self._fixed(config.sources))
        definition = Definition(0, fixed, self._context.now_ms())
        queue = VolatileQueue(self._context, name, definition, self._budget)
        self._add(queue)
        self._attach(queue)
        return queue

    def _fixed(self, sources: Iterable[QueueSource]) -> tuple[QueueSource, ...]:
        """With ``latest`` turned into offsets."""
        return tuple(self._fixed_source(source) for source in sources)

    def _fixed_source(self, source: QueueSource) -> QueueSource:
        topic = self._services.catalog.topics.get(source.topic)
        if source.start != "latest":
            is_offsets = isinstance(source.start, dict) and topic is not None
            return msgspec.structs.replace(source, topic_id=topic.id if is_offsets and topic is not None else "")
        if topic is None:
            return msgspec.structs.replace(source, start="earliest", topic_id="")
        offsets = {partition.index: partition.high_watermark for partition in topic.partitions}
        return msgspec.structs.replace(source, start=offsets, topic_id=topic.id)

    async def alter(self, name: str, **changes: Any) -> Queue:
        """Change settings by name; durable on return. Sources that it had go on where they are, new ones begin at once.

        Raises UnknownQueue, InvalidSetting, InvalidFilter. Cancellation: may have happened.
        """
        async with self._context.holding(name):
            queue = self.get(name)
            try:
                config = msgspec.structs.replace(queue.config, **changes)
            except TypeError as error:
                raise InvalidSetting(f"queue {name}: {error}", setting=next(iter(changes), "")) from None
            config.check(name)
            if "sources" in changes:
                had = {source.wanted: source for source in queue.config.sources}
                kept = tuple(had.get(source.wanted) or self._fixed_source(source) for source in config.sources)
                config = msgspec.structs.replace(config, sources=kept)
                self._forget_positions(queue, config.sources)
            queue.changed()
            await queue.wait_durable()  # what the old filters have taken must not be matched again with the new ones
            definition = msgspec.structs.replace(queue.definition, config=config)
            with trio.CancelScope(shield=True), self._context.defining():
                await queue.store(definition)
                self._redefine(queue, definition)
            return queue

    def _forget_positions(self, queue: Queue, sources: Iterable[QueueSource]) -> None:
        """A topic that it took from long ago, and not now, begins where it is told to begin."""
        taken = {feed.partition.topic.name for feed in queue.feeds}
        for source in sources:
            topic = self._services.catalog.topics.get(source.topic)
            if topic is not None and topic.name not in taken:
                for partition in topic.partitions:
                    number = self._context.sources.find(partition)
                    if number is not None:
                        queue.state.forget_source(number)

    async def delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Remove a queue; how many records it had. Its home topic stays. Durable on return.

        Raises UnknownQueue, QueueInUse (``if_unused``: it has consumers; ``if_empty``: it has records).
        Cancellation: may have happened.
        """
        async with self._context.holding(name):
            queue = self.get(name)
            state = queue.state
            count = state.ready + state.unacked + state.delayed
            if (if_unused and queue.has_consumers) or (if_empty and count):
                raise QueueInUse(
                    f"queue {name} has {len(queue.consumers)} consumers and {count} records; it was left alone",
                    queue=name,
                )
            with trio.CancelScope(shield=True):
                self._remove(queue)
                if queue.is_volatile:
                    await trio.lowlevel.checkpoint()
                    return count
                await self._context.topic.write_durable([(DEFINITION + name.encode(), None), *queue.stored_keys()])
            return count

    def wanted(self, partition: Partition, key: bytes | None, headers: Iterable[Header]) -> bool:
        """Whether any queue takes such a record from there."""
        feed = self._feeds.get(partition)
        return feed is not None and feed.is_wanted(key, headers)

    def handle_dead_letters(self, name: str, handler: DeadLetterHandler) -> None:
        """Let ``handler`` see to the dead letters of the queues that name it in their settings."""
        self._context.dead_letter_handlers[name] = handler
        for queue in self._queues.values():
            if queue.config.dead_letter_handler == name:
                queue.leaving.go_on()

    # -- sources -----------------------------------------------------------------------------------

    def _add(self, queue: Queue) -> None:
        self._queues[queue.name] = queue
        for topic in _named_by(queue):
            self._by_topic.setdefault(topic, {})[queue] = None

    def _remove(self, queue: Queue) -> None:
        del self._queues[queue.name]
        self._forget_sources(queue)
        self._detach(queue)
        queue.deleted()

    def _forget_sources(self, queue: Queue) -> None:
        for topic in _named_by(queue):
            named = self._by_topic[topic]
            del named[queue]
            if not named:
                del self._by_topic[topic]

    def _attach(self, queue: Queue, replay: Replay | None = None) -> None:
        """Let it take from the partitions of its topics that there are."""
        topics = self._services.catalog.topics
        for topic in (queue.home, *map(topics.get, _named_by(queue))):
            if topic is not None:
                self._attach_to(queue, topic, replay=replay)

    def _attach_to(self, queue: Queue, topic: Topic, first: int = 0, replay: Replay | None = None) -> None:
        sources = queue.config.sources_of(queue.name, topic.name)
        for partition in topic.partitions[first:]:
            feed = self._feeds.get(partition)
            if feed is None:
                feed = self._feeds[partition] = SourceFeed(self._context, partition)
            queue.feeds = (*queue.feeds, feed)
            position = queue.state.positions.get(feed.source)
            if replay is not None:
                position = replay.position(queue.id, feed.source, position)
            feed.attach(queue, sources, position)

    def _detach(self, queue: Queue) -> None:
        feeds, queue.feeds = queue.feeds, ()
        for feed in feeds:
            feed.detach(queue)
            if not feed.members:
                feed.close()
                del self._feeds[feed.partition]

    def _redefine(self, queue: Queue, definition: Definition) -> None:
        """In one go, so that no record comes between."""
        self._forget_sources(queue)
        for feed in queue.feeds:
            member = feed.members[queue]
            queue.looked_at(feed.source, member.needed_from)
        self._detach(queue)
        queue.redefined(definition)
        self._add(queue)
        self._attach(queue)
        for feed in queue.feeds:
            feed.unwritten.moved(queue)
        queue.changed()

    def _topic_changed(self, name: str, topic: Topic | None) -> None:
        if not self._is_open:
            return
        if topic is not None:
            self._topic_grew(topic, 0)
            return
        gone = [feed for feed in self._feeds.values() if feed.partition.topic.name == name and not feed.is_volatile]
        for feed in gone:
            for queue in tuple(feed.members):
                queue.leave_feed(feed.partition)
                queue.drop_source(feed.source)
            feed.close()
            del self._feeds[feed.partition]
            self._context.cache.forget(feed.source)

    def _topic_grew(self, topic: Topic, first: int) -> None:
        if self._is_open:
            home = self._queues.get(topic.name)
            homes = () if home is None or home.is_volatile else (home,)
            for queue in (*homes, *self._by_topic.get(topic.name, ())):
                self._attach_to(queue, topic, first)

    # -- retention ---------------------------------------------------------------------------------

    def hold(self, partition: Partition) -> int | None:
        """The lowest offset that a queue still has use for; None: there is none."""
        feed = self._feeds.get(partition)
        if feed is None:
            return None
        for queue in feed.members:
            partition.readers[queue.reader_name] = queue.needed_from(feed)
        return min((queue.needed_from(feed) for queue in feed.members), default=None)

    def trimmed(self, partition: Partition) -> None:
        """Records were removed from a partition, whatever queues still wanted of them."""
        feed = self._feeds.get(partition)
        if feed is not None:
            self._context.cache.forget(feed.source)
            for queue in feed.members:
                queue.drop_below(feed.source, partition.log_start_offset)

    async def make_room(self, partition: Partition, offset: int) -> int:
        """Called before retention removes what is below ``offset``: how far it may go.

        Entries that few bytes would keep are copied away first; see :mod:`trunkline.queues.spill`.
        Cancellation: may have copied.
        """
        feed = self._feeds.get(partition)
        held = self.hold(partition)
        if feed is None or held is None or held >= offset:
            return offset
        return await make_room(feed, offset)


def _named_by(queue: Queue) -> set[str]:
    """The topics that its sources name, but for its home topic."""
    sources = queue.config.sources
    return {source.topic for source in sources} - {queue.name} if sources else set()
