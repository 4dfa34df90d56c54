"""What the client decides about sending to one partition: batches, order, sequences, retries. No I/O.

Records are collected in the last batch of ``queue``. A batch gets its place in the producer's sequence (its
*identity*: producer id, epoch, first sequence) when it is first sent, and keeps it while its outcome is
unknown: the broker recognises a repeat by it. At most five batches, from the first one
in flight to the last, are open at a time: so many the broker remembers (KIP-98).

Retries keep the order. When a batch is refused nothing more is sent until all that is in flight is answered: the
batches behind it have been refused too, since their sequence does not follow. Then all go again, in order.
A broken connection is the same, with the difference that nobody knows what was written.

A batch that is given up (refused for good, or too late) leaves a gap in the sequence. Then the lane is *broken*:
what may have been written is still repeated under the old identity, until it is acknowledged, or refused
as out of order, which says that it was not written. After that the lane goes on under a new producer id.

Until the first acknowledgement under an identity only one batch is in flight: a broker that does not know a producer
takes any sequence, so a second batch could overtake a first one that was refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from trunkline.errors import DeliveryTimeout, OutOfOrderSequence, TrunklineError
from trunkline_native.client.batches import NOBODY, Batch, LaneOptions, Producer

__all__ = ["Lane"]

MAX_IN_FLIGHT: Final = 5
_SEQUENCES: Final = 1 << 31  # sequences are non-negative int32 and wrap
_RECORD_OVERHEAD: Final = 30  # varints and attributes around one record: at most this many bytes


class Lane:
    """The way to one partition.

    Attributes:
      producer: whose sequence it writes in; None: it needs one before it can go on (see ``needs_producer``).
      max_batch_bytes: also bounded by what the topic takes.
      finished: told of every batch whose outcome is known.
      is_fresh: it has never had a producer; only then may it share one.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        max_batch_bytes: int,
        options: LaneOptions,
        finished: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.options = options
        self.finished = finished
        self.is_fresh = True
        self.max_batch_bytes = min(options.batch_bytes, max_batch_bytes)
        self.producer: Producer | None = None if options.is_idempotent else NOBODY
        self.queue: deque[Batch] = deque()
        self.in_flight: deque[Batch] = deque()
        self._refused: list[Batch] = []
        self._order = 0
        self._next_sequence = 0
        self._attempts = 0
        self._retry_at = 0.0
        self._is_established = False
        self._is_broken = False
        self._is_draining = False

    def __repr__(self) -> str:
        return f"<Lane {self.topic}/{self.partition}: {len(self.queue)} queued, {len(self.in_flight)} in flight>"

    # -- collecting --------------------------------------------------------------------------------

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers_block: bytes
    ) -> tuple[Batch, int, bool]:
        """Add a record; returns its batch, its place in it, and whether there is something new to look at."""
        queue = self.queue
        batch = queue[-1] if queue else None
        is_news = False
        if batch is None or batch.is_closed or self._is_full(batch, key, value, headers_block):
            if batch is not None:
                batch.is_closed = True
            batch = Batch(self, self._order, self.options.now())
            self._order += 1
            queue.append(batch)
            is_news = True
        builder = batch.builder
        index = builder.count
        builder.append(timestamp, key, value, headers_block)
        batch.size_bytes = builder.size_bytes
        if batch.size_bytes >= self.max_batch_bytes:
            batch.is_closed = is_news = True
        return batch, index, is_news

    def _is_full(self, batch: Batch, key: bytes | None, value: bytes | None, headers_block: bytes) -> bool:
        size = batch.size_bytes + len(headers_block) + _RECORD_OVERHEAD
        if value is not None:
            size += len(value)
        if key is not None:
            size += len(key)
        return size > self.max_batch_bytes

    def close_batches(self) -> None:
        """Send what is there without lingering."""
        if self.queue:
            self.queue[-1].is_closed = True

    # -- sending -----------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return not self.queue and not self.in_flight and not self._refused

    @property
    def unfinished(self) -> list[Batch]:
        """All batches whose outcome is not known."""
        return [batch for batch in (*self.in_flight, *self._refused, *self.queue) if not batch.is_done]

    @property
    def needs_producer(self) -> bool:
        """A new producer id is needed before anything more can be sent; give it with ``set_producer``."""
        return self.producer is None and bool(self.queue)

    def set_producer(self, producer: Producer) -> None:
        """Begin a new sequence."""
        self.is_fresh = False
        self.producer = producer
        self._next_sequence = 0
        self._is_established = False
        self._is_broken = False

    def wake_at(self) -> float | None:
        """When ``next_batch`` may have one although nothing else happens; None: never."""
        if not self.queue or self._is_draining:
            return None
        head = self.queue[0]
        due = 0.0 if head.is_closed or head.producer is not None else head.due
        return max(due, self._retry_at)

    def next_batch(self, now: float) -> Batch | None:
        """The next batch to send now, or None. The caller sends it, or calls ``connection_lost``."""
        if not self.queue or self._is_draining or now < self._retry_at:
            return None
        if self._is_broken:
            return self._next_of_old_sequence()
        head = self.queue[0]
        if head.producer is None:
            if not head.is_closed and now < head.due:
                return None
            if self.producer is None or not self._is_near(head) or len(self.in_flight) >= self._window():
                return None
            self._identify(head, self.producer)
        elif not self._is_near(head):
            return None
        self.queue.popleft()
        self.in_flight.append(head)
        return head

    def _is_near(self, batch: Batch) -> bool:
        """Whether the broker will still remember the first one in flight when it has this one."""
        return not self.in_flight or batch.order - self.in_flight[0].order < MAX_IN_FLIGHT

    def _next_of_old_sequence(self) -> Batch | None:
        batch = next((batch for batch in self.queue if batch.producer is not None), None)
        if batch is None or not self._is_near(batch):
            return None
        self.queue.remove(batch)
        self.in_flight.append(batch)
        return batch

    def _identify(self, batch: Batch, producer: Producer) -> None:
        batch.producer = producer
        batch.is_closed = True
        if self.options.is_idempotent:
            batch.sequence = self._next_sequence
            self._next_sequence = (self._next_sequence + batch.builder.count) % _SEQUENCES

    def _window(self) -> int:
        return MAX_IN_FLIGHT if self._is_established else 1

    # -- outcomes ----------------------------------------------------------------------------------

    def acknowledged(self, batch: Batch, base_offset: int, now: float) -> None:
        """The broker has committed it."""
        self.in_flight.remove(batch)
        self._attempts = 0
        if batch.producer == self.producer and self.options.is_idempotent:
            self._is_established = True
        if not batch.is_done:
            batch.finish(base_offset)
        self._drained(now)

    def failed(self, batch: Batch, error: TrunklineError, now: float) -> None:
        """The broker has refused it."""
        self.in_flight.remove(batch)
        if batch.is_done:
            self._is_broken = self.options.is_idempotent
        elif error.retriable or isinstance(error, OutOfOrderSequence):
            if isinstance(error, OutOfOrderSequence):
                batch.is_maybe_written = False
                if not self._refused:
                    self._is_broken = True  # nobody before it is missing: the broker has forgotten what it acknowledged
            self._refused.append(batch)
            self._is_draining = True
        else:
            self._give_up(batch, error)
        self._drained(now)

    def connection_lost(self) -> None:
        """Nobody knows what became of what is in flight: it goes again, as it is."""
        lost = [batch for batch in self.in_flight if not batch.is_done]
        self.in_flight.clear()
        for batch in lost:
            batch.is_maybe_written = True
        self._refused += lost
        self._is_draining = bool(self._refused)
        self._attempts = 0  # the connection has its own back-off
        self._drained(None)

    def _drained(self, now: float | None) -> None:
        """When the last one in flight is answered, put what was refused back in front."""
        if self.in_flight:
            return
        if self._is_draining:
            self._is_draining = False
            for batch in self._refused:
                if self._is_broken and not batch.is_maybe_written:
                    batch.forget_identity()
            self.queue = deque(sorted((*self._refused, *self.queue), key=lambda batch: batch.order))
            self._refused.clear()
            if now is not None:
                self._attempts += 1
                self._retry_at = now + self.options.retry_after_s(self._attempts)
        if self._is_broken and not any(batch.producer for batch in self.queue):
            self.producer = None

    def _give_up(self, batch: Batch, error: TrunklineError) -> None:
        if batch.producer is not None and self.options.is_idempotent:
            self._is_broken = True
        batch.finish(-1, error)

    def expire(self, now: float) -> None:
        """Give up what is past its deadline."""
        for batch in (*self.in_flight, *self._refused):
            if not batch.is_done and batch.deadline <= now:
                self._give_up(batch, self._too_late(batch))
        self._refused = [batch for batch in self._refused if not batch.is_done]
        while self.queue and self.queue[0].deadline <= now:  # deadlines grow along the queue
            batch = self.queue.popleft()
            self._give_up(batch, self._too_late(batch))
        self._drained(now)

    def fail_all(self, error: TrunklineError) -> None:
        """The client ends: nothing more is sent."""
        for batch in (*self.in_flight, *self._refused, *self.queue):
            if not batch.is_done:
                batch.finish(-1, error)
        self.in_flight.clear()
        self._refused.clear()
        self.queue.clear()

    def _too_late(self, batch: Batch) -> DeliveryTimeout:
        is_maybe_written = batch.is_maybe_written or batch in self.in_flight
        known = "they may or may not have been written" if is_maybe_written else "they were not written"
        return DeliveryTimeout(
            f"{self.topic}/{self.partition}: {batch.builder.count} records were not acknowledged within "
            f"{self.options.delivery_timeout_s:g} s; {known}; see whether the broker is up",
            topic=self.topic,
            partition=self.partition,
            is_maybe_written=is_maybe_written,
        )
