"""One consumer's hold on a queue: what it has been given, and what it may still get.

Everything here is synchronous and belongs to the broker's thread. A consumer speaks of records by their sequences,
in ranges ``[first, end)``; whatever is in a range and not held by this very consumer is ignored, so a late or repeated
word does no harm and takes no effect twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trunkline.queues.consumers import UNLIMITED

if TYPE_CHECKING:
    from trunkline.errors import TrunklineError
    from trunkline.pending import AppendReceiver
    from trunkline.queues.blocks import Block
    from trunkline.queues.serving import ServedQueue

__all__ = ["Consumption", "QueueConsumer", "Range", "SharedPrefetch"]

Range = tuple[int, int]


class QueueConsumer(ABC):
    """Who consumes a queue: a door's end of it."""

    @abstractmethod
    def deliver(self, blocks: list[Block]) -> None:
        """Take records, in the order of the queue. If it raises, it is logged and the consumption is closed."""

    @abstractmethod
    def cancelled(self, error: TrunklineError) -> None:
        """It is over: the queue was deleted, or the broker closes. Told once, last."""


class SharedPrefetch:
    """A prefetch limit for several consumptions together, beside their own.

    Attributes:
      limit: records that they may hold together; 0: no limit.
      unacked: records that they hold.
    """

    __slots__ = ("consumptions", "limit", "unacked")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.unacked = 0
        self.consumptions: dict[Consumption, None] = {}

    def set_limit(self, limit: int) -> None:
        """Change it; more is given at once if there is room now."""
        self.limit = limit
        self.serve_all()

    def serve_all(self) -> None:
        """There may be room again for any of them."""
        for consumption in self.consumptions:
            consumption.queue.serve_soon()


class Consumption:
    """Made by :meth:`trunkline.queues.queue.Queue.consume`.

    Attributes:
      holder: what leases of this consumer are marked with.
      is_attached: it is one of the queue's consumers: it is given records, and counts as one.
      name: for people.
      prefetch, prefetch_bytes: how much it may hold; 0: no limit.
      unacked: records that it holds.
    """

    __slots__ = (
        "_is_paused",
        "consumer",
        "holder",
        "is_attached",
        "is_auto_settling",
        "is_closed",
        "is_exclusive",
        "is_loading",
        "name",
        "prefetch",
        "prefetch_bytes",
        "priority",
        "queue",
        "shared",
        "unacked",
    )

    def __init__(
        self,
        queue: ServedQueue,
        consumer: QueueConsumer,
        holder: int,
        *,
        prefetch: int,
        prefetch_bytes: int,
        priority: int,
        exclusive: bool,
        auto_settle: bool,
        shared: SharedPrefetch | None,
        name: str,
    ) -> None:
        self.queue = queue
        self.consumer = consumer
        self.holder = holder
        self.prefetch = prefetch
        self.prefetch_bytes = prefetch_bytes
        self.priority = priority
        self.is_exclusive = exclusive
        self.is_auto_settling = auto_settle
        self.shared = shared
        self.name = name
        self.unacked = 0
        self.is_attached = False
        self.is_closed = False
        self.is_loading = False  # records for it are being read; more would overtake them
        self._is_paused = False
        if shared is not None:
            shared.consumptions[self] = None

    def __repr__(self) -> str:
        return f"<Consumption {self.name or self.holder} of {self.queue.name}>"

    @property
    def free(self) -> int:
        """How many more records it may be given now."""
        if self._is_paused or self.is_loading or self.is_closed or (self.prefetch_bytes and self.free_bytes <= 0):
            return 0
        free = (self.prefetch or UNLIMITED) - self.unacked
        shared = self.shared
        if shared is not None and shared.limit and shared.limit - shared.unacked < free:
            return shared.limit - shared.unacked
        return free

    @property
    def free_bytes(self) -> int:
        """How many more bytes of records it may hold, if there is a limit."""
        return self.prefetch_bytes - self.queue.state.bytes_held_by(self.holder)

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def settle(self, ranges: Iterable[Range]) -> int:
        """Finish with records for good; how many of them took effect."""
        done = self.queue.state.settle(ranges, self.holder)
        if done:
            self.let_go(done)
            self.queue.acknowledged += done
            self.queue.changed()
        return done

    def release(self, ranges: Iterable[Range], *, delay_s: float = 0.0, count: bool = True) -> int:
        """Give records back to their places; how many took effect.

        Args:
          delay_s: nobody gets them for so long.
          count: whether it counts as a delivery that failed.
        """
        return self.queue.release(self, ranges, delay_s=delay_s, count=count)

    def reject(self, ranges: Iterable[Range], reason: str = "rejected") -> int:
        """Dead-letter records; how many took effect. They are finished with once their copies are durable."""
        return self.queue.reject(self, ranges, reason)

    def extend(self, ranges: Iterable[Range], lock_timeout_s: float) -> int:
        """Keep records for so long from now on; how many took effect. Without a lock timeout nothing happens."""
        return self.queue.extend(self, ranges, lock_timeout_s)

    def when_durable(self, receiver: AppendReceiver, token: object) -> None:
        """Tell ``receiver`` once everything settled so far is durable: ``append_done(token, 0)``."""
        self.queue.when_durable(receiver, token)

    def set_prefetch(self, prefetch: int) -> None:
        """Change how many records it may hold; 0: no limit. What it has it keeps."""
        self.prefetch = prefetch
        self.queue.serve_soon()

    def pause(self) -> None:
        """Give it nothing more until ``resume``."""
        self._is_paused = True

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self.queue.serve_soon()

    def take(self, count: int = 1) -> bool | None:
        """Give it up to ``count`` records now, whatever its prefetch; it need not be attached.

        Returns:
          True: ``deliver`` was called, or will be once they are read; False: nothing is ready; None: what is ready is
          not known in memory: await :meth:`~trunkline.queues.queue.Queue.load_head` and ask again.
        """
        return self.queue.give(self, count)

    def retire(self) -> None:
        """Give it nothing more and count it no more among the consumers; what it holds it keeps. ``close`` ends it."""
        self.queue.retire(self)

    def close(self) -> None:
        """End it. What it holds goes back to its places, and counts as delivered once. ``cancelled`` is not called."""
        self.queue.leave(self)

    def let_go(self, count: int) -> None:
        """It holds so many fewer."""
        self.unacked -= count
        shared = self.shared
        if shared is not None:
            was_full = shared.limit and shared.unacked >= shared.limit
            shared.unacked -= count
            if was_full and len(shared.consumptions) > 1:
                shared.serve_all()

    def took(self, count: int) -> None:
        """It was given so many."""
        self.unacked += count
        if self.shared is not None:
            self.shared.unacked += count
