"""What follows in the core from what AMQP declares: topics, queues, and the filters of queues.

Names of topics and of queues of the core are given here (:mod:`~trunkline_amqp.naming`), so that nothing of AMQP's
meets anything else of it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trunkline.errors import TopicExists, TrunklineError, UnknownQueue
from trunkline.filters import RecordFilter
from trunkline.queues import QueueConsumer, QueueSource
from trunkline.settings import TOPIC_SETTINGS
from trunkline_amqp.model import Vhost
from trunkline_amqp.naming import free_name, topic_name
from trunkline_amqp.queue_config import queue_config, sources_of
from trunkline_amqp.queue_entry import STREAM_SUFFIX, QueueEntry
from trunkline_amqp.streams import PUMPED_BYTES, PUMPED_RECORDS, Pump, Start, StreamReader, find_start, parse_start

if TYPE_CHECKING:
    from collections.abc import Callable

    from trunkline.broker import Broker
    from trunkline.topic import Topic
    from trunkline_amqp.bridge import Place

__all__ = ["CoreSide"]

RECORD_OVERHEAD_BYTES: Final = 64 * 1024
"""For the properties of a message, which come once as they are and once as headers."""


class CoreSide:
    """Belongs to the broker's thread.

    Args:
      place: how the records of a topic are read as messages.
      max_message_bytes: body of the largest message; topics that are made here take records of that size. 0: the
        broker's default.

    Attributes:
      taken: names of topics and queues of the core that are AMQP's.
      by_name: AMQP's queues by their ``core_name``.
    """

    def __init__(self, broker: Broker, place: Callable[[str], Place], max_message_bytes: int) -> None:
        self.taken: set[str] = set()
        self.by_name: dict[str, QueueEntry] = {}
        self._broker = broker
        self._queues = broker.queues
        self._place = place
        self._max_record_bytes = max_message_bytes + RECORD_OVERHEAD_BYTES if max_message_bytes else 0

    def has_queue(self, name: str) -> bool:
        """Whether the core has a queue of this name."""
        return name in self._queues

    def has_topic(self, name: str) -> bool:
        return name in self._broker.topics

    def free_name(self, vhost: str, name: str, suffix: str, *, is_new_queue: bool = False) -> str:
        """A name for a topic or queue of the core that nothing else of AMQP's has.

        Args:
          is_new_queue: nor a queue that is already there.
        """
        return free_name(
            topic_name(vhost, name),
            suffix,
            lambda found: found in self.taken or (is_new_queue and self._is_queue(found)),
        )

    def _is_queue(self, name: str) -> bool:
        return name in self._queues or f"{name}{STREAM_SUFFIX}" in self._queues

    async def ensure_topic(self, name: str, settings: Mapping[str, str] = MappingProxyType({})) -> Topic:
        """The topic; made now with these settings if it is missing."""
        topics = self._broker.topics
        if name in topics:
            return topics[name]
        needed = self._max_record_bytes
        default = int(TOPIC_SETTINGS["max.message.bytes"].default)
        try:
            return await self._broker.create_topic(
                name,
                partitions=1,
                settings={**settings, **({"max.message.bytes": str(needed)} if needed > default else {})},
            )
        except TopicExists:
            return topics[name]

    async def make_queue(self, vhost: Vhost, queue: QueueEntry) -> None:
        """See to it that the core has the queue, with the filters it is to have."""
        queue.read_log = self._read_log
        if queue.is_volatile:
            queue.core = self._queues.declare_volatile(queue.core_name, queue_config(queue.arguments, ()))
            queue.core.origin = _origin(queue)
            return
        home = await self.ensure_topic(queue.core_name, _stream_settings(queue))
        if queue.queue_name in self._queues:
            queue.core = self._queues.get(queue.queue_name)
        else:
            sources = () if queue.kind == "stream" else (self._beginning_now(QueueSource(queue.core_name)),)
            config = queue_config(queue.arguments, sources)
            queue.core = await self._queues.declare(queue.queue_name, config)
        queue.core.origin = _origin(queue)
        if queue.name in vhost.queues:  # it was there at the last start, and so may have bindings
            await self.set_sources(vhost, queue.name)
        if queue.kind == "stream":
            pump = Pump(home.partitions[0], self._place, self._broker.now_ms)
            pump.consumption = queue.core.consume(
                pump, prefetch=PUMPED_RECORDS, prefetch_bytes=PUMPED_BYTES, name="stream"
            )

    def _beginning_now(self, source: QueueSource) -> QueueSource:
        """It takes what is published from now on, not what is on its way."""
        topic = self._broker.topics[source.topic]
        start = {partition.index: partition.staged_end_offset for partition in topic.partitions}
        return msgspec.structs.replace(source, start=start, topic_id=topic.id)

    async def set_sources(self, vhost: Vhost, name: str) -> None:
        """Give the core's queue the filters that follow from its bindings."""
        queue = vhost.queues.get(name)
        if queue is None:
            return
        wanted = sources_of(vhost, queue)
        for topic in {source.topic for source in wanted}:
            await self.ensure_topic(topic)
        had = {source.wanted: source for source in queue.core.config.sources}
        if queue.is_adopted:
            wanted = [*(source for source in had.values() if source.wanted not in queue.bound_sources), *wanted]
        sources = {source.wanted: had.get(source.wanted) or self._beginning_now(source) for source in wanted}
        if sources.keys() != had.keys():
            queue.core = await self._queues.alter(queue.queue_name, sources=tuple(sources.values()))
        queue.bound_sources = {source.wanted for source in wanted}

    async def remove_queue(self, queue: QueueEntry) -> None:
        """Take it out of the core, and its home topic with it if that was made for it."""
        with suppress(UnknownQueue):  # somebody else was quicker
            await self._queues.delete(queue.queue_name)
        gone = UnknownQueue(f"queue {queue.name} was deleted", queue=queue.name)
        for reader in tuple(queue.readers):
            reader.ended(gone)
        if not queue.is_volatile and queue.owns_topic and self.has_topic(queue.core_name):
            await self._broker.delete_topic(queue.core_name)

    def _read_log(
        self,
        queue: QueueEntry,
        consumer: QueueConsumer,
        prefetch: int,
        auto_settle: bool,
        arguments: Mapping[str, Any],
    ) -> StreamReader:
        """See :meth:`QueueEntry.consume`."""
        start = parse_start(arguments.get("x-stream-offset"), self._broker.now_ms())

        def ended(reader: StreamReader) -> None:
            queue.readers.pop(reader, None)

        reader = StreamReader(consumer, prefetch=prefetch, auto_settle=auto_settle, ended=ended)
        queue.readers[reader] = None
        self._broker.start_soon(self._begin_reading, queue, reader, start)
        return reader

    async def _begin_reading(self, queue: QueueEntry, reader: StreamReader, start: Start) -> None:
        """Find where a reader begins, and let it."""
        sources = (QueueSource(queue.core_name),) if queue.kind == "stream" else queue.core.config.sources
        by_topic: dict[str, list[RecordFilter]] = {}
        for source in sources:
            by_topic.setdefault(source.topic, []).append(source.filter)
        try:
            for name, filters in by_topic.items():
                topic = self._broker.topics.get(name)
                for partition in () if topic is None else topic.partitions:
                    offset = await find_start(partition, start)
                    reader.begin(partition, self._broker.live(partition), filters, offset)
        except TrunklineError as error:
            reader.ended(error)


def _origin(queue: QueueEntry) -> str:
    """What people are told about a queue of the core."""
    what = "what bindings bring to AMQP's stream" if queue.kind == "stream" else f"AMQP's {queue.kind} queue"
    return f"{what} {queue.name!r} in virtual host {queue.vhost!r}"


def _stream_settings(queue: QueueEntry) -> dict[str, str]:
    """How long a stream keeps its messages: for ever, unless it is told otherwise."""
    if queue.kind != "stream":
        return {}
    arguments = queue.arguments
    return {"retention.ms": str(arguments.max_age_ms), "retention.bytes": str(arguments.max_length_bytes)}
