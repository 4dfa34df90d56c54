"""Reading in process: records of several partitions as one async iterator.

Partitions are read in turn, a chunk each, so a busy one cannot starve the others. When all are read
to the high watermark the iterator waits for any of them to move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import trio

from trunkline.errors import CorruptBatch, LogStopped, TrunklineError
from trunkline.partition import Partition
from trunkline.records import ConsumerRecord, decode_all, iter_headers, read_header

__all__ = ["Start", "read_records"]

Position = Literal["earliest", "latest"] | int | datetime
Start = Position | Mapping[int, Position]

_CHUNK_BYTES: Final = 256 * 1024


class _Arrival:
    """Wakes the reader when any of its partitions has more; a tail listener."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: TrunklineError | None = None
        self.is_closed = False

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        self.event.set()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self.is_closed = True
        self.error = error
        self.event.set()


async def resolve_start(partition: Partition, position: Position) -> int:
    """The offset that a start position means in a partition now."""
    if position == "earliest":
        return partition.log_start_offset
    if position == "latest":
        return partition.high_watermark
    if isinstance(position, datetime):
        found = await partition.find_timestamp(round(position.timestamp() * 1000))
        return partition.high_watermark if found is None else found
    return position


async def read_records(partitions: Sequence[Partition], start: Start, *, follow: bool) -> AsyncIterator[ConsumerRecord]:
    """See :meth:`trunkline.broker.Broker.read`."""
    positions = start if isinstance(start, Mapping) else dict.fromkeys((p.index for p in partitions), start)
    cursors = {p: await resolve_start(p, positions.get(p.index, "earliest")) for p in partitions}
    ends = {p: p.high_watermark for p in partitions}
    arrival = _Arrival()
    for partition in partitions:
        partition.add_listener(arrival)
    try:
        while True:
            if arrival.is_closed and not isinstance(arrival.error, LogStopped):  # the log may be closed already
                if arrival.error is not None:
                    raise arrival.error
                return
            arrival.event = trio.Event()
            found_any = False
            for partition in partitions:
                if not follow and cursors[partition] >= ends[partition]:
                    continue
                batches = await partition.read(cursors[partition], _CHUNK_BYTES)
                if not batches:
                    continue
                found_any = True
                for position, header in iter_headers(batches):
                    batch = batches[position : position + header.size_bytes]
                    for record in _records(partition, batch, cursors[partition]):
                        if follow or record.offset < ends[partition]:
                            yield record
                    cursors[partition] = header.next_offset
            if found_any:
                continue
            if arrival.error is not None:
                raise arrival.error
            if not follow or arrival.is_closed:
                return
            await arrival.event.wait()
    finally:
        for partition in partitions:
            partition.remove_listener(arrival)


def _records(partition: Partition, batch: bytes, from_offset: int) -> list[ConsumerRecord]:
    try:
        decoded = decode_all(batch, from_offset=from_offset)
    except TrunklineError as error:  # a client's batch with an intact CRC around nonsense
        following = read_header(batch).next_offset
        raise CorruptBatch(
            f"{partition.name}: the batch at offset {from_offset} cannot be read ({error}); go on at {following}",
            next_offset=following,
        ) from error
    return [
        ConsumerRecord(
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            record.headers,
            topic=partition.topic.name,
            partition=partition.index,
        )
        for record in decoded
    ]
