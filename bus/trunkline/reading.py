"""Reading in process: records of several partitions as one async iterator.

Partitions are read in turn, a chunk each, so a busy one cannot starve the others; each chunk is a checkpoint,
so a reader of what is cached cannot starve the broker. When all are read to the high watermark the
iterator waits for any of them to move. It holds nothing between two records, so it can be left at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import trio

from trunkline.errors import BrokerClosing, CorruptBatch, TrunklineError
from trunkline.partition import Partition
from trunkline.records import ConsumerRecord, decode_all, iter_headers, read_header

__all__ = ["RecordReader", "Start"]

Position = Literal["earliest", "latest"] | int | datetime
Start = Position | Mapping[int, Position]

_CHUNK_BYTES: Final = 256 * 1024


class _Arrival:
    """Wakes the reader when any of its partitions has more, or is over; a tail listener."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        self.event.set()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self.event.set()


class RecordReader(AsyncIterator[ConsumerRecord]):
    """See :meth:`trunkline.broker.Broker.read`. Positions other than a datetime mean what they mean when it is made."""

    def __init__(self, partitions: Sequence[Partition], start: Start, *, follow: bool) -> None:
        self._follow = follow
        self._turn = deque(partitions)
        self._ends = {partition: partition.high_watermark for partition in partitions}
        self._cursors: dict[Partition, int] = {}
        self._times: dict[Partition, datetime] = {}
        self._batches: deque[bytes] = deque()  # read, from the last in turn, and not decoded yet
        self._records: list[ConsumerRecord] = []  # decoded, last first
        for partition in partitions:
            position = start.get(partition.index, "earliest") if isinstance(start, Mapping) else start
            if isinstance(position, datetime):
                self._times[partition] = position
            elif position == "earliest":
                self._cursors[partition] = partition.log_start_offset
            else:
                self._cursors[partition] = partition.high_watermark if position == "latest" else position

    def __aiter__(self) -> RecordReader:
        return self

    async def __anext__(self) -> ConsumerRecord:
        while not self._records:
            if self._batches:
                self._decode_next()
            elif not await self._read_next():
                raise StopAsyncIteration
        return self._records.pop()

    def _decode_next(self) -> None:
        partition, batch = self._turn[-1], self._batches[0]
        try:
            records = decode_all(batch, from_offset=self._cursors[partition])
        except TrunklineError as error:  # a client's batch with an intact CRC around nonsense
            offset, following = self._cursors[partition], read_header(batch).next_offset
            raise CorruptBatch(
                f"{partition.name}: the batch at offset {offset} cannot be read ({error}); go on at {following}",
                next_offset=following,
            ) from error
        self._batches.popleft()
        last = None if self._follow else self._ends[partition]
        following = read_header(batch).next_offset
        self._cursors[partition] = following if last is None else min(following, last)  # a gap may reach past the end
        self._records = [
            ConsumerRecord(
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                record.headers,
                topic=partition.topic.name,
                partition=partition.index,
            )
            for record in reversed(records)
            if last is None or record.offset < last
        ]

    async def _read_next(self) -> bool:
        """Read a chunk of the next partition that has one; wait for one if it follows. False: it is over."""
        await trio.lowlevel.checkpoint()
        for partition, time in self._times.items():
            found = await partition.find_timestamp(round(time.timestamp() * 1000))
            self._cursors[partition] = self._ends[partition] if found is None else found
        self._times.clear()
        for partition in tuple(self._turn):
            self._turn.rotate(-1)
            end = partition.high_watermark if self._follow else self._ends[partition]
            cursor = self._cursors[partition]
            if cursor < end or cursor > partition.acknowledged_offset:
                data = await partition.read(self._cursors[partition], _CHUNK_BYTES)
                self._batches.extend(
                    data[position : position + header.size_bytes] for position, header in iter_headers(data)
                )
                return True
        return self._follow and await self._wait()

    async def _wait(self) -> bool:
        """Wait until a partition moves; False if all there is has been read and no more can come."""
        for partition in self._turn:
            if partition.refusal is not None and partition.is_idle:
                if isinstance(partition.refusal, BrokerClosing):
                    return False
                raise partition.refusal
        arrival = _Arrival()
        for partition in self._turn:
            partition.add_listener(arrival)
        try:
            await arrival.event.wait()
        finally:
            for partition in self._turn:
                partition.remove_listener(arrival)
        return True
