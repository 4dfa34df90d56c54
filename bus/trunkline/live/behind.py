"""Subscribers that are behind: they read the log at their own pace, a chunk in a round.

Who is far behind and wants little is not shown every record: what its filters want is looked up by key
(:mod:`trunkline.sparse`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.filters import key_text
from trunkline.live.member import GONE, Member, holds
from trunkline.live.subscriber import Delivery
from trunkline.records import Record, decode_all, iter_headers
from trunkline.sparse import FAR_BEHIND, Found, is_selective, look_ahead

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.rounds import Rounds

__all__ = ["Behind", "decode"]

logger = logging.getLogger("trunkline.live")

T = TypeVar("T")

CATCH_UP_BYTES: Final = 64 * 1024
"""Read, decoded and offered at a time to one subscriber that is behind; also what it may hold."""


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

    def catch_up(self, member: Member) -> None:
        """Offer one chunk of the log to a subscriber that is behind; more in the next round."""
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
            self._spawn(self._go_on_with, self._find, member, self._take_found)
            return
        try:
            batches = self._partition.read_nowait(member.cursor, CATCH_UP_BYTES)
        except OffsetOutOfRange:
            self._skip_to_start(member)
            return
        except (OSError, TrunklineError) as error:
            self._given_up(member, error)
            return
        if batches is None:  # the pages are not cached
            self._spawn(self._go_on_with, self._read, member, self._take_chunk)
        else:
            self._take_chunk(member, batches)

    def _should_look_ahead(self, member: Member) -> bool:
        assert member.cursor is not None
        left = self._partition.high_watermark - member.cursor
        return left > FAR_BEHIND and member.cursor >= member.dense_until and is_selective(member.filters)

    def _find(self, member: Member) -> Awaitable[Found]:
        """Find what it wants by keys."""
        assert member.cursor is not None
        return look_ahead(self._partition, member.cursor, [*member.filters], CATCH_UP_BYTES)

    def _read(self, member: Member) -> Awaitable[bytes]:
        assert member.cursor is not None
        return self._partition.read(member.cursor, CATCH_UP_BYTES)

    async def _go_on_with(
        self, read: Callable[[Member], Awaitable[T]], member: Member, go_on: Callable[[Member, T], None]
    ) -> None:
        """Go on in a round, with what is read in a worker."""
        try:
            found = await read(member)
        except OffsetOutOfRange:
            self._rounds.call_soon(lambda: self._skip_to_start(member))
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._given_up(member, failure))
        else:
            self._rounds.call_soon(lambda: go_on(member, found))

    def _take_found(self, member: Member, found: Found) -> None:
        if not member.filters:
            return
        member.leftover = found.records[::-1]
        member.cursor = found.next_offset
        if found.is_dense:
            member.dense_until = found.next_offset + FAR_BEHIND
        self.catch_up(member)

    def _skip_to_start(self, member: Member) -> None:
        if not member.filters:
            return
        assert member.cursor is not None
        start = self._partition.log_start_offset
        missed, member.cursor = start - member.cursor, start
        logger.warning(
            "%s: retention removed %d records before a subscriber had read them", self._partition.name, missed
        )
        try:
            member.subscriber.missed(self._partition, missed)
        except Exception:  # the boundary: one subscriber's bug must not keep the others from their records
            logger.exception("%s: %r failed when it was told of a gap", self._partition.name, member.subscriber)
        self._rounds.call_soon(lambda: self.catch_up(member))

    def _take_chunk(self, member: Member, batches: bytes) -> None:
        if not member.filters:
            return
        assert member.cursor is not None
        headers = [header for _, header in iter_headers(batches)]
        assert headers, "a read below the high watermark gives at least one batch"
        try:
            records = decode_all(batches, from_offset=member.cursor)
        except TrunklineError:  # one batch is at fault, or all are too much at once: take the first alone
            del headers[1:]
            records = decode(self._partition, batches[: headers[0].size_bytes], member.cursor)
        member.leftover = records[::-1]
        assert headers[-1].next_offset > member.cursor
        member.cursor = headers[-1].next_offset
        self._rounds.call_soon(lambda: self.catch_up(member))

    def _offer_leftover(self, member: Member) -> bool:
        """Offer what was decoded; False if the subscriber said stop."""
        leftover = member.leftover
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


def decode(partition: Partition, batches: bytes, from_offset: int) -> list[Record]:
    """The records of batches from an offset on; none, and a line in the log, if they cannot be read."""
    try:
        return decode_all(batches, from_offset=from_offset)
    except TrunklineError as error:  # a client's batch with an intact CRC around nonsense
        logger.warning("%s: records from offset %d cannot be delivered: %s", partition.name, from_offset, error)
        return []
