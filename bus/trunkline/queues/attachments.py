"""Which queues take from which partitions.

That follows from what queues are told to take from and the topics that there are: topics that appear later are
attached when they do, those that go take their entries along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trunkline.queues.feeds import SourceFeed
from trunkline.queues.spill import make_room

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.queues.config import Definition
    from trunkline.queues.context import QueueContext
    from trunkline.queues.queue import Queue
    from trunkline.queues.recovery import Replay
    from trunkline.topic import Topic

__all__ = ["Attachments"]


class Attachments:
    """The feeds of all queues of a broker, and what retention has to know of them."""

    def __init__(self, context: QueueContext) -> None:
        self._context = context
        self._by_topic: dict[str, dict[Queue, None]] = {}  # those that name it as a source
        self._feeds: dict[Partition, SourceFeed] = {}

    def __iter__(self) -> Iterator[SourceFeed]:
        return iter(tuple(self._feeds.values()))

    # -- queues ------------------------------------------------------------------------------------

    def add(self, queue: Queue) -> None:
        """Note what it names, so that topics that appear are attached to it."""
        for topic in _named_by(queue):
            self._by_topic.setdefault(topic, {})[queue] = None

    def attach(self, queue: Queue, replay: Replay | None = None) -> None:
        """Let it take from the partitions of its topics that there are."""
        topics = self._context.services.catalog.topics
        for topic in (queue.home, *map(topics.get, _named_by(queue))):
            if topic is not None:
                self._attach_to(queue, topic, replay=replay)

    def _attach_to(self, queue: Queue, topic: Topic, first: int = 0, replay: Replay | None = None) -> None:
        sources = queue.config.sources_of(queue.name, topic.name)
        for partition in topic.partitions[first:]:
            feed = self._feeds.get(partition)
            if feed is None:
                feed = self._feeds[partition] = SourceFeed(self._context, partition)
            queue.feeds = (*queue.feeds, feed) if queue.feeds else feed.alone
            position = queue.state.positions.get(feed.source)
            if replay is not None:
                position = replay.position(queue.id, feed.source, position)
            feed.attach(queue, sources, position)

    def remove(self, queue: Queue) -> None:
        """It takes nothing any more."""
        for topic in _named_by(queue):
            named = self._by_topic[topic]
            del named[queue]
            if not named:
                del self._by_topic[topic]
        feeds, queue.feeds = queue.feeds, ()
        for feed in feeds:
            feed.detach(queue)
            if not feed.members:
                feed.close()
                del self._feeds[feed.partition]

    def redefine(self, queue: Queue, definition: Definition) -> None:
        """Give it other settings, in one go, so that no record comes between."""
        for feed in queue.feeds:
            queue.looked_at(feed.source, feed.members[queue].needed_from)
        self.remove(queue)
        queue.redefined(definition)
        self.add(queue)
        self.attach(queue)
        for feed in queue.feeds:
            feed.unwritten.moved(queue)
        queue.changed()

    # -- topics ------------------------------------------------------------------------------------

    def topic_grew(self, topic: Topic, first: int, home_of: Queue | None) -> None:
        """There are partitions from number ``first`` on. ``home_of``: the queue whose home topic it is."""
        homes = () if home_of is None or home_of.is_volatile else (home_of,)
        for queue in (*homes, *self._by_topic.get(topic.name, ())):
            self._attach_to(queue, topic, first)

    def topic_gone(self, name: str) -> None:
        """A topic was deleted."""
        for feed in self:
            if feed.partition.topic.name != name or feed.is_volatile:
                continue
            for queue in tuple(feed.members):
                queue.leave_feed(feed.partition)
                queue.drop_source(feed.source)
            feed.close()
            del self._feeds[feed.partition]
            self._context.cache.forget(feed.source)

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
