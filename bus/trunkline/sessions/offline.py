"""A session that nobody is attached to: the bytes that are stored of it, and what follows the log for it.

There are many of these, so nothing is kept decoded. What its filters want is noted all the same as it is committed, as
references, so that a client that is back soon need not look through what others published meanwhile: its filters
stand in the indexes of live delivery, where each is an entry and nothing else (:class:`~trunkline.live.Watcher`).
Three kinds of partitions can be told apart by that:

*followed*     all that is wanted from the stored position on is referred to; the position is the high watermark
*full*         the same, but there were too many references: the position is where they end
*others*       after a restart, where it was behind when its owner left, or what was made since: the position is
               what is stored, and whoever comes back looks from there on

Attaching, and whatever changes a session, makes a :class:`~trunkline.sessions.state.SessionState` of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trunkline.live import Delivery, Watcher
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.sessions.references import References
from trunkline.sessions.state import SessionState
from trunkline.sessions.stored import Definition, Progress, StoredFilter, decode_as

if TYPE_CHECKING:
    from trunkline.sessions.sessions import Sessions

__all__ = ["OfflineSession"]


class OfflineSession(Watcher):
    """See the module's docstring.

    Attributes:
      definition, progress: as they are stored, or will be in a moment.
      expires_at: when it ends, in seconds of the broker's clock; infinity: never.
      references: None while there are none.
    """

    __slots__ = ("_followed", "_home", "_untold", "definition", "expires_at", "name", "progress", "references")

    def __init__(self, home: Sessions, name: str) -> None:
        self._home = home
        self._followed: tuple[Partition, ...] = ()
        self._untold: dict[Partition, int] | None = None
        self.name = name
        self.definition: bytes | None = None
        self.progress: bytes | None = None
        self.expires_at = math.inf
        self.references: References | None = None

    # -- from and to a session in use --------------------------------------------------------------

    @classmethod
    def park(cls, home: Sessions, state: SessionState) -> OfflineSession:
        """What takes the place of a session that was stored just now. For the beginning of a round, as storing is."""
        offline = cls(home, state.name)
        offline.definition, offline.progress = state.definition().encode(), state.stored_progress
        if state.expires_s is not None:
            offline.expires_at = state.expires_at
        offline.references, offline._untold = state.references or None, state.untold
        followed = []
        for partition, offset in state.offered():
            if offset >= partition.high_watermark:
                followed.append(partition)
            elif offline.references is not None:
                offline.references.ends[partition] = offset
        offline._followed = home.shared(tuple(followed))
        for partition, filter in offline._places():
            home.tail(partition).watch(offline, filter.pattern, syntax=filter.syntax)
        state.leave()
        if state.is_held:
            offline.hold(offline.progress_now())
        return offline

    def unpark(self) -> SessionState:
        """The session as it can be used; this is not to be used again. Raises CorruptLog."""
        wanted, done = decode_as(Definition, self.definition), self._moved(self._offered())
        state = SessionState.restore(self._home, self.name, wanted, done)
        state.stored_progress, state.expires_at = self.progress, self.expires_at
        state.references, state.untold = self.references, self._untold
        if state.references is not None:
            state.references.ends, state.references.noted = {}, set()
        self._unwatch()
        return state

    def end(self) -> None:
        """It is deleted: want nothing any more."""
        self._unwatch()
        for place in decode_as(Progress, self.progress).cursors():
            partition = self._home.partition(*place)
            if partition is not None:
                partition.readers.pop(self._reader_name, None)

    @property
    def is_following(self) -> bool:
        """Something is referred to as it comes."""
        return bool(self._followed)

    def filters_with(self, text: str) -> list[StoredFilter]:
        """All filters, if one of them may have this text in it; quickly none for most sessions."""
        if self.definition is None or text.encode() not in self.definition:
            return []
        return decode_as(Definition, self.definition).filters

    def _places(self) -> list[tuple[Partition, StoredFilter]]:
        """Where it watches, and for what; partitions of deleted topics have no tails any more."""
        filters = decode_as(Definition, self.definition).filters
        return [
            (place, filter)
            for place in self._followed
            for filter in filters
            if filter.topic == place.topic.name and self._home.partition(filter.topic, place.index) is place
        ]

    def _unwatch(self, only: Partition | None = None) -> None:
        for partition, filter in self._places():
            if only is None or partition is only:
                self._home.tail(partition).unwatch(self, filter.pattern, syntax=filter.syntax)

    # -- what comes --------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, options: list[object]) -> bool:
        partition, offset = delivery.partition, delivery.record.offset
        if offset < 0:  # it is in no log
            return True
        if self.references is None:
            self.references = References()
        references = self.references
        if partition in references.ends:
            return True
        references.add(partition, offset)
        if partition not in references.noted:
            references.noted.add(partition)
            if decode_as(Definition, self.definition).is_held:
                partition.readers.setdefault(self._reader_name, offset)
        if references.is_full:
            references.ends[partition] = offset + 1
            self._home.rounds.call_soon(lambda: self._unwatch(partition))
        return True

    # -- how far it is -----------------------------------------------------------------------------

    def _offered(self) -> dict[Partition, int]:
        """Where nothing below an offset is wanted that is neither given nor referred to, and that is not stored."""
        offered = {partition: partition.high_watermark for partition in self._followed}
        return offered if self.references is None else offered | self.references.ends

    def _moved(self, offsets: Mapping[Partition, int]) -> Progress:
        by_id = {(partition.topic.id, partition.index): offset for partition, offset in offsets.items()}
        return decode_as(Progress, self.progress).moved(by_id)

    def progress_now(self) -> Progress:
        """As it would be stored now. Not to be asked in ``deliver``."""
        first = {} if self.references is None else self.references.lowest()
        return self._moved({place: min(offset, first.get(place, offset)) for place, offset in self._offered().items()})

    def is_far_from_stored(self, offsets: int) -> bool:
        """Whether a position has gone on by so many since it was stored."""
        if not self._followed:
            return False
        stored, now = decode_as(Progress, self.progress), self.progress_now()
        return any(
            position - before > offsets
            for old, new in zip(stored.topics, now.topics, strict=True)
            for before, position in zip(old.flat_positions[1::2], new.flat_positions[1::2], strict=True)
        )

    def restated(self) -> bytes | None:
        """The progress, to be stored; None if it is stored as it is."""
        if not self._followed:
            return None
        progress = self.progress_now().encode()
        if progress == self.progress:
            return None
        self.progress = progress
        return progress

    @property
    def _reader_name(self) -> str:
        return f"session:{self.name}"

    def hold(self, progress: Progress) -> None:
        """Have the partitions wait that have something for it, or will have unnoticed; for one that is held."""
        cursors = progress.cursors()
        for topic in progress.topics:
            found = self._home.topic(topic.topic)
            if found is None or found.id != topic.topic_id:
                continue
            for partition in found.partitions:
                cursor = cursors.get(TopicPartition(topic.topic, partition.index))
                if cursor is None:
                    continue
                if cursor < partition.high_watermark or partition not in self._followed:
                    partition.readers[self._reader_name] = cursor
                else:
                    partition.readers.pop(self._reader_name, None)
