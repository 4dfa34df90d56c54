"""One session's state: what it wants, how far it is, what is not finished. It outlives the connections that use it.

It follows the live tails of its partitions as one and the same subscriber, whoever is attached, so nothing can be lost
or doubled when one connection takes it over from another. When nobody is, and that is stored, an
:class:`~trunkline.sessions.offline.OfflineSession` takes its place. What comes while nobody can take it becomes a
reference; when there are too many the tail remembers one offset instead (the session is *behind* in it) and looks the
rest up. So everything below :meth:`SessionState.positions` was given to somebody, and nothing above it.

Each filter has a start in each partition. It is kept only as long as the session's position is below it.

There may be many, so what an ordinary one has is kept small: one filter is no dict (:mod:`trunkline.few`), and what it
rarely has is None.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from trunkline.errors import CorruptLog, LogStopped, TrunklineError
from trunkline.few import Few
from trunkline.filters import Syntax, key_text, matches
from trunkline.live import Delivery, LiveSubscriber
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.records import Record
from trunkline.sessions.references import References
from trunkline.sessions.stored import Definition, Progress, StoredFilter, TopicPositions, decode_as, flat
from trunkline.sessions.window import Window, unfinished_of

if TYPE_CHECKING:
    from trunkline.sessions.serving import Serving
    from trunkline.sessions.sessions import Sessions
    from trunkline.topic import Topic

__all__ = ["FilterName", "SessionState"]

logger = logging.getLogger("trunkline.sessions")


class FilterName(NamedTuple):
    """What tells the filters of a session apart."""

    topic: str
    pattern: str
    syntax: Syntax


class SessionState(LiveSubscriber):
    """See the module's docstring.

    Attributes:
      filters: their options.
      starts: of filters, by partition, where they are above the session's position; None: nowhere.
      serving: the owner and what it is being given; None while nobody is attached.
      expires_at: when it ends, in seconds of the broker's clock, if it is still detached then.
      missed_records: that retention took, in all; ``untold`` by partition, of which no owner knows yet.
      is_changed: the definition is not stored as it is.
      is_ended: the session has ended, or something else stands for it now.
      stored_progress: as it was stored last.
    """

    __slots__ = (
        "_home",
        "detached_ms",
        "epoch",
        "expires_at",
        "expires_s",
        "filters",
        "is_changed",
        "is_ended",
        "is_held",
        "missed_records",
        "name",
        "references",
        "serving",
        "starts",
        "stored_progress",
        "untold",
        "window",
    )

    def __init__(self, home: Sessions, name: str, definition: Definition, progress: Progress) -> None:
        self._home = home
        self.name = name
        self.epoch = progress.epoch
        self.detached_ms = progress.detached_ms
        self.expires_s = definition.expires_s
        self.expires_at = 0.0
        self.is_held = definition.is_held
        self.filters: Few[FilterName, bytes] = Few()
        self.starts: dict[FilterName, dict[int, int]] | None = None
        self.window: Window | None = None
        self.references: References | None = None
        self.serving: Serving | None = None
        self.missed_records = progress.missed
        self.untold: dict[Partition, int] | None = None
        self.is_changed = False
        self.is_ended = False
        self.stored_progress: bytes | None = None

    # -- from what is stored -----------------------------------------------------------------------

    @classmethod
    def restore(cls, home: Sessions, name: str, wanted: Definition, done: Progress) -> SessionState:
        """Take up a session where it was left."""
        state = cls(home, name, wanted, done)
        positions = done.positions()
        for stored in wanted.filters:
            filter = FilterName(stored.topic, stored.pattern, stored.syntax)
            state.filters[filter] = stored.options
            state._set_starts(filter, stored.starts)
        for topic in state._topics():
            topic_id, known = positions.get(topic.name, ("", {}))
            state._follow(topic, known if topic_id == topic.id else {})
        entries = unfinished_of(name, done, home.partition)
        if entries:
            state.window = Window(entries)
        return state

    def _follow(self, topic: Topic, positions: Mapping[int, int], first: int = 0) -> None:
        """Be told of what the filters want of a topic, from these positions on; a partition without one from 0.

        ``first``: only of this partition and those behind it.
        """
        for partition in topic.partitions[first:]:
            position = min(positions.get(partition.index, 0), partition.high_watermark)
            tail = self._home.tail(partition)
            for name, options in self.filters.items():
                if name.topic == topic.name:
                    start = self._starts_of(name).get(partition.index, 0)
                    start = min(max(start, position), partition.high_watermark)
                    tail.subscribe(self, name.pattern, options, start=start, syntax=name.syntax)

    def topic_deleted(self, name: str) -> None:
        """Filters stay, in case it is made again."""
        if self.window is not None:
            self.window.lose(name)

    def topic_made(self, topic: Topic) -> None:
        """A topic was made that a filter may have been waiting for: it is wanted from its first record on."""
        for name in self.filters:
            if name.topic == topic.name:
                self._set_starts(name, {})
        self._follow(topic, {})

    def topic_grew(self, topic: Topic, first: int) -> None:
        """A topic got more partitions: they are wanted from their first records on."""
        self._follow(topic, {}, first)

    # -- filters -----------------------------------------------------------------------------------

    def subscribe(self, name: FilterName, options: bytes, start: Mapping[int, int] | None) -> bool:
        """Add a filter, or give one other options; True if it is new. Raises ValueError, LocalProtocolError."""
        is_new = name not in self.filters
        starts: dict[int, int] = {}
        try:
            for partition in self._partitions_of(name.topic):
                tail = self._home.tail(partition)
                latest = partition.high_watermark
                first = latest if start is None else min(start.get(partition.index, latest), latest)
                tail.subscribe(self, name.pattern, options, start=first, syntax=name.syntax)
                position = tail.position(self)
                if self.references or (position is not None and position < first):
                    starts[partition.index] = first
        except BaseException:
            if is_new:
                self._drop(name)
            raise
        if is_new or options != self.filters[name]:
            self.is_changed = True
            self.filters[name] = options
        if is_new:
            self._set_starts(name, starts)
        return is_new

    def unsubscribe(self, name: FilterName) -> bool:
        """Take a filter away; what it wanted and was not given is not given any more."""
        if self.filters.pop(name, None) is None:
            return False
        self.is_changed = True
        self._set_starts(name, {})
        self._drop(name)
        return True

    def _starts_of(self, name: FilterName) -> dict[int, int]:
        return self.starts.get(name, {}) if self.starts is not None else {}

    def _set_starts(self, name: FilterName, starts: dict[int, int]) -> None:
        if starts:
            if self.starts is None:
                self.starts = {}
            self.starts[name] = starts
        elif self.starts is not None:
            self.starts.pop(name, None)
            self.starts = self.starts or None

    def _drop(self, name: FilterName) -> None:
        for partition in self._partitions_of(name.topic):
            tail = self._home.tail(partition)
            tail.unsubscribe(self, name.pattern, syntax=name.syntax)
            if tail.position(self) is None:
                partition.readers.pop(self.reader_name, None)

    def options(self, partition: Partition, record: Record) -> list[bytes]:
        """Those of the filters that want a record now."""
        found = []
        for name, options in self.filters.items():
            if name.topic != partition.topic.name:
                continue
            if self.starts is not None and record.offset < self._starts_of(name).get(partition.index, 0):
                continue
            text = key_text(record.key, name.syntax)
            if text is not None and matches(name.pattern, text, name.syntax):
                found.append(options)
        return found

    def _topics(self) -> list[Topic]:
        names = dict.fromkeys(name.topic for name in self.filters)
        return [topic for topic in map(self._home.topic, names) if topic is not None]

    def _partitions_of(self, topic_name: str) -> tuple[Partition, ...]:
        topic = self._home.topic(topic_name)
        return () if topic is None else topic.partitions

    # -- what comes --------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        serving = self.serving
        if delivery.record.offset < 0:  # it is in no log
            return serving.give(delivery, options) if serving is not None and serving.is_direct else True
        if serving is not None and serving.is_direct:
            if not serving.is_dirty:
                serving.is_dirty = True
                self._home.is_dirty(self)
            return serving.give(delivery, options)
        if self.references is None:
            self.references = References()
        self.references.add(delivery.partition, delivery.record.offset)
        return serving is None and not self.references.is_full

    def resume_tails(self) -> None:
        """Everything older has been given: let the tails go on."""
        for topic in self._topics():
            for partition in topic.partitions:
                self._home.tail(partition).resume(self)

    def missed(self, partition: Partition, records: int) -> None:
        self.missed_records += records
        self._home.is_dirty(self)
        self.tell_missed(partition, records)

    def tell_missed(self, partition: Partition, records: int) -> None:
        """Tell the owner, or the next one."""
        if self.serving is not None and self.serving.is_ready:
            self.serving.owner.missed(partition, records)
            return
        self.untold = self.untold or {}
        self.untold[partition] = self.untold.get(partition, 0) + records

    def live_closed(self, error: TrunklineError | None) -> None:
        """A topic was deleted, or the broker closes: nothing is to be done. Or a log failed: somebody should know."""
        if isinstance(error, LogStopped | CorruptLog):
            self._home.fail(self, error)

    # -- how far it is -----------------------------------------------------------------------------

    @property
    def reader_name(self) -> str:
        return f"session:{self.name}"

    def offered(self) -> Iterator[tuple[Partition, int]]:
        """Of each partition: what is wanted below was given, or is referred to. Not to be asked in ``deliver``."""
        for topic in self._topics():
            for partition in topic.partitions:
                position = self._home.tail(partition).position(self)
                if position is None:  # its log has failed, and the tail forgot everybody
                    position = self._stored_position(partition)
                yield partition, position

    def positions(self) -> Iterator[tuple[Partition, int]]:
        """Of each partition: every wanted record below has been given. Not to be asked inside of ``deliver``."""
        first = self.references.lowest() if self.references else {}
        for partition, offset in self.offered():
            yield partition, min(offset, first.get(partition, offset))

    def _stored_position(self, partition: Partition) -> int:
        if not self.stored_progress:
            return 0
        topic_id, known = decode_as(Progress, self.stored_progress).positions().get(partition.topic.name, ("", {}))
        return known.get(partition.index, 0) if topic_id == partition.topic.id else 0

    def is_far_from_stored(self, offsets: int) -> bool:
        """Whether a position has gone on by so many since it was stored."""
        return any(position - self._stored_position(partition) > offsets for partition, position in self.positions())

    def cursors(self) -> dict[Partition, int]:
        """Of each partition: the lowest offset that is still needed."""
        lowest = self.window.lowest() if self.window is not None else {}
        return {
            partition: min(position, lowest.get(TopicPartition(partition.topic.name, partition.index), position))
            for partition, position in self.positions()
        }

    def hold(self) -> None:
        """Tell the partitions where it is, if it asks retention to wait."""
        if self.is_held:
            for partition, cursor in self.cursors().items():
                partition.readers[self.reader_name] = cursor

    def let_go(self) -> None:
        """Have no partition wait."""
        for topic in self._topics():
            for partition in topic.partitions:
                partition.readers.pop(self.reader_name, None)

    def progress(self) -> Progress:
        """What is to be stored of it now; starts that have been passed are forgotten."""
        by_topic: dict[str, dict[int, int]] = {}
        ids: dict[str, str] = {}
        for partition, position in self.positions():
            by_topic.setdefault(partition.topic.name, {})[partition.index] = position
            ids[partition.topic.name] = partition.topic.id
        for name, starts in [*(self.starts or {}).items()]:
            known = by_topic.get(name.topic, {})
            self._set_starts(name, {p: s for p, s in starts.items() if s > known.get(p, s)})
        for lost in {entry.partition.topic for entry in self.window or ()} - by_topic.keys():
            topic = self._home.topic(lost)  # nothing more is wanted of it
            ids[lost], by_topic[lost] = "" if topic is None else topic.id, {}
        numbers = {name: number for number, name in enumerate(by_topic)}
        return Progress(
            epoch=self.epoch,
            detached_ms=self.detached_ms,
            missed=self.missed_records,
            topics=[TopicPositions(name, ids[name], flat(known)) for name, known in by_topic.items()],
            unfinished=[
                (entry.id, entry.state, numbers[entry.partition.topic], entry.partition.partition, entry.offset)
                for entry in self.window or ()
            ],
        )

    def definition(self) -> Definition:
        """What is to be stored of what it wants."""
        return Definition(
            self.expires_s,
            self.is_held,
            [
                StoredFilter.make(name.topic, name.pattern, name.syntax, options, self._starts_of(name))
                for name, options in self.filters.items()
            ],
        )

    def end(self) -> None:
        """It is deleted: want nothing any more."""
        self.epoch = -1
        self.let_go()
        self.leave()

    def leave(self) -> None:
        """This object follows the session no more: that has ended, or something else does it."""
        self.is_ended = True
        for topic in self._topics():
            for partition in topic.partitions:
                self._home.tail(partition).remove(self)
