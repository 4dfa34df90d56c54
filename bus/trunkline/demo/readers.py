"""Readers: programs that consume the log with the native client, and note what they got.

A live reader follows the log while devices publish. When the broker dies its client connects again and
goes on at the offset it had reached, so the reader sees neither a gap nor a record twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from trunkline.demo.readings import ReadingId, reading_id

if TYPE_CHECKING:
    from trunkline.records import ConsumerRecord
    from trunkline_native.client import Bus

__all__ = ["LiveReader", "Notes", "Offsets", "end_offsets", "replay"]

Offsets = Mapping[int, int]
"""An offset for each partition."""


class Notes:
    """What one reader got.

    Attributes:
      readings: how often each reading came; more than once: it is in the log more than once.
      records: how many records came.
      out_of_order: records whose offset was not above the one before in their partition.
      cursors: the next offset to read, by partition.
    """

    def __init__(self, start: Offsets) -> None:
        self.readings: Counter[ReadingId] = Counter()
        self.records = 0
        self.out_of_order = 0
        self.cursors = dict(start)

    def add(self, record: ConsumerRecord) -> None:
        if record.offset < self.cursors[record.partition]:
            self.out_of_order += 1
        self.cursors[record.partition] = record.offset + 1
        found = reading_id(record.key, record.value)
        if found is not None:
            self.readings[found] += 1
            self.records += 1

    def has_reached(self, ends: Offsets) -> bool:
        return all(self.cursors[partition] >= end for partition, end in ends.items())


class LiveReader:
    """Follows a topic from given offsets until it is told where to stop."""

    def __init__(self, topic: str, start: Offsets) -> None:
        self.notes = Notes(start)
        self._topic = topic
        self._start = dict(start)
        self._ends: Offsets | None = None
        self._has_moved = trio.Event()

    async def run(self, url: str) -> None:
        """Read, through restarts of the broker, until cancelled."""
        from trunkline import connect

        async with connect(url) as bus:
            async for record in bus.tail(self._topic, start=self._start):
                self.notes.add(record)
                if self._ends is not None:
                    self._has_moved.set()

    async def wait_reached(self, ends: Offsets) -> None:
        """Wait until everything below ``ends`` has been read."""
        self._ends = ends
        while not self.notes.has_reached(ends):
            self._has_moved = trio.Event()
            await self._has_moved.wait()


async def replay(bus: Bus, topic: str, start: Offsets) -> Notes:
    """Read everything from ``start`` to the end as it is now."""
    notes = Notes(start)
    async for record in bus.read(topic, start=dict(start)):
        notes.add(record)
    return notes


async def end_offsets(bus: Bus, topic: str) -> Offsets:
    """The offset that the next record of each partition will get."""
    return {partition: held.latest for partition, held in (await bus.offsets(topic)).items()}
