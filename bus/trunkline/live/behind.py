"""Subscribers that are behind: they read the log at their own pace, a chunk at a time.

Who is far behind and wants little is not shown every record: what its filters want is looked up by key
(:mod:`trunkline.sparse`). The others are often many, and in the same place: a chunk is kept for a while, so that they
find it decoded (:mod:`trunkline.live.chunks`).

They wait in a queue. A round serves them in turn until it has looked at so many records; then others go on, who would
else wait while thousands catch up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.filters import key_text
from trunkline.live.chunks import Chunk, Chunks
from trunkline.live.member import GONE, Member, holds
from trunkline.live.subscriber import Delivery
from trunkline.sparse import FAR_BEHIND, Found, is_selective, literal_beginning, look_ahead

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.rounds import Rounds

__all__ = ["Behind"]

logger = logging.getLogger("trunkline.live")

CATCH_UP_BYTES: Final = 64 * 1024
"""Read, decoded and offered at a time to one subscriber that is behind; also what it may hold."""

FILTERS_TOGETHER: Final = 512
NEAR: Final = 100_000
"""So many filters are looked for at a time, of those whose places are within so many offsets: a search may have to walk
through all keys there, and thousands of searches at the same time would leave the broker no processor."""

RECORDS_A_ROUND: Final = 4096
"""Decoded or offered, of one partition: some 20 ms. To be served counts as one, whether there is something or not."""


class Behind:
    """Serves those of one partition that are behind.

    Args:
      deliver: gives a record to a subscriber with the options that match; False if it wants no more for now.
      caught_up: a subscriber has been offered everything below the high watermark.
      given_up: the log cannot be read for a subscriber.
    """

    def __init__(
        self,
        partition: Partition,
        rounds: Rounds,
        spawn: Callable[..., None],
        *,
        deliver: Callable[[Member, Delivery, list[Any]], bool],
        caught_up: Callable[[Member], None],
        given_up: Callable[[Member, Exception], None],
    ) -> None:
        self._partition = partition
        self._rounds = rounds
        self._spawn = spawn
        self._deliver = deliver
        self._caught_up = caught_up
        self._given_up = given_up
        self._queue: deque[Member] = deque()
        self._is_asked = False  # for a round
        self._left = 0  # records of this one
        self._chunks: Chunks[Chunk] = Chunks()
        self._waiting: dict[int, list[Member]] = {}  # for what is being read, by its offset
        self._to_search: list[Member] = []  # who want it looked up what they want
        self._is_searching = False

    def ask(self, member: Member) -> None:
        """Serve a subscriber from the log, in a round to come, until it says stop or has caught up."""
        self._queue.append(member)
        if not self._is_asked:
            self._is_asked = True
            self._rounds.call_soon(self._serve)

    def _serve(self) -> None:
        self._is_asked = False
        self._left = RECORDS_A_ROUND
        for _ in range(len(self._queue)):
            self._left -= 1
            self._catch_up(self._queue.popleft())
            if self._left <= 0:
                break
        if self._queue and not self._is_asked:
            self._is_asked = True
            self._rounds.call_soon(self._serve)
        if not self._queue and not self._waiting:
            self._chunks.clear()

    def _catch_up(self, member: Member) -> None:
        """Offer what was found for a subscriber, and find more; chunks at hand without anything for it are passed."""
        if not member.filters:
            return
        member.fresh_at = GONE
        if not self._offer_leftover(member):
            member.is_reading = False
            return
        assert member.cursor is not None
        if member.cursor >= self._partition.high_watermark:
            member.is_reading = False
            self._caught_up(member)
            return
        if self._should_look_ahead(member):
            self._to_search.append(member)
            self._search_soon()
            return
        while not member.leftover and (chunk := self._chunks.find(member.cursor)) is not None:
            _take(member, chunk)
        if not member.leftover and member.cursor < self._partition.high_watermark:
            self._read_for(member)
        else:
            self.ask(member)

    # -- looking ahead -----------------------------------------------------------------------------

    def _should_look_ahead(self, member: Member) -> bool:
        assert member.cursor is not None
        left = self._partition.high_watermark - member.cursor
        return left > FAR_BEHIND and member.cursor >= member.dense_until and is_selective(member.filters)

    def _search_soon(self) -> None:
        if self._to_search and not self._is_searching:
            self._is_searching = True
            self._spawn(self._search)

    async def _search(self) -> None:
        """Find what some of those want who wait for it, in a worker; go on in a round."""
        together = self._next_together()
        filters = list(dict.fromkeys(wanted for member in together for wanted in member.filters))
        offset = together[0].cursor if together else None
        if offset is None:
            self._is_searching = False
            return
        try:
            found = await look_ahead(self._partition, offset, filters, CATCH_UP_BYTES * len(together), len(together))
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._not_found(together, failure))
        else:
            self._rounds.call_soon(
                lambda: self._take_found(together, Chunk(offset, found.next_offset, found.records), found)
            )

    def _next_together(self) -> list[Member]:
        """The one that has waited longest, and others that are not far ahead of it."""
        waiting = [member for member in self._to_search if member.filters]
        self._to_search = []
        together: list[Member] = []
        room = FILTERS_TOGETHER
        for member in waiting:
            first = together[0].cursor if together else member.cursor
            assert first is not None
            assert member.cursor is not None
            is_near = first <= member.cursor < first + NEAR
            if not together or (is_near and len(member.filters) <= room):
                together.append(member)
                room -= len(member.filters)
            else:
                self._to_search.append(member)
        return together

    def _not_found(self, members: list[Member], error: OSError | TrunklineError) -> None:
        self._is_searching = False
        self._not_read(members, error)
        self._search_soon()

    def _take_found(self, members: list[Member], chunk: Chunk, found: Found) -> None:
        self._is_searching = False
        for member in members:
            if member.filters:
                assert member.cursor is not None
                if member.cursor < chunk.end:
                    _take(member, chunk)
                if found.is_dense:
                    member.dense_until = found.next_offset + FAR_BEHIND
                self.ask(member)
        self._search_soon()

    # -- reading on --------------------------------------------------------------------------------

    def _read_for(self, member: Member) -> None:
        assert member.cursor is not None
        if member.cursor in self._waiting:
            self._waiting[member.cursor].append(member)
            return
        try:
            batches = self._partition.read_nowait(member.cursor, CATCH_UP_BYTES)
        except (OSError, TrunklineError) as error:
            self._not_read([member], error)
            return
        if batches is None:  # the pages are not cached
            self._waiting[member.cursor] = [member]
            self._spawn(self._read, member.cursor)
        else:
            self._take_batches(member.cursor, [member], batches)

    async def _read(self, offset: int) -> None:
        """Read in a worker, for all who wait for it by then; go on in a round."""
        try:
            batches = await self._partition.read(offset, CATCH_UP_BYTES)
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._not_read(self._waiting.pop(offset), failure))
        else:
            self._rounds.call_soon(lambda: self._take_batches(offset, self._waiting.pop(offset), batches))

    def _not_read(self, members: list[Member], error: OSError | TrunklineError) -> None:
        for member in members:
            if isinstance(error, OffsetOutOfRange):
                self._skip_to_start(member)
            else:
                self._given_up(member, error)

    def _take_batches(self, offset: int, members: list[Member], batches: bytes) -> None:
        members = [member for member in members if member.filters]
        if not members:
            return
        assert batches, "a read below the high watermark gives at least one batch"
        chunk = Chunk.decode(self._partition.name, offset, batches)
        self._left -= len(chunk.records)
        self._chunks.put(chunk)
        for member in members:
            _take(member, chunk)
            self.ask(member)

    def _skip_to_start(self, member: Member) -> None:
        if not member.filters:
            return
        assert member.cursor is not None
        start = self._partition.log_start_offset
        if member.cursor >= start:  # it was others who came too late
            self.ask(member)
            return
        missed, member.cursor = start - member.cursor, start
        logger.warning(
            "%s: retention removed %d records before a subscriber had read them", self._partition.name, missed
        )
        try:
            member.subscriber.missed(self._partition, missed)
        except Exception:  # the boundary: one subscriber's bug must not keep the others from their records
            logger.exception("%s: %r failed when it was told of a gap", self._partition.name, member.subscriber)
        self.ask(member)

    def _offer_leftover(self, member: Member) -> bool:
        """Offer what was decoded; False if the subscriber said stop."""
        leftover = member.leftover
        self._left -= len(leftover)
        while leftover:
            record = leftover.pop()
            if member.skip and holds(member.skip, record.offset, record.offset + 1):
                continue
            options = member.options(record.key, record.offset)
            if not options:
                continue
            delivery = Delivery(record, key_text(record.key, "amqp") or "", self._partition)
            if not self._deliver(member, delivery, options):
                return False
        return True


def _take(member: Member, chunk: Chunk) -> None:
    """Let a subscriber go on behind a chunk, with what may be wanted of it as what is to be offered."""
    assert member.cursor is not None
    beginnings = [literal_beginning(pattern, syntax) for pattern, syntax in member.filters]
    member.leftover = chunk.last_first(beginnings, member.cursor)
    member.cursor = chunk.end
