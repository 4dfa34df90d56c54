"""All queues of a broker.

Definitions are durable before a call returns. Which partitions a queue takes from follows from them
(:mod:`trunkline.queues.attachments`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec.structs import replace

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
from trunkline.queues.attachments import Attachments
from trunkline.queues.config import DEFAULTS, DEFINITION, Definition, QueueConfig, QueueSource, SourceParts
from trunkline.queues.context import QueueContext
from trunkline.queues.persist import Persister
from trunkline.queues.positions import position_key
from trunkline.queues.queue import Queue
from trunkline.queues.recovery import Replay
from trunkline.queues.volatile import MemoryBudget, VolatileQueue
from trunkline.settings import check_topic_name

if TYPE_CHECKING:
    from trunkline.queues.dead_letters import DeadLetterHandler
    from trunkline.topic import Topic
    from trunkline.views import ViewServices

__all__ = ["Queues"]

logger = logging.getLogger("trunkline.queues")

_WAITED_FOR: Final = 1_000_000
"""Offsets of a source that a start waits to have looked at; beyond, queues say that they are loading."""


class Queues:
    """Made and opened by the broker; belongs to its thread.

    Attributes:
      attachments: which partitions they take from.
    """

    def __init__(self, services: ViewServices) -> None:
        self._services = services
        self._context = QueueContext(services)
        self._queues: dict[str, Queue] = {}
        self.attachments = Attachments(self._context)
        self._next_id = 1
        self._parts = SourceParts()
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
            sources = tuple([self._parts.share(source) for source in definition.config.sources])
            if sources:
                definition = replace(definition, config=replace(definition.config, sources=sources))
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
            self.attachments.attach(queue, replay)
            if queue.persister is not None:
                queue.serve_soon()  # something may be due
        self._services.spawn(self._run_timers)
        for feed in self.attachments:
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
        entries = [feed.position_entry() for feed in self.attachments]
        try:
            await self._context.topic.write_durable(entry for entry in entries if entry is not None)
        except TrunklineError as error:
            logger.error("how far queues have come could not be written: %s", error)
        for feed in self.attachments:
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
        fixed = replace(config, sources=self._fixed(config.sources))
        definition = Definition(queue_id, fixed, self._context.now_ms())
        # A queue that is stored and not here would come back at the next start.
        with trio.CancelScope(shield=True), self._context.defining():
            await self._context.topic.write_durable([Replay.next_id_entry(self._next_id), definition.entry(name)])
            queue = Queue(self._context, name, definition)
            self._add(queue)
            self.attachments.attach(queue)
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
        fixed = replace(config, sources=self._fixed(config.sources))
        definition = Definition(0, fixed, self._context.now_ms())
        queue = VolatileQueue(self._context, name, definition, self._budget)
        self._add(queue)
        self.attachments.attach(queue)
        return queue

    def _fixed(self, sources: Iterable[QueueSource]) -> tuple[QueueSource, ...]:
        """With ``latest`` turned into offsets."""
        return tuple([self._parts.share(self._fixed_source(source)) for source in sources])

    def _fixed_source(self, source: QueueSource) -> QueueSource:
        topic = self._services.catalog.topics.get(source.topic)
        if source.start != "latest":
            is_offsets = isinstance(source.start, dict) and topic is not None
            return replace(source, topic_id=topic.id if is_offsets and topic is not None else "")
        if topic is None:
            return replace(source, start="earliest", topic_id="")
        offsets = {partition.index: partition.high_watermark for partition in topic.partitions}
        return replace(source, start=offsets, topic_id=topic.id)

    async def alter(self, name: str, **changes: Any) -> Queue:
        """Change settings by name; durable on return. Sources that it had go on where they are, new ones begin at once.

        Raises UnknownQueue, InvalidSetting, InvalidFilter. Cancellation: may have happened.
        """
        async with self._context.holding(name):
            queue = self.get(name)
            try:
                config = replace(queue.config, **changes)
            except TypeError as error:
                raise InvalidSetting(f"queue {name}: {error}", setting=next(iter(changes), "")) from None
            config.check(name)
            if "sources" in changes:
                had = {source.wanted: source for source in queue.config.sources}
                kept = tuple(
                    had.get(source.wanted) or self._parts.share(self._fixed_source(source)) for source in config.sources
                )
                config = replace(config, sources=kept)
                self._forget_positions(queue, config.sources)
            queue.changed()
            await queue.wait_durable()  # what the old filters have taken must not be matched again with the new ones
            definition = replace(queue.definition, config=config)
            with trio.CancelScope(shield=True), self._context.defining():
                await queue.store(definition)
                self.attachments.redefine(queue, definition)
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
                del self._queues[queue.name]
                self.attachments.remove(queue)
                queue.deleted()
                if queue.is_volatile:
                    await trio.lowlevel.checkpoint()
                    return count
                await self._context.topic.write_durable([(DEFINITION + name.encode(), None), *queue.stored_keys()])
            return count

    def handle_dead_letters(self, name: str, handler: DeadLetterHandler) -> None:
        """Let ``handler`` see to the dead letters of the queues that name it in their settings."""
        self._context.dead_letter_handlers[name] = handler
        for queue in self._queues.values():
            if queue.config.dead_letter_handler == name:
                queue.leaving.go_on()

    # -- sources -----------------------------------------------------------------------------------

    def _add(self, queue: Queue) -> None:
        self._queues[queue.name] = queue
        self.attachments.add(queue)

    def _topic_changed(self, name: str, topic: Topic | None) -> None:
        if not self._is_open:
            return
        if topic is not None:
            self._topic_grew(topic, 0)
        else:
            self.attachments.topic_gone(name)

    def _topic_grew(self, topic: Topic, first: int) -> None:
        if self._is_open:
            self.attachments.topic_grew(topic, first, self._queues.get(topic.name))
