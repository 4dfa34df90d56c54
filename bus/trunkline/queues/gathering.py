"""Finding the records of leases: from the cache where they are there, from the log where they are not.

:func:`gather` decides and does no I/O: it is a generator that yields a :class:`Needed` when it wants a piece of the
log, and returns pieces in the end. :func:`gather_nowait` serves it from what can be read without waiting; where it
cannot, :func:`gather_waiting` goes on with the same generator in a task.

A lease may lie in several batches, and some of its records may be gone: removed by ``delete_records`` or with their
topic, or compacted away. Such pieces have no content.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import trio

from trunkline.errors import OffsetOutOfRange, TrunklineError, UnknownTopic
from trunkline.queues.blocks import READ_BYTES, BatchCache, Block, Content
from trunkline.queues.index import Lease
from trunkline.queues.sources import SourceTable
from trunkline.records import Record, read_header

if TYPE_CHECKING:
    from trunkline.partition import Partition

__all__ = [
    "Gathering",
    "Needed",
    "Piece",
    "copied",
    "gather",
    "gather_cached",
    "gather_nowait",
    "gather_waiting",
    "readable",
]

logger = logging.getLogger("trunkline.queues")


class Needed(NamedTuple):
    """Batches from the one with this offset on."""

    partition: Partition
    offset: int


class Piece(NamedTuple):
    """Consecutive records of one batch, or ones that are gone (``block`` is None) from where they should be."""

    sequence: int
    length: int
    block: Block | None
    source: int
    offset: int


Gathering = Generator[Needed, bytes | None, list[Piece]]
"""Is sent what was read from the offset on; None or nothing: the log has nothing there any more."""


def gather_cached(leases: Iterable[Lease], cache: BatchCache, sources: SourceTable) -> list[Block] | None:
    """Blocks for ``leases`` if each lies in one batch that is in the cache; None otherwise."""
    blocks: list[Block] = []
    find = cache.find
    for lease in leases:
        source, offset, count = lease.source, lease.offset, lease.count
        content = find(source, offset)
        if content is None or content.count(offset, offset + count) != count:
            return None
        partition = sources.partition(source)
        if partition is None:
            return None
        blocks.append(Block(lease.sequence, count, lease.deliveries, partition, offset, content))
    return blocks


def copied(lease: Lease) -> Lease:
    """What and where it is, apart from the state, which changes its own lease as parts of it are settled."""
    return Lease(lease.sequence, lease.count, lease.source, lease.offset, lease.size_bytes, lease.deliveries)


def gather(leases: Iterable[Lease], cache: BatchCache, sources: SourceTable) -> Gathering:
    """Find the records of ``leases``; see the module's docstring."""
    pieces: list[Piece] = []
    for lease in [copied(lease) for lease in leases]:
        source, offset, sequence = lease.source, lease.offset, lease.sequence
        end = offset + lease.count
        partition = sources.partition(source)
        if partition is None:
            pieces.append(Piece(sequence, lease.count, None, source, offset))
            continue
        while offset < end:
            content = cache.find(source, offset)
            stop = end
            if content is None:
                data = yield Needed(partition, offset)
                if data:
                    cache.add_read(source, data)
                    content = cache.find(source, offset)
                    stop = max(read_header(data).base_offset, offset + 1)
                elif offset < partition.log_start_offset:
                    stop = partition.log_start_offset
            stop = min(end, stop if content is None else content.end_offset)
            if content is None:
                pieces.append(Piece(sequence, stop - offset, None, source, offset))
            elif (count := content.count(offset, stop)) == stop - offset:
                block = Block(sequence, count, lease.deliveries, partition, offset, content)
                pieces.append(Piece(sequence, count, block, source, offset))
            else:
                pieces += _with_gaps(content, lease, partition, offset, stop)
            sequence += stop - offset
            offset = stop
    return pieces


def _with_gaps(content: Content, lease: Lease, partition: Partition, offset: int, stop: int) -> Iterable[Piece]:
    """The records of a batch from which compaction has taken some."""
    left = {record.offset for record in content.records(offset, stop)}
    first = offset
    while first < stop:
        is_left = first in left
        end = first + 1
        while end < stop and (end in left) == is_left:
            end += 1
        sequence = lease.sequence + first - lease.offset
        block = Block(sequence, end - first, lease.deliveries, partition, first, content) if is_left else None
        yield Piece(sequence, end - first, block, lease.source, first)
        first = end


def gather_nowait(gathering: Gathering) -> tuple[list[Piece] | None, Needed | None]:
    """Go on with what can be read without waiting: the pieces, or what it waits for."""
    data: bytes | None = None
    try:
        needed = next(gathering)
        while True:
            try:
                data = needed.partition.read_nowait(needed.offset, READ_BYTES)
                if data is None:
                    return None, needed
            except (OffsetOutOfRange, UnknownTopic):
                data = None
            needed = gathering.send(data)
    except StopIteration as done:
        return done.value, None


def readable(pieces: Iterable[Piece], queue: str) -> Iterator[tuple[Piece, Block, Sequence[Record]]]:
    """The pieces that are there, with their records. A batch that cannot be read is passed over, and that is logged."""
    for piece in pieces:
        if piece.block is None:
            continue
        try:
            records = piece.block.records()
        except TrunklineError as error:  # a client's batch with an intact CRC around nonsense
            logger.error("queue %s: %r cannot be read and stays where it is: %s", queue, piece.block, error)
            continue
        yield piece, piece.block, records


async def gather_waiting(gathering: Gathering, needed: Needed | None = None) -> list[Piece]:
    """Go on with reading in a worker. Raises what reading raises. Cancellation: nothing has changed."""
    try:
        if needed is None:
            needed = next(gathering)
        while True:
            data: bytes | None = None
            try:
                data = await needed.partition.read(needed.offset, READ_BYTES)
            except OffsetOutOfRange:
                await trio.lowlevel.checkpoint()
            except UnknownTopic:  # deleted meanwhile
                await trio.lowlevel.checkpoint()
            needed = gathering.send(data)
    except StopIteration as done:
        pieces: list[Piece] = done.value
        return pieces
