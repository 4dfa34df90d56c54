"""The subscribers of one partition: who gets what is committed, and what is not committed yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import msgspec

from trunkline.errors import CorruptLog, LocalProtocolError, TrunklineError
from trunkline.filters import Syntax, key_text
from trunkline.live.behind import Behind
from trunkline.live.member import GONE, Member, holds
from trunkline.live.subscriber import Delivery, LiveSubscriber
from trunkline.live.watcher import Watcher
from trunkline.partition import Partition
from trunkline.records import Record, decode_readable
from trunkline.rounds import Rounds
from trunkline.subscriptions import SubscriptionIndex

__all__ = ["LiveStatistics", "LiveTail"]

logger = logging.getLogger("trunkline.live")

MAX_EARLY_RANGES: Final = 64
"""They are looked through for each record that is committed. A transaction may keep readers waiting for minutes."""


class LiveStatistics(msgspec.Struct, frozen=True):
    """A snapshot."""

    subscribers: int
    filters: int
    behind: int


class LiveTail:
    """All subscribers of one partition; a listener of it. Belongs to the broker's thread."""

    def __init__(self, partition: Partition, rounds: Rounds, spawn: Callable[..., None]) -> None:
        self.partition = partition
        self._rounds = rounds
        self._behind = Behind(
            partition,
            rounds,
            spawn,
            deliver=self._deliver,
            caught_up=self._caught_up,
            given_up=self._give_up,
        )
        self._indexes: dict[Syntax, SubscriptionIndex[Member, Any]] = {}
        self._members: dict[LiveSubscriber, Member] = {}
        self._early: list[tuple[int, int]] = []  # ranges of offsets that were offered and are not committed
        self._late: set[Member] = set()
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
            member = Member(subscriber, fresh_at=now)
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

    def _index(self, syntax: Syntax) -> SubscriptionIndex[Member, Any]:
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
            for filter, syntax in member.filters:
                self._indexes[syntax].remove(filter, member)
            self._forget(subscriber)

    def _forget(self, subscriber: LiveSubscriber) -> None:
        member = self._members.pop(subscriber)
        member.filters.clear()
        self._late.discard(member)
        self._online -= member.cursor is None
        self._patient -= not subscriber.takes_early
        member.cursor = GONE  # it may be in the list that is being served right now

    def resume(self, subscriber: LiveSubscriber) -> None:
        """It can take more. Does nothing if it is live or being served already."""
        member = self._members.get(subscriber)
        if member is not None and member.cursor is not None and not member.is_reading:
            member.is_reading = True
            self._behind.ask(member)

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

    def watch(self, watcher: Watcher, filter: str, *, syntax: Syntax = "mqtt") -> None:
        """Offer ``watcher`` what is committed from now on and matches. Raises ValueError for a bad filter."""
        if self._index(syntax).add(filter, cast(Member, watcher), None):
            self._online += 1
            self._patient += 1

    def unwatch(self, watcher: Watcher, filter: str, *, syntax: Syntax = "mqtt") -> None:
        """Undo ``watch``, if it was done. Not to be called in ``deliver``."""
        if self._index(syntax).remove(filter, cast(Member, watcher)):
            self._online -= 1
            self._patient -= 1

    # -- live --------------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        early = self._early
        if self._online and not (early and self._all_took(base_offset, next_offset)):
            for batch in batches:
                for record in decode_readable(partition.name, batch, from_offset=base_offset):
                    self._offer(record, was_early=bool(early) and holds(early, record.offset, record.offset + 1))
        if early:
            self._early = [(max(start, next_offset), end) for start, end in early if end > next_offset]
            if not self._early:
                for member in self._late:
                    member.skip = ()
                self._late.clear()

    # -- early -------------------------------------------------------------------------------------

    def offer_early(self, delivery: Delivery) -> bool:
        """Offer what was staged just now, with its offset, and is not committed yet.

        False: it was not, and is offered when it is committed; too many pieces of the log wait for that.
        """
        if not self._online:
            return True
        early, offset = self._early, delivery.record.offset
        if early and early[-1][1] == offset:
            early[-1] = (early[-1][0], offset + delivery.count)
        elif len(early) < MAX_EARLY_RANGES:
            early.append((offset, offset + delivery.count))
        else:
            return False
        self._offer_unstored(delivery, is_early=True)
        return True

    def alike(self, texts: Sequence[str], start: int) -> int:
        """Where those end, from ``start`` on, that the same subscribers want with the same options.

        Args:
          texts: keys of records; UTF-8, so that they are the same in all syntaxes.
        """
        end = len(texts)
        for index in self._indexes.values():
            wanted = index.match(texts[start])
            for at in range(start + 1, end):
                if index.match(texts[at]) != wanted:
                    end = at
                    break
        return end

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

    def _is_late(self, member: Member) -> bool:
        return member in self._late or not member.subscriber.takes_early

    def _has_taken(self, member: Member, offset: int) -> bool:
        return holds(member.skip, offset, offset + 1) if self._is_late(member) else True

    def _all_took(self, start: int, end: int) -> bool:
        return not self._patient and not self._late and holds(self._early, start, end)

    def _begin(self, member: Member) -> None:
        """It is live from now on."""
        if self._early:
            self._late.add(member)
        else:
            member.skip = ()

    def _stop(self, member: Member, cursor: int) -> None:
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
            if not wanted:
                continue
            assert text is not None
            delivery = Delivery(record, text, self.partition)
            for member, options in wanted:
                if member.cursor is not None or (was_early and self._has_taken(member, record.offset)):
                    continue
                try:  # in line, not by _deliver: most records are for one subscriber
                    takes_more = member.subscriber.deliver(delivery, options)
                except Exception:
                    takes_more = self._failed(member)
                if not takes_more:
                    self._stop(member, record.offset + 1)

    def _deliver(self, member: Member, delivery: Delivery, options: list[Any]) -> bool:
        try:
            return member.subscriber.deliver(delivery, options)
        except Exception:
            return self._failed(member)

    def _failed(self, member: Member) -> bool:
        """The boundary: one subscriber's bug must not keep the others from their records."""
        logger.exception("%s: %r failed and is left out", self.partition.name, member.subscriber)
        self._rounds.call_soon(lambda: self.remove(member.subscriber))
        return False

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        members, self._members = self._members, {}
        self._indexes = {}
        self._early, self._late, self._patient, self._online = [], set(), 0, 0
        for member in members.values():
            member.filters.clear()
            member.cursor = GONE
            self._tell_closed(member, error)

    def _tell_closed(self, member: Member, error: TrunklineError | None) -> None:
        try:
            member.subscriber.live_closed(error)
        except Exception:  # the boundary, as above
            logger.exception("%s: %r failed when it was told of the end", self.partition.name, member.subscriber)

    # -- behind ------------------------------------------------------------------------------------

    def _caught_up(self, member: Member) -> None:
        member.cursor = None
        self._online += 1
        self._begin(member)

    def _give_up(self, member: Member, error: Exception) -> None:
        """The log cannot be read there: end this subscriber's part rather than leave a gap."""
        if member.filters:
            logger.error("%s: a subscriber cannot be served from the log: %s", self.partition.name, error)
            self.remove(member.subscriber)
            closed = error if isinstance(error, TrunklineError) else CorruptLog(f"{self.partition.name}: {error}")
            self._tell_closed(member, closed)

    def statistics(self) -> LiveStatistics:
        return LiveStatistics(
            subscribers=len(self._members),
            filters=sum(map(len, self._indexes.values())),
            behind=sum(member.cursor is not None for member in self._members.values()),
        )
