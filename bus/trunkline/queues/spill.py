"""Copying entries out of the way of retention, so that a forgotten queue costs its own records and not the log.

Retention may not remove a record that is live in a queue. But one record that nobody settles would keep a segment,
and all behind it, for ever. So before retention removes what lies below an offset it asks here. Where the live bytes
are less than a tenth of what is to go, or it is older than the queue's ``spill_after_ms``, the live records are copied
to the queue's home topic, each with the header ``trunkline.spilled`` (:mod:`trunkline.queues.marks`), and
the entries are made to point there: same sequence, same state. Otherwise retention waits.

The order is copy, durable; swap, in memory; the delta that tells of it, durable; only then may retention go on::

    crash after ...   leaves
    copy              the entry at its old place. The copy is met when the home topic is looked at again after the
                      restart, and swapped in then; else it is passed over, like any copy that is not the entry's place
    swap              the same: it was in memory only
    delta             the entry at its new place, and the old records are still there
    delete            the entry at its new place

In the home topic itself entries are not moved for their age: what keeps its segments is this queue's own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from trunkline.errors import Overloaded, TrunklineError
from trunkline.queues.arrivals import SPILLED
from trunkline.queues.gathering import gather, gather_waiting, readable
from trunkline.queues.index import Lease
from trunkline.queues.leaving import Copying
from trunkline.records import encode_headers

if TYPE_CHECKING:
    from trunkline.queues.feeds import SourceFeed
    from trunkline.queues.remembered import RememberedQueue

__all__ = ["make_room"]

logger = logging.getLogger("trunkline.queues")

LIVE_PART: Final = 0.1
"""Of the bytes that are to go: with less than this alive, those are copied."""

SPILLED_RECORDS: Final = 1000
"""Copied at a time."""

MOST_SPILLED: Final = 100_000
"""Entries that one queue has copied for one call; the rest waits for the next."""


async def make_room(feed: SourceFeed, offset: int) -> int:
    """How far retention may go; see :meth:`trunkline.queues.attachments.Attachments.make_room`."""
    size_bytes, newest_ms = await trio.to_thread.run_sync(_measure, feed, offset)
    live: dict[RememberedQueue, list[Lease]] = {}
    allowed = offset
    for queue in tuple(feed.members):
        if feed.members[queue].needed_from < offset:
            allowed = min(allowed, feed.members[queue].needed_from)  # what it has not looked at has to stay
        live[queue] = await _live_below(queue, feed, allowed)
    live_bytes = sum(lease.size_bytes for leases in live.values() for lease in leases)
    age_ms = feed.context.now_ms() - newest_ms if newest_ms >= 0 else 0
    for queue, leases in live.items():
        if not leases:
            continue
        spill_after_ms = queue.config.spill_after_ms
        is_old = 0 <= spill_after_ms < age_ms and feed.partition.topic.name != queue.name
        if live_bytes < size_bytes * LIVE_PART or is_old:
            try:
                await _spill(queue, leases)
            except (OSError, TrunklineError) as error:
                logger.error("queue %s: records cannot be copied out of the way: %s", queue.name, error)
        if queue in feed.members:
            allowed = min(allowed, queue.needed_from(feed))
            feed.partition.readers[queue.reader_name] = queue.needed_from(feed)
    return allowed


def _measure(feed: SourceFeed, offset: int) -> tuple[int, int]:
    """Bytes and newest timestamp of what is to go. Blocking."""
    size_bytes, newest_ms = 0, -1
    for chunk in feed.partition.log.chunks():
        if chunk.end_offset > offset:
            break
        size_bytes += chunk.size_bytes
        newest_ms = max(newest_ms, chunk.max_timestamp)
    return size_bytes, newest_ms


async def _live_below(queue: RememberedQueue, feed: SourceFeed, offset: int) -> list[Lease]:
    """The queue's entries that are stored there below an offset."""
    while True:
        found, missing = queue.state.live_below(feed.source, offset, MOST_SPILLED)
        if missing is None:
            return found
        await queue.load_chunk(missing)


class _Spilled(NamedTuple):
    """An entry, and the source that its copy is in."""

    entry: Lease
    source: int


class _Spilling(Copying):
    """Swaps an entry as soon as its copy is durable, before anybody is told of the copy as a record."""

    __slots__ = ("_queue",)

    def __init__(self, queue: RememberedQueue) -> None:
        super().__init__()
        self._queue = queue

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, _Spilled)
        self._queue.state.move_entry(token.entry, token.source, offset)
        super().append_done(token, offset)


async def _spill(queue: RememberedQueue, leases: list[Lease]) -> None:
    """Copy entries to the home topic. Raises what stopped it; what was copied by then is swapped."""
    context = queue.context
    await context.marks.wait_ready()
    home = await queue.ensure_home()
    for start in range(0, len(leases), SPILLED_RECORDS):
        copying = _Spilling(queue)
        pieces = await gather_waiting(gather(leases[start : start + SPILLED_RECORDS], context.cache, context.sources))
        if any(partition.is_held_back for partition in home.partitions):  # nobody could read the copies yet
            raise Overloaded(f"topic {home.name}: a transaction is open there; copies wait until it has ended")
        for piece, _, records in readable(pieces, queue.name):  # who gets the others next finds out
            for record in records:
                sequence = piece.sequence + record.offset - piece.offset
                headers = [header for header in record.headers if header[0] != SPILLED]
                headers.append((SPILLED, context.marks.make(queue.id, sequence, queue.name)))
                partition = home.partition_for(record.key)
                entry = Lease(sequence, 1, piece.source, record.offset, 0)
                copying.expect()
                partition.stage_record(
                    record.timestamp,
                    record.key,
                    record.value,
                    encode_headers(headers),
                    copying,
                    _Spilled(entry, context.sources.number_of(partition)),
                )
        await copying.wait()
        queue.changed()
        if copying.error is not None:
            raise copying.error
    await queue.wait_durable()
    logger.info("queue %s: %d entries were copied to its home topic", queue.name, sum(one.count for one in leases))
