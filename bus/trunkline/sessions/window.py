"""The window: deliveries that were given out and are not finished, in the order they were given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from trunkline.errors import LocalProtocolError
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.sessions.stored import Progress

__all__ = ["Unfinished", "Window", "unfinished_of"]

logger = logging.getLogger("trunkline.sessions")


class Unfinished(NamedTuple):
    """One delivery.

    Attributes:
      id: chosen by whoever delivers; its own for as long as it is unfinished.
      partition, offset: the record; the offset is negative once its topic was deleted.
      state: what the protocol must remember of it, a small number.
    """

    id: int
    partition: TopicPartition
    offset: int
    state: int


class Window:
    """Unfinished deliveries by id."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[Unfinished] = ()) -> None:
        self._entries = {entry.id: entry for entry in entries}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Unfinished]:
        return iter(self._entries.values())

    def get(self, id: int) -> Unfinished | None:
        return self._entries.get(id)

    def track(self, id: int, partition: TopicPartition, offset: int, state: int) -> None:
        """Add a delivery. Raises LocalProtocolError if its id is in use."""
        if id in self._entries:
            raise LocalProtocolError(f"delivery id {id} is in use; finish that delivery first")
        self._entries[id] = Unfinished(id, partition, offset, state)

    def set_state(self, id: int, state: int) -> bool:
        """Change what is remembered; its place stays. False: there is no such delivery."""
        entry = self._entries.get(id)
        if entry is None:
            return False
        self._entries[id] = entry._replace(state=state)
        return True

    def finish(self, id: int) -> bool:
        """Forget a delivery; False if there is none of this id."""
        return self._entries.pop(id, None) is not None

    def lose(self, topic: str) -> None:
        """The topic was deleted: the deliveries stay, without their records."""
        for entry in [entry for entry in self._entries.values() if entry.partition.topic == topic]:
            self._entries[entry.id] = entry._replace(offset=-1)

    def lowest(self) -> dict[TopicPartition, int]:
        """The lowest unfinished offset of each partition that has one."""
        found: dict[TopicPartition, int] = {}
        for entry in self._entries.values():
            known = found.get(entry.partition)
            if entry.offset >= 0 and (known is None or entry.offset < known):
                found[entry.partition] = entry.offset
        return found


def unfinished_of(
    session: str, progress: Progress, partition: Callable[[str, int], Partition | None]
) -> list[Unfinished]:
    """What is stored of a window, as the partitions are now."""
    entries = []
    for id, kind, number, index, offset in progress.unfinished:
        stored = progress.topics[number]
        found = partition(stored.topic, index)
        if found is None or found.topic.id != stored.topic_id:
            offset = -1
        elif offset >= found.high_watermark:
            logger.warning("session %s: %s lost offset %d in a crash", session, found.name, offset)
            continue  # another record will have this offset
        entries.append(Unfinished(id, TopicPartition(stored.topic, index), offset, kind))
    return entries
