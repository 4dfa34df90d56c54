"""Numbers for partitions, so that an entry of a queue says in a few bits where its record is stored.

Stored in ``__queues`` under ``t`` and the number (u32, big-endian) as JSON: ``{"topic", "topic_id", "partition"}``. A
number is never given to another partition; a topic that is deleted and made again gets new ones. Until the record is
durable every queue writes it before its own state, into the same log, so that no number is ever met without it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from trunkline.catalog import TopicCatalog
    from trunkline.errors import TrunklineError
    from trunkline.partition import Partition
    from trunkline.state_topic import StateTopic

__all__ = ["SOURCE_KIND", "SourceTable"]

SOURCE_KIND: Final = b"t"
VOLATILE: Final = 1 << 40
"""Numbers from here on are of partitions in memory, and never stored."""

_KEY: Final = Struct(">cI")


class _Source(msgspec.Struct, frozen=True):
    topic: str
    topic_id: str
    partition: int


class SourceTable:
    """The numbers of all partitions that queues take from. Belongs to the broker's thread.

    Attributes:
      unsaved: records that are not durable yet, by number.
    """

    __slots__ = (
        "_catalog",
        "_known",
        "_next",
        "_next_volatile",
        "_numbers",
        "_saving",
        "_topic",
        "_volatile",
        "_volatile_numbers",
        "unsaved",
    )

    def __init__(self, topic: StateTopic, catalog: TopicCatalog) -> None:
        self._topic = topic
        self._catalog = catalog
        self._known: dict[int, _Source] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._next = 0
        self._volatile: dict[int, Partition] = {}
        self._volatile_numbers: dict[Partition, int] = {}
        self._next_volatile = VOLATILE
        self.unsaved: dict[int, tuple[bytes, bytes]] = {}
        self._saving: set[int] = set()  # of these, by :meth:`save`

    def replayed(self, key: bytes, value: bytes | None) -> None:
        """A stored number."""
        _, number = _KEY.unpack(key)
        self._next = max(self._next, number + 1)
        if value is not None:
            source = msgspec.json.decode(value, type=_Source)
            self._known[number] = source
            self._numbers[source.topic_id, source.partition] = number
        elif (gone := self._known.pop(number, None)) is not None:
            self._numbers.pop((gone.topic_id, gone.partition), None)

    def reserve(self, number: int) -> None:
        """A queue has met this number, which is not to be given again, even if nothing is stored of it any more."""
        self._next = max(self._next, number + 1)

    def add_volatile(self, partition: Partition) -> None:
        """Give a number to a partition that is in no catalog; it is never stored."""
        number, self._next_volatile = self._next_volatile, self._next_volatile + 1
        self._volatile[number] = partition
        self._volatile_numbers[partition] = number

    def remove_volatile(self, partition: Partition) -> None:
        """Such a partition is gone."""
        del self._volatile[self._volatile_numbers.pop(partition)]

    def number_of(self, partition: Partition) -> int:
        """The number of a partition; it gets one now if it has none."""
        if not partition.topic.id:  # it is in no catalog
            return self._volatile_numbers[partition]
        identity = partition.topic.id, partition.index
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = self._next
            self._next += 1
            source = self._known[number] = _Source(partition.topic.name, *identity)
            self.unsaved[number] = _KEY.pack(SOURCE_KIND, number), msgspec.json.encode(source)
        return number

    def save(self, number: int) -> bool:
        """Whether the record of a number is durable; if not it is written now, or is being written."""
        record = self.unsaved.get(number)
        if record is not None and number not in self._saving:
            self._saving.add(number)
            self._topic.write(*record, self, number)
        return record is None

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, int)
        self._saving.discard(token)
        self.unsaved.pop(token, None)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, int)
        self._saving.discard(token)  # whoever needs it next tries again

    def find(self, partition: Partition) -> int | None:
        """The number of a partition, if it has one."""
        return self._numbers.get((partition.topic.id, partition.index))

    def partition(self, number: int) -> Partition | None:
        """The partition of this number; None: it is not there any more."""
        if number >= VOLATILE:
            return self._volatile.get(number)
        source = self._known.get(number)
        topic = None if source is None else self._catalog.topics.get(source.topic)
        if source is None or topic is None or topic.id != source.topic_id:
            return None
        return topic.partitions[source.partition] if source.partition < len(topic.partitions) else None

    def topic_name(self, number: int) -> str:
        """The topic of the partition of this number; empty: it is not known."""
        if number >= VOLATILE:
            found = self._volatile.get(number)
            return "" if found is None else found.topic.name
        source = self._known.get(number)
        return "" if source is None else source.topic

    def gone(self) -> list[int]:
        """The numbers whose partitions are not there any more, but for the last one: it says which is the next."""
        last = max(self._known, default=-1)
        return [number for number in self._known if number != last and self.partition(number) is None]

    def forget(self, number: int) -> None:
        """Nothing refers to this number any more."""
        source = self._known.pop(number, None)
        self.unsaved.pop(number, None)
        if source is not None:
            self._numbers.pop((source.topic_id, source.partition), None)
            self._topic.write(_KEY.pack(SOURCE_KIND, number), None)
