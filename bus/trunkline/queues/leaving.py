"""Records that leave a queue with a copy: dead letters, and what is moved by hand.

The order is: copy, durable, then settled. A crash in between leaves the entry in the queue, so a record may be copied
twice but is never lost. Meanwhile the entry is leased to the queue itself (:data:`~trunkline.queues.context.ENGINE`).
If a copy cannot be written the entry stays so, and it is tried again after a pause that doubles up to half a minute.

A dead letter is the record with its key, value and headers, and these headers more (text)::

    trunkline.dead.reason       rejected (or what the consumer gave), expired, delivery-limit, max-length
    trunkline.dead.queue        the queue it was in
    trunkline.dead.topic, .partition, .offset    where the record was stored
    trunkline.dead.sequence     its place in the queue
    trunkline.dead.deliveries   how often it had been delivered before
    trunkline.dead.time         ms since the epoch

Those of an earlier death, and what was asked of the queue (when to deliver, when to expire), are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import BrokerClosing, RecordTooLarge, TrunklineError
from trunkline.queues.arrivals import DELIVER_AT, EXPIRES_AT, SPILLED
from trunkline.queues.context import ENGINE
from trunkline.queues.dead_letters import Copy, DeadLetter, DeadLetterHandler, stage_copies
from trunkline.queues.gathering import copied, gather, gather_waiting, readable
from trunkline.queues.index import Lease
from trunkline.records import Header, Record, encode_headers

if TYPE_CHECKING:
    from trunkline.queues.remembered import RememberedQueue
    from trunkline.topic import Topic

__all__ = ["Copying", "Departures", "Leaving", "dead_headers"]

logger = logging.getLogger("trunkline.queues")

COPIED_RECORDS: Final = 1000
"""Copied at a time."""

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_DEAD: Final = "trunkline.dead."


class _ToTopic:
    """The handler of queues that name none: a copy in the dead-letter topic, with headers that say what happened."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    def copies_of(self, letter: DeadLetter) -> Sequence[Copy]:
        return [_copy(self._topic, letter.record, dead_headers(letter))]


def _copy(topic: Topic, record: Record, headers: Sequence[Header]) -> Copy:
    return Copy(topic.partition_for(record.key), record.timestamp, record.key, record.value, encode_headers(headers))


def dead_headers(letter: DeadLetter) -> tuple[Header, ...]:
    """The headers of a dead letter."""
    record, block = letter.record, letter.block
    kept = [
        (name, value)
        for name, value in record.headers
        if not name.startswith(_DEAD) and name not in (DELIVER_AT, EXPIRES_AT, SPILLED)
    ]
    about = {
        "reason": letter.reason,
        "queue": letter.queue,
        "topic": block.partition.topic.name,
        "partition": block.partition.index,
        "offset": record.offset,
        "sequence": block.sequence + record.offset - block.offset,
        "deliveries": block.deliveries,
        "time": letter.time_ms,
    }
    return (*kept, *((_DEAD + name, str(value).encode()) for name, value in about.items()))


class Departures:
    """Counts what has left a queue without being settled by a consumer, by reason."""

    __slots__ = ("dropped", "expired", "over_limit", "rejected")

    def __init__(self) -> None:
        self.dropped = self.expired = self.over_limit = self.rejected = 0

    @property
    def total(self) -> int:
        return self.dropped + self.expired + self.over_limit + self.rejected

    def add(self, reason: str, count: int) -> None:
        """``reason`` as in the header of a dead letter."""
        if reason == "expired":
            self.expired += count
        elif reason == "max-length":
            self.dropped += count
        elif reason == "delivery-limit":
            self.over_limit += count
        else:
            self.rejected += count


class Copying:
    """Counts copies that are on their way, with what they settle. An AppendReceiver."""

    __slots__ = ("_done", "_left", "copied", "error")

    def __init__(self) -> None:
        self._left = 0
        self._done = trio.Event()
        self.copied: list[tuple[object, int]] = []
        self.error: TrunklineError | None = None

    def expect(self) -> None:
        self._left += 1

    def append_done(self, token: object, offset: int) -> None:
        self.copied.append((token, offset))
        self._answered()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self._answered()

    def _answered(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def wait(self) -> None:
        """Wait for all answers."""
        if self._left:
            await self._done.wait()
        else:
            await trio.lowlevel.checkpoint()


class Leaving:
    """The entries of one queue that are on their way out.

    Attributes:
      count: of entries.
      departures: those that are done.
      error: what went wrong at the last attempt.
    """

    __slots__ = ("_is_running", "_queue", "_waiting", "count", "departures", "error")

    def __init__(self, queue: RememberedQueue) -> None:
        self._queue = queue
        self._waiting: list[tuple[Lease, str]] = []
        self._is_running = False
        self.count = 0
        self.departures = Departures()
        self.error: TrunklineError | OSError | None = None

    def add(self, leases: Sequence[Lease], reason: str) -> None:
        """Dead-letter these, which the engine holds; drop them if the queue has no place for dead letters."""
        self.count += sum(lease.count for lease in leases)
        config = self._queue.config
        if not config.dead_letter_handler and not config.dead_letters_of(self._queue.name):
            self._finish([(lease.sequence, lease.sequence + lease.count) for lease in leases], reason)
            return
        self._waiting += [(copied(lease), reason) for lease in leases]
        self.go_on()

    def go_on(self) -> None:
        """Copy what waits, if it can be done now."""
        name = self._queue.config.dead_letter_handler
        if self._waiting and not self._is_running and (not name or name in self._queue.context.dead_letter_handlers):
            self._is_running = True
            self._queue.context.services.spawn(self._run)

    def _finish(self, ranges: Sequence[tuple[int, int]], reason: str) -> None:
        queue = self._queue
        done = queue.state.settle(ranges, ENGINE)
        self.count -= done
        self.departures.add(reason, done)
        queue.changed()

    async def _run(self) -> None:
        pause_s = _PAUSE_S
        try:
            while self._waiting and not self._queue.is_deleted:
                try:
                    await self._copy_some()
                    self.error, pause_s = None, _PAUSE_S
                except BrokerClosing:
                    return
                except (OSError, TrunklineError) as error:
                    if self._queue.context.is_closing:
                        return
                    self.error = error
                    logger.error(
                        "queue %s: dead letters cannot be written, trying again in %.0f s: %s",
                        self._queue.name, pause_s, error,
                    )  # fmt: skip
                    await trio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        finally:
            self._is_running = False

    async def _copy_some(self) -> None:
        """Copy the first that wait; those that could not be copied wait again."""
        queue = self._queue
        name = queue.config.dead_letters_of(queue.name)
        handler = queue.context.dead_letter_handlers.get(queue.config.dead_letter_handler)
        taken, total = 0, 0
        while taken < len(self._waiting) and total < COPIED_RECORDS:
            total += self._waiting[taken][0].count
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        copying = Copying()
        try:
            if handler is None and not name:  # it was taken away meanwhile
                for lease, reason in batch:
                    self._finish([(lease.sequence, lease.sequence + lease.count)], reason)
                return
            if handler is None:
                handler = _ToTopic(await queue.context.services.ensure_topic(name))
            for lease, reason in batch:
                await self._stage(lease, reason, handler, copying)
            await copying.wait()
        finally:
            self._settle({token for token, _ in copying.copied}, batch)
        if copying.error is not None:
            raise copying.error

    def _settle(self, settled: Set[object], batch: list[tuple[Lease, str]]) -> None:
        by_reason: dict[str, list[tuple[int, int]]] = {}
        for lease, reason in batch:
            first = lease.sequence
            while first < lease.sequence + lease.count:
                is_done = first in settled
                end = first + 1
                while end < lease.sequence + lease.count and (end in settled) == is_done:
                    end += 1
                if is_done:
                    by_reason.setdefault(reason, []).append((first, end))
                first = end
        for reason, ranges in by_reason.items():
            self._finish(ranges, reason)
        held = self._queue.state.transfer(
            [(lease.sequence, lease.sequence + lease.count) for lease, _ in batch], ENGINE, ENGINE
        )
        if held:
            reasons = {lease.sequence: reason for lease, reason in batch}
            self._waiting = [(one, _reason_of(one, batch, reasons)) for one in held] + self._waiting

    async def _stage(self, lease: Lease, reason: str, handler: DeadLetterHandler, copying: Copying) -> None:
        """Stage copies of what ``lease`` stands for; what is gone is settled."""
        queue = self._queue
        pieces = await gather_waiting(gather([lease], queue.context.cache, queue.context.sources))
        now = queue.context.now_ms()
        for piece in pieces:
            block = piece.block
            if block is None:
                self.count -= queue.missing(ENGINE, piece)
                continue
            try:
                records = block.records()
            except TrunklineError as error:
                logger.error("queue %s: %r cannot be read and is dropped: %s", queue.name, block, error)
                self._finish([(piece.sequence, piece.sequence + piece.length)], reason)
                continue
            for record in records:
                place = block.sequence + record.offset - block.offset
                self._stage_letter(handler, DeadLetter(queue.name, record, block, reason, now), copying, place)
                if len(copying.copied) % 100 == 99:
                    await trio.lowlevel.checkpoint()

    def _stage_letter(self, handler: DeadLetterHandler, letter: DeadLetter, copying: Copying, token: object) -> None:
        try:
            copies = handler.copies_of(letter)
        except TrunklineError as error:
            copying.expect()
            copying.append_failed(token, error)
            return
        except Exception:  # the boundary: a handler's bug must not lose the record, nor hold up the others
            logger.exception("queue %s: %r failed for the record at %d", letter.queue, handler, letter.record.offset)
            copying.expect()
            copying.append_failed(token, TrunklineError("the copies of a dead letter cannot be made; see the log"))
            return
        self._stage_copies(copies, copying, token)

    def _stage_copies(self, copies: Sequence[Copy], copying: Copying, token: object) -> None:
        copying.expect()
        if not copies:
            copying.append_done(token, -1)
            return
        try:
            stage_copies(copies, copying, token)
        except RecordTooLarge as error:
            logger.error("queue %s: a record has no room for the headers of a dead letter: %s", self._queue.name, error)
            copying.append_done(token, -1)
        except TrunklineError as error:
            copying.append_failed(token, error)

    async def move(self, leases: Sequence[Lease], topic: Topic) -> int:
        """Copy these, which the engine holds, to another topic, without more headers; how many. Raises what stopped it.

        Those that were not copied, since they cannot be read or something stopped it, go back to their places.
        Cancellation: so too.
        """
        queue = self._queue
        leases = [copied(lease) for lease in leases]
        self.count += sum(lease.count for lease in leases)
        copying = Copying()
        moved = 0
        try:
            pieces = await gather_waiting(gather(leases, queue.context.cache, queue.context.sources))
            for piece in pieces:
                if piece.block is None:
                    self.count -= queue.missing(ENGINE, piece)
            for _, block, records in readable(pieces, queue.name):
                for record in records:
                    headers = [header for header in record.headers if header[0] != SPILLED]
                    self._stage_copies(
                        [_copy(topic, record, headers)], copying, block.sequence + record.offset - block.offset
                    )
            await copying.wait()
            if copying.error is not None:
                raise copying.error
        finally:
            done = [(token, token + 1) for token, _ in copying.copied if isinstance(token, int)]
            moved = queue.state.settle(done, ENGINE)
            back = [(lease.sequence, lease.sequence + lease.count) for lease in leases]
            self.count -= moved + queue.state.release(back, ENGINE, count=False)
            queue.changed()
        return moved


def _reason_of(one: Lease, batch: Sequence[tuple[Lease, str]], reasons: dict[int, str]) -> str:
    found = reasons.get(one.sequence)
    if found is not None:
        return found
    return next(
        (reason for lease, reason in batch if lease.sequence <= one.sequence < lease.sequence + lease.count), "rejected"
    )
