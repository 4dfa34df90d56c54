"""A queue as far as its consumers go: who gets what, what comes back, what is due, what is too much."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import QueueInUse, TrunklineError, UnknownQueue
from trunkline.queues.consumers import Roster
from trunkline.queues.consumption import Consumption, QueueConsumer, Range, SharedPrefetch
from trunkline.queues.context import ENGINE
from trunkline.queues.delivering import PAUSE_S, deliver
from trunkline.queues.index import Lease
from trunkline.queues.persist import IDLE_MS
from trunkline.queues.remembered import RememberedQueue

if TYPE_CHECKING:
    from trunkline.queues.config import Definition, QueueConfig

__all__ = ["ROUND_BYTES", "SERVED_RECORDS", "ServedQueue"]

logger = logging.getLogger("trunkline.queues")

SERVED_RECORDS: Final = 1000
"""Given to one consumer at a time at most, so that the others get their turn."""

SERVED_BYTES: Final = 256 * 1024
"""The same in bytes."""

ROUND_BYTES: Final = 1024 * 1024
"""Given out by one queue in a round, so that other queues and sockets get their turn."""

_LONGEST_S: Final = 1e12  # of a delay, or a lock: 30,000 years
_OVER: Final = "delivery-limit"


class ServedQueue(RememberedQueue):
    """What :class:`trunkline.queues.queue.Queue` is to its consumers."""

    __slots__ = ()

    @property
    def consumers(self) -> Sequence[Consumption]:
        """Those that are attached now."""
        return () if self._roster is None else tuple(self._roster)

    def consume(
        self,
        consumer: QueueConsumer,
        *,
        prefetch: int = 1000,
        prefetch_bytes: int = 0,
        priority: int = 0,
        exclusive: bool = False,
        auto_settle: bool = False,
        shared: SharedPrefetch | None = None,
        name: str = "",
    ) -> Consumption:
        """Attach a consumer. It is given what is ready in the next round, never before this returns.

        Args:
          prefetch: records that it may hold; 0: no limit.
          prefetch_bytes: it is given more as long as what it holds has fewer bytes, as they are stored, so the last
            record may go beyond; 0: no limit. A record of a batch counts for its part of the batch.
          priority: those with a higher one are served first.
          exclusive: nobody else may consume the queue meanwhile.
          auto_settle: records are settled as they are delivered: at most once.
          shared: a limit for several consumptions together.

        Raises QueueInUse: it has an exclusive consumer, or any, and this one asks for exclusiveness.
        """
        roster = self._roster
        if roster is not None and (exclusive or any(member.is_exclusive for member in roster)):
            raise QueueInUse(f"queue {self.name} has consumers, and one of them is to be the only one", queue=self.name)
        consumption = Consumption(
            self,
            consumer,
            self.context.new_holder(),
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            priority=priority,
            exclusive=exclusive,
            auto_settle=auto_settle,
            shared=shared,
            name=name,
        )
        if roster is None:
            roster = self._roster = Roster(is_single=self.config.single_active)
        roster.add(consumption)
        consumption.is_attached = True
        self.serve_soon()
        return consumption

    def taker(self, consumer: QueueConsumer, *, auto_settle: bool = False, name: str = "") -> Consumption:
        """Somebody who gets records only when it asks (:meth:`Consumption.take`), and is none of the consumers."""
        return Consumption(
            self,
            consumer,
            self.context.new_holder(),
            prefetch=0,
            prefetch_bytes=0,
            priority=0,
            exclusive=False,
            auto_settle=auto_settle,
            shared=None,
            name=name,
        )

    def give(self, consumption: Consumption, count: int) -> bool | None:
        """See :meth:`Consumption.take`."""
        if self.is_deleted or self.context.is_closing:
            return False
        state, now = self.state, self.context.now_ms()
        deadline = 0
        if self.config.lock_timeout_ms:
            deadline = now + self.config.lock_timeout_ms
            self.serve_soon()
        while state.ready:
            leases = state.acquire(count, consumption.holder, now, deadline_ms=deadline, max_bytes=SERVED_BYTES)
            if leases:
                self._expire_all(now)  # so that what counts as ready is what the next one could have
                self._give(consumption, leases)
                return True
            if state.missing_chunk is not None:
                return None
            if not self._expire(now):
                return False
        return False

    async def load_head(self) -> None:
        """Have in memory what is next. Raises what reading raises. Cancellation: nothing has changed."""
        if self.state.missing_chunk is not None:
            await self.load_chunk(self.state.missing_chunk)

    def retire(self, consumption: Consumption) -> None:
        """See :meth:`Consumption.retire`."""
        if not consumption.is_attached:
            return
        consumption.is_attached = False
        assert self._roster is not None
        self._roster.remove(consumption)
        if not len(self._roster):
            self._roster = None
        if consumption.shared is not None:
            consumption.shared.consumptions.pop(consumption, None)
        self.serve_soon()

    def leave(self, consumption: Consumption) -> None:
        """See :meth:`Consumption.close`."""
        if consumption.is_closed:
            return
        consumption.is_closed = True
        self.retire(consumption)
        if consumption.unacked:
            self.release(consumption, [(0, self.state.next_sequence)])
        self.state.forget_holder(consumption.holder)
        self.serve_soon()

    def serve(self) -> None:
        """Do what is due, and give out what is ready to those who have room."""
        self._asked = False
        if self._is_serving or self.is_deleted or self.context.is_closing:
            return
        self._is_serving = True
        try:
            state, config = self.state, self.definition.config
            now = self.context.now_ms()
            if state.may_be_due and (timer := state.next_timer_ms) is not None and timer <= now:
                self._do_due(now)
            if (config.max_length >= 0 or config.max_length_bytes >= 0) and config.overflow == "drop-head":
                self._cut(config)  # a queue that refuses keeps what it has: also what comes back when it is full
            if self._roster is not None and state.ready:
                self._dispatch(self._roster, now)
            if state.may_be_due:
                self._set_timer(now)
        finally:
            self._is_serving = False

    def _set_timer(self, now: int) -> None:
        """Be woken when the next entry is due, expires, or has been held for too long."""
        timer = self.state.next_timer_ms
        if timer is not None and timer <= now:  # what expires now and found no consumer
            self._expire_all(now)
            timer = self.state.next_timer_ms
        if timer is None:
            self.state.may_be_due = bool(self.state.ready or self.state.unacked)  # what expires may be behind the head
        elif self._timer_ms is None or timer < self._timer_ms:
            self._timer_ms = timer
            self.context.wake_at(self, timer)

    def _dispatch(self, roster: Roster[Consumption], now: int) -> None:
        state, config = self.state, self.definition.config
        deadline = 0
        if config.lock_timeout_ms:
            deadline = now + config.lock_timeout_ms
        left = ROUND_BYTES
        roster.begin()
        while state.ready:
            chosen = roster.choose(state.ready)
            if chosen is None:
                return
            if left <= 0:
                self.serve_soon()
                return
            consumption, limit = chosen
            max_bytes = SERVED_BYTES
            if consumption.prefetch_bytes:
                max_bytes = min(max_bytes, consumption.free_bytes)
            leases = state.acquire(
                min(limit, SERVED_RECORDS), consumption.holder, now - 1, deadline_ms=deadline, max_bytes=max_bytes
            )
            if leases:
                for lease in leases:
                    left -= lease.size_bytes
                self._give(consumption, leases)
            elif state.missing_chunk is not None:
                self._load_chunk(state.missing_chunk)
                return
            elif not self._expire(now - 1):
                return

    def _give(self, consumption: Consumption, leases: list[Lease]) -> None:
        count = sum([lease.count for lease in leases])
        consumption.took(count)
        limit = self.definition.config.delivery_limit
        if limit >= 0 and any(lease.deliveries > limit for lease in leases):
            over = [lease for lease in leases if lease.deliveries > limit]
            leases = [lease for lease in leases if lease.deliveries <= limit]
            self._send_away(consumption, [(lease.sequence, lease.sequence + lease.count) for lease in over], _OVER)
        deliver(self, consumption, leases)

    def _load_chunk(self, number: int) -> None:
        if not self._is_loading_chunk:
            self._is_loading_chunk = True
            self.context.services.spawn(self._read_chunk, number)

    async def _read_chunk(self, number: int) -> None:
        try:
            await self.load_chunk(number)
        except (OSError, TrunklineError) as error:
            if self.context.is_closing:
                return
            logger.error("queue %s: its index cannot be read, trying again in %g s: %s", self.name, PAUSE_S, error)
            await trio.sleep(PAUSE_S)
        finally:
            self._is_loading_chunk = False
        self.serve_soon()

    def release(
        self, consumption: Consumption, ranges: Iterable[Range], *, delay_s: float = 0.0, count: bool = True
    ) -> int:
        """See :meth:`Consumption.release`."""
        due = 0
        if delay_s > 0:
            due = self._after(delay_s)
        limit = self.definition.config.delivery_limit
        if limit < 0 or not count:
            done = self.state.release(ranges, consumption.holder, due_ms=due, count=count)
        else:
            leases = self.state.transfer(ranges, consumption.holder, ENGINE)
            done = sum(lease.count for lease in leases)
            over = [lease for lease in leases if lease.deliveries >= limit]
            back = [(lease.sequence, lease.sequence + lease.count) for lease in leases if lease.deliveries < limit]
            self.state.release(back, ENGINE, due_ms=due, count=True)
            if over:
                self.leaving.add(over, _OVER)
        if done:
            consumption.let_go(done)
            self.released += done
            self.changed()
            self.serve_soon()
        return done

    def reject(self, consumption: Consumption, ranges: Iterable[Range], reason: str) -> int:
        """See :meth:`Consumption.reject`."""
        return self._send_away(consumption, ranges, reason)

    def _send_away(self, consumption: Consumption, ranges: Iterable[Range], reason: str) -> int:
        leases = self.state.transfer(ranges, consumption.holder, ENGINE)
        done = sum(lease.count for lease in leases)
        if done:
            consumption.let_go(done)
            self.leaving.add(leases, reason)
            self.serve_soon()
        return done

    def _after(self, seconds: float) -> int:
        """So many seconds from now, in ms since the epoch: at most what can be stored, whatever a client says."""
        return self.context.now_ms() + round(min(max(seconds, 0.0), _LONGEST_S) * 1000)

    def extend(self, consumption: Consumption, ranges: Iterable[Range], lock_timeout_s: float) -> int:
        """See :meth:`Consumption.extend`."""
        if not self.config.lock_timeout_ms:
            return 0
        deadline = max(self._after(lock_timeout_s), 1)  # 0 is none
        self.serve_soon()  # it may be earlier than what is waited for
        return self.state.extend(ranges, consumption.holder, deadline)

    def tick(self) -> None:
        """The time it asked to be woken at has come."""
        self._timer_ms = None
        if self.is_deleted:
            return
        self.serve()
        now = self.context.now_ms()
        self.keep_readers(now)
        if 0 < self._idle_ms <= now:
            self._idle_ms = 0
            if now < self._written_ms + IDLE_MS:
                self._idle_ms = self._written_ms + IDLE_MS
                self.context.wake_at(self, self._idle_ms)
            elif self.persister is not None and self.persister.has_deltas:
                self.persist(snapshot=True)

    def _do_due(self, now: int) -> None:
        state = self.state
        state.due(now)
        lost = state.expire_leases(now)
        if lost and self._roster is not None:
            for member in self._roster:
                if member.holder in lost:
                    member.let_go(lost[member.holder])
                    self.released += lost[member.holder]
        self._expire_all(now - 1)  # what expires now may still be given out: with a ttl of 0 that is the only moment
        self.changed()

    def _expire_all(self, now: int) -> None:
        while self._expire(now):
            pass

    def _expire(self, now: int) -> bool:
        """Send away what has expired at the head; True if there may be more."""
        leases = self.state.take_expired(now, ENGINE)
        if leases:
            self.leaving.add(leases, "expired")
        return bool(leases)

    def _cut(self, config: QueueConfig) -> None:
        """Drop what is over the maximum length."""
        state = self.state
        while 0 <= config.max_length < state.ready:
            if not self._drop(min(state.ready - config.max_length, 1000)):
                return
        if 0 <= config.max_length_bytes < state.live_bytes:
            while state.ready and config.max_length_bytes < state.live_bytes - state.held_bytes():
                if not self._drop(1):
                    return

    def _drop(self, count: int) -> bool:
        leases = self.state.take_oldest(count, ENGINE)
        if leases:
            self.leaving.add(leases, "max-length")
        elif self.state.missing_chunk is not None:
            self._load_chunk(self.state.missing_chunk)
        return bool(leases)

    @property
    def active(self) -> Consumption | None:
        """With ``single_active``: the consumer that gets everything."""
        return None if self._roster is None else self._roster.active

    def cancel_consumers(self, error: TrunklineError) -> None:
        """Tell all consumers that it is over."""
        for consumption in self.consumers:
            consumption.close()
            try:
                consumption.consumer.cancelled(error)
            except Exception:  # the boundary, as for deliveries
                logger.exception("queue %s: %r failed when it was told of the end", self.name, consumption.consumer)

    def deleted(self) -> None:
        """It is no longer there."""
        error = UnknownQueue(f"queue {self.name} was deleted", queue=self.name)
        self.is_deleted = True
        self.cancel_consumers(error)
        if self.persister is not None:
            self.persister.close(error)

    def redefined(self, definition: Definition) -> None:
        """Its settings have changed."""
        self.definition = definition
        if self._roster is not None:
            self._roster.is_single = definition.config.single_active
        self.serve_soon()
