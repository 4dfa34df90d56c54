"""Live delivery: each committed batch is decoded once, and one index says who wants each record.

A :class:`LiveTail` follows one partition for all subscribers of the broker. While a subscriber keeps
up it is *live*: records go to it in the round that commits them. When its ``deliver`` says "stop" (its
window or its socket is full) it is *behind*: the tail remembers the next offset for it and nothing
else. When it says :meth:`LiveTail.resume` it reads the log from there at its own pace, and is live
again once it has reached the high watermark. The offsets make that free of gaps and doubles: a live
subscriber has been offered everything below the high watermark, a lagging one everything below its cursor.

So a slow subscriber costs a cursor and at most one decoded chunk, never a queue. A filter added while
behind gets nothing older than itself: each filter has a start offset. A subscriber may also ask to begin in the
past; then it is behind from the first moment.

**Early.** A door may offer a record that is staged and not committed yet (:meth:`LiveTail.offer_early`), if it promises
nothing about it: an MQTT message with QoS 0 need not wait for the disk. It goes to those who are live then, and is not
offered again when it is committed:

* Who was behind then reads it from the log.
* Who becomes live, or subscribes, while early records are not committed yet is *late*: it is offered nothing early,
  and everything when it is committed, until no early record is left. So is, always, who does not take them early.
* Who stops while early records are not committed has taken them, and skips them when it reads the log.

Who is far behind and wants little is not shown every record: what its filters want is looked up by key
(:mod:`trunkline.sparse`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

import msgspec

from trunkline.errors import CorruptLog, LocalProtocolError, OffsetOutOfRange, TrunklineError
from trunkline.few import Few
from trunkline.filters import Syntax, key_text, matches
from trunkline.partition import Partition
from trunkline.records import Record, decode_all, iter_headers
from trunkline.rounds import Rounds
from trunkline.sparse import FAR_BEHIND, Found, is_selective, look_ahead
from trunkline.subscriptions import Match, SubscriptionIndex

__all__ = ["Delivery", "LiveStatistics", "LiveSubscriber", "LiveTail"]

logger = logging.getLogger("trunkline.live")

CATCH_UP_BYTES: Final = 64 * 1024
"""Read, decoded and offered at a time to one subscriber that is behind; also what it may hold."""


MAX_EARLY_RANGES: Final = 64
"""They are looked through for each record that is committed. A transaction may keep readers waiting for minutes."""


class Delivery:
    """A record on its way to subscribers.

    Attributes:
      record: as stored.
      text: its key as text, which is what filters are matched against; empty where it has none that is text.
      partition: where it comes from.
      cache: forms of it that are the same for many subscribers; the door's own, empty at first.
    """

    __slots__ = ("cache", "partition", "record", "text")

    def __init__(self, record: Record, text: str, partition: Partition) -> None:
        self.record = record
        self.text = text
        self.partition = partition
        self.cache: dict[Any, Any] = {}


class LiveSubscriber(ABC):
    """Somebody with filters. Must be hashable (by identity is best). If it raises, it is removed."""

    __slots__ = ()

    takes_early: ClassVar[bool] = False
    """Whether it wants records that are not committed yet, and may never be."""

    @abstractmethod
    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        """Take a record; ``options`` are those of its filters that matched.

        Returns False for "taken, but no more until I say ``resume``".
        """

    def missed(self, partition: Partition, records: int) -> None:  # noqa: B027 - for those who report it
        """Retention removed so many offsets before this subscriber had read them."""

    def live_closed(self, error: TrunklineError | None) -> None:  # noqa: B027 - for those who report it
        """The partition is closed; nothing more will come from it."""


Ranges = Sequence[tuple[int, int]]
"""Of offsets, each from the first to behind the last."""

_GONE: Final = -1
_NO_RECORDS: Final[list[Record]] = []


class _Member:
    """A subscriber's place in one partition. ``cursor`` is None while it is live, _GONE once it was removed."""

    __slots__ = ("cursor", "dense_until", "filters", "fresh_at", "is_reading", "leftover", "skip", "subscriber")

    def __init__(self, subscriber: LiveSubscriber, fresh_at: int) -> None:
        self.subscriber = subscriber
        self.fresh_at = fresh_at  # the high watermark when it came; while it is this, nothing was offered live
        self.filters: Few[tuple[str, Syntax], tuple[Any, int]] = Few()  # -> options, start offset
        self.cursor: int | None = None
        self.dense_until = 0  # below this offset it is not worth looking for what it wants
        self.leftover = _NO_RECORDS  # decoded, not offered yet; last first; replaced, never filled
        self.skip: Ranges = ()  # ranges of offsets that it was offered early before it stopped
        self.is_reading = False  # it is being served from the log, or will be in the next round

    def options(self, key: bytes | None, offset: int) -> list[Any]:
        return [
            options
            for (filter, syntax), (options, start) in self.filters.items()
            if offset >= start and (text := key_text(key, syntax)) is not None and matches(filter, text, syntax)
        ]


class LiveStatistics(msgspec.Struct, frozen=True):
    """A snapshot."""

    subscribers: int
    filters: int
    behind: int


def _holds(ranges: Ranges, start: int, end: int) -> bool:
    """Whether one of these ranges of offsets has all of ``[start, end)``; they are few."""
    return any(first <= start and end <= last for first, last in ranges)


class LiveTail:
    """All subscribers of one partition; a listener of it. Belongs to the broker's thread."""

    def __init__(self, partition: Partition, rounds: Rounds, spawn: Callable[..., None]) -> None:
        self.partition = partition
        self._rounds = rounds
        self._spawn = spawn
        self._indexes: dict[Syntax, SubscriptionIndex[_Member, Any]] = {}
        self._members: dict[LiveSubscriber, _Member] = {}
        self._early: list[tuple[int, int]] = []  # ranges of offsets that were offered and are not committed
        self._late: set[_Member] = set()
        self._online = 0  # how many have no cursor; what is committed is for them
        self._patient = 0  # how many do not take early ones
        partition.add_listener(self)

    def subscribe(
        self,
        subscriber: LiveSubscriber,
        filter: str,
        options: Any,
        *,
        start: int | None = None,
        syntax: Syntax = "mqtt",
    ) -> bool:
        """Offer ``subscriber`` what matches; True if the filter is new to it.

        The same filter again replaces its options and starts nothing anew.

        Args:
          start: the first offset that is wanted; None: what is committed from now on. An earlier one puts a new
            subscriber behind, at the lowest start that it names before the next round.
          syntax: of the filter, see :mod:`trunkline.filters`.

        Raises ValueError for a bad filter, LocalProtocolError for a start in the past of one that is served already.
        """
        now = self.partition.high_watermark
        wanted = now if start is None else start
        member = self._members.get(subscriber)
        if member is None:
            member = _Member(subscriber, fresh_at=now)
        elif wanted < now != member.fresh_at:
            raise LocalProtocolError(f"{self.partition.name}: a subscriber that is served cannot start at {wanted}")
        is_new = self._index(syntax).add(filter, member, options)
        if subscriber not in self._members:
            self._members[subscriber] = member
            self._patient += not subscriber.takes_early
            self._online += 1
            self._begin(member)
        member.filters[filter, syntax] = (options, wanted if is_new else member.filters[filter, syntax][1])
        if wanted < now:
            self._online -= member.cursor is None
            member.cursor = wanted if member.cursor is None else min(member.cursor, wanted)
            self.resume(subscriber)
        return is_new

    def _index(self, syntax: Syntax) -> SubscriptionIndex[_Member, Any]:
        index = self._indexes.get(syntax)
        if index is None:
            index = self._indexes[syntax] = SubscriptionIndex(syntax)
        return index

    def unsubscribe(self, subscriber: LiveSubscriber, filter: str, *, syntax: Syntax = "mqtt") -> bool:
        """Take a filter away; False if the subscriber does not have it."""
        member = self._members.get(subscriber)
        if member is None or member.filters.pop((filter, syntax), None) is None:
            return False
        self._index(syntax).remove(filter, member)
        if not member.filters:
            self._forget(subscriber)
        return True

    def remove(self, subscriber: LiveSubscriber) -> None:
        """Take away everything of a subscriber."""
        member = self._members.get(subscriber)
        if member is not None:
            self._forget(subscriber)
            for index in self._indexes.values():
                index.remove_subscriber(member)

    def _forget(self, subscriber: LiveSubscriber) -> None:
        member = self._members.pop(subscriber)
        member.filters.clear()
        self._late.discard(member)
        self._online -= member.cursor is None
        self._patient -= not subscriber.takes_early
        member.cursor = _GONE  # it may be in the list that is being served right now

    def resume(self, subscriber: LiveSubscriber) -> None:
        """It can take more. Does nothing if it is live or being served already."""
        member = self._members.get(subscriber)
        if member is not None and member.cursor is not None and not member.is_reading:
            member.is_reading = True
            self._rounds.call_soon(lambda: self._catch_up(member))

    def position(self, subscriber: LiveSubscriber) -> int | None:
        """The first offset that was not offered to it; None if it has no filters here. Not to be asked in ``deliver``:

        by then the high watermark has passed the records that will be offered next.
        """
        member = self._members.get(subscriber)
        if member is None:
            return None
        if member.leftover:
            return member.leftover[-1].offset
        return self.partition.high_watermark if member.cursor is None else member.cursor

    # -- live --------------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        early = self._early
        if self._online and not (early and self._all_took(base_offset, next_offset)):
            for batch in batches:
                for record in self._decode(batch, base_offset):
                    self._offer(record, was_early=bool(early) and _holds(early, record.offset, record.offset + 1))
        if early:
            self._early = [(max(start, next_offset), end) for start, end in early if end > next_offset]
            if not self._early:
                for member in self._late:
                    member.skip = ()
                self._late.clear()

    # -- early -------------------------------------------------------------------------------------

    def offer_early(self, delivery: Delivery) -> bool:
        """Offer a record that was staged just now, with its offset, and is not committed yet.

        False: it was not, and is offered when it is committed; too many pieces of the log wait for that.
        """
        if not self._online:
            return True
        early, offset = self._early, delivery.record.offset
        if early and early[-1][1] == offset:
            early[-1] = (early[-1][0], offset + 1)
        elif len(early) < MAX_EARLY_RANGES:
            early.append((offset, offset + 1))
        else:
            return False
        self._offer_unstored(delivery, is_early=True)
        return True

    def offer_unlogged(self, delivery: Delivery) -> None:
        """Offer a record that is in no log; its offset is -1. Who is behind never gets it."""
        if self._online:
            self._offer_unstored(delivery, is_early=False)

    def _offer_unstored(self, delivery: Delivery, *, is_early: bool) -> None:
        """The key is a text in UTF-8, so that it is the same in all syntaxes."""
        some_are_late = is_early and (self._late or self._patient)
        for index in self._indexes.values():
            for member, options in index.match(delivery.text):
                if member.cursor is not None or (some_are_late and self._is_late(member)):
                    continue
                try:
                    takes_more = member.subscriber.deliver(delivery, options)
                except Exception:
                    takes_more = self._failed(member)
                if not takes_more:
                    self._stop(member, self.partition.high_watermark)

    def _is_late(self, member: _Member) -> bool:
        return member in self._late or not member.subscriber.takes_early

    def _has_taken(self, member: _Member, offset: int) -> bool:
        return _holds(member.skip, offset, offset + 1) if self._is_late(member) else True

    def _all_took(self, start: int, end: int) -> bool:
        return not self._patient and not self._late and _holds(self._early, start, end)

    def _begin(self, member: _Member) -> None:
        """It is live from now on."""
        if self._early:
            self._late.add(member)
        else:
            member.skip = ()

    def _stop(self, member: _Member, cursor: int) -> None:
        """It is behind from now on, unless it went while it was asked."""
        if member.cursor is not None:
            return
        self._online -= 1
        member.cursor = cursor
        taken = member.skip if self._is_late(member) else self._early
        member.skip = [(max(start, cursor), end) for start, end in taken if end > cursor] or ()
        self._late.discard(member)

    def wanting(self, key: bytes | None) -> Iterator[tuple[LiveSubscriber, list[Any]]]:
        """Who has filters that match such a key, live or behind, and their options; for those who read themselves."""
        for syntax, index in self._indexes.items():
            text = key_text(key, syntax)
            for member, options in index.match(text) if text is not None else ():
                yield member.subscriber, options

    def _offer(self, record: Record, *, was_early: bool) -> None:
        for syntax, index in self._indexes.items():  # a subscriber with filters of both is offered a record twice
            text = key_text(record.key, syntax)
            wanted = index.match(text) if text is not None else None
            if wanted:
                assert text is not None
                self._offer_to(wanted, Delivery(record, text, self.partition), was_early=was_early)

    def _offer_to(self, wanted: Match[_Member, Any], delivery: Delivery, *, was_early: bool) -> None:
        for member, options in wanted:
            if member.cursor is not None or (was_early and self._has_taken(member, delivery.record.offset)):
                continue
            if not self._deliver(member, delivery, options):
                self._stop(member, delivery.record.offset + 1)

    def _deliver(self, member: _Member, delivery: Delivery, options: list[Any]) -> bool:
        try:
            return member.subscriber.deliver(delivery, options)
        except Exception:
            return self._failed(member)

    def _failed(self, member: _Member) -> bool:
        """The boundary: one subscriber's bug must not keep the others from their records."""
        logger.exception("%s: %r failed and is left out", self.partition.name, member.subscriber)
        self._rounds.call_soon(lambda: self.remove(member.subscriber))
        return False

    def _decode(self, batches: bytes, from_offset: int) -> list[Record]:
        try:
            return decode_all(batches, from_offset=from_offset)
        except TrunklineError as error:  # a client's batch with an intact CRC around nonsense
            logger.warning(
                "%s: records from offset %d cannot be delivered: %s", self.partition.name, from_offset, error
            )
            return []

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        members, self._members = self._members, {}
        self._indexes = {}
        self._early, self._late, self._patient, self._online = [], set(), 0, 0
        for member in members.values():
            member.filters.clear()
            member.cursor = _GONE
            self._tell_closed(member, error)

    def _tell_closed(self, member: _Member, error: TrunklineError | None) -> None:
        try:
            member.subscriber.live_closed(error)
        except Exception:  # the boundary, as above
            logger.exception("%s: %r failed when it was told of the end", self.partition.name, member.subscriber)

    # -- behind ------------------------------------------------------------------------------------

    def _catch_up(self, member: _Member) -> None:
        """Offer one chunk of the log to a subscriber that is behind; more in the next round."""
        if not member.filters:
            return
        member.fresh_at = _GONE
        if not self._offer_leftover(member):
            member.is_reading = False
            return
        assert member.cursor is not None
        if member.cursor >= self.partition.high_watermark:
            member.cursor = None  # live again: it has been offered all there is
            self._online += 1
            self._begin(member)
            member.is_reading = False
            return
        if self._should_look_ahead(member):
            self._spawn(self._look_ahead, member)
            return
        try:
            batches = self.partition.read_nowait(member.cursor, CATCH_UP_BYTES)
        except OffsetOutOfRange:
            self._skip_to_start(member)
            return
        except (OSError, TrunklineError) as error:
            self._give_up(member, error)
            return
        if batches is None:
            self._spawn(self._read_waiting, member)
        else:
            self._take_chunk(member, batches)

    async def _read_waiting(self, member: _Member) -> None:
        """The pages are not cached: read in a worker, go on in a round."""
        assert member.cursor is not None
        try:
            batches = await self.partition.read(member.cursor, CATCH_UP_BYTES)
        except OffsetOutOfRange:
            self._rounds.call_soon(lambda: self._skip_to_start(member))
            return
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._give_up(member, failure))
            return
        self._rounds.call_soon(lambda: self._take_chunk(member, batches))

    def _should_look_ahead(self, member: _Member) -> bool:
        assert member.cursor is not None
        left = self.partition.high_watermark - member.cursor
        return left > FAR_BEHIND and member.cursor >= member.dense_until and is_selective(member.filters)

    async def _look_ahead(self, member: _Member) -> None:
        """It is far behind: find what it wants by keys, go on in a round."""
        assert member.cursor is not None
        try:
            found = await look_ahead(self.partition, member.cursor, [*member.filters], CATCH_UP_BYTES)
        except OffsetOutOfRange:
            self._rounds.call_soon(lambda: self._skip_to_start(member))
            return
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._give_up(member, failure))
            return
        self._rounds.call_soon(lambda: self._take_found(member, found))

    def _take_found(self, member: _Member, found: Found) -> None:
        if not member.filters:
            return
        member.leftover = found.records[::-1]
        member.cursor = found.next_offset
        if found.is_dense:
            member.dense_until = found.next_offset + FAR_BEHIND
        self._catch_up(member)

    def _give_up(self, member: _Member, error: Exception) -> None:
        """The log cannot be read there: end this subscriber's part rather than leave a gap."""
        if member.filters:
            logger.error("%s: a subscriber cannot be served from the log: %s", self.partition.name, error)
            self.remove(member.subscriber)
            closed = error if isinstance(error, TrunklineError) else CorruptLog(f"{self.partition.name}: {error}")
            self._tell_closed(member, closed)

    def _skip_to_start(self, member: _Member) -> None:
        if not member.filters:
            return
        assert member.cursor is not None
        start = self.partition.log_start_offset
        missed, member.cursor = start - member.cursor, start
        logger.warning(
            "%s: retention removed %d records before a subscriber had read them", self.partition.name, missed
        )
        try:
            member.subscriber.missed(self.partition, missed)
        except Exception:  # the boundary, as above
            logger.exception("%s: %r failed when it was told of a gap", self.partition.name, member.subscriber)
        self._rounds.call_soon(lambda: self._catch_up(member))

    def _take_chunk(self, member: _Member, batches: bytes) -> None:
        if not member.filters:
            return
        assert member.cursor is not None
        headers = [header for _, header in iter_headers(batches)]
        assert headers, "a read below the high watermark gives at least one batch"
        try:
            records = decode_all(batches, from_offset=member.cursor)
        except TrunklineError:  # one batch is at fault, or all are too much at once: take the first alone
            del headers[1:]
            records = self._decode(batches[: headers[0].size_bytes], member.cursor)
        member.leftover = records[::-1]
        assert headers[-1].next_offset > member.cursor
        member.cursor = headers[-1].next_offset
        self._rounds.call_soon(lambda: self._catch_up(member))

    def _offer_leftover(self, member: _Member) -> bool:
        """Offer what was decoded; False if the subscriber said stop."""
        leftover = member.leftover
        while leftover:
            record = leftover.pop()
            if member.skip and _holds(member.skip, record.offset, record.offset + 1):
                continue
            options = member.options(record.key, record.offset)
            if not options:
                continue
            delivery = Delivery(record, key_text(record.key, "amqp") or "", self.partition)
            if not self._deliver(member, delivery, options):
                return False
        return True

    def statistics(self) -> LiveStatistics:
        return LiveStatistics(
            subscribers=len(self._members),
            filters=sum(map(len, self._indexes.values())),
            behind=sum(member.cursor is not None for member in self._members.values()),
        )
