"""Queues that do not outlive the broker: state, index and home topic are in memory, and nothing is written for them.

They take records from ordinary topics as all queues do. What is addressed to such a queue alone goes to its home topic,
which no catalog knows: a partition over a log in memory, made and forgotten with the queue. Committing there takes no
fsync, so it happens in the round that publishes.

That log is trimmed to what the queue still has use for when half of it is of no use. All of them together may take
``limits.max_volatile_bytes``; beyond, a publisher gets StoreFull, as for a full disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import StoreFull, UnknownQueue
from trunkline.log import TopicPartition
from trunkline.memory_log import KeptBatches, MemoryLog
from trunkline.partition import Partition
from trunkline.queues.queue import Queue
from trunkline.settings import MAX_MESSAGE_BYTES, TopicSettings
from trunkline.topic import Topic

if TYPE_CHECKING:
    from trunkline.pending import AppendReceiver
    from trunkline.queues.config import Definition
    from trunkline.queues.context import QueueContext

__all__ = ["MemoryBudget", "VolatileQueue"]

_SETTINGS: Final = TopicSettings.parse({"durability": "os", "max.message.bytes": str(MAX_MESSAGE_BYTES)})

_TRIMMED_BYTES: Final = 16 * 1024
"""A log this small is not worth a look, unless nothing in it is of use."""


class MemoryBudget:
    """What the logs of all volatile queues take together, and may."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class _VolatileLog(MemoryLog):
    """A log in memory that keeps to a budget."""

    def __init__(self, name: TopicPartition, budget: MemoryBudget) -> None:
        super().__init__(name, KeptBatches())
        self._budget = budget

    def append(self, batches: Sequence[bytes]) -> None:
        size = sum(map(len, batches))
        budget = self._budget
        if budget.used_bytes + size > budget.limit_bytes:
            raise StoreFull(
                f"{self._name}: queues that are in memory only have used up limits.max_volatile_bytes="
                f"{budget.limit_bytes}; try again when they are shorter"
            )
        super().append(batches)
        budget.used_bytes += size

    def trim(self, offset: int) -> None:
        before = self.size_bytes()
        super().trim(offset)
        self._budget.used_bytes -= before - self.size_bytes()


class VolatileQueue(Queue):
    """Made by :meth:`trunkline.queues.queues.Queues.declare_volatile`."""

    __slots__ = ("_home", "_log")

    is_volatile = True

    def __init__(self, context: QueueContext, name: str, definition: Definition, budget: MemoryBudget) -> None:
        super().__init__(context, name, definition)
        services = context.services
        self._log = _VolatileLog(TopicPartition(name, 0), budget)
        self._home = home = Topic(name, "", _SETTINGS, services.rng)
        rounds = services.rounds
        home.partitions = (
            Partition(home, 0, self._log, is_blocking=False, rounds=rounds, now_ms=rounds.now_ms, spawn=services.spawn),
        )
        context.sources.add_volatile(home.partitions[0])

    @property
    def home(self) -> Topic:
        return self._home

    async def ensure_home(self) -> Topic:
        await trio.lowlevel.checkpoint()
        return self._home

    async def store(self, definition: Definition) -> None:
        await trio.lowlevel.checkpoint()

    def persist(self, *, snapshot: bool = False) -> None:
        """Forget what would be written, and the records that are of no more use."""
        self._is_dirty = False
        if self.is_deleted:
            return
        for feed in self.feeds:
            feed.unwritten.forget(self)
        self.state.forget_changes()
        size = self._log.size_bytes()
        if self.state.live_bytes == 0 or (size > _TRIMMED_BYTES and size > 2 * self.state.live_bytes):
            self._trim()

    def _trim(self) -> None:
        (feed,) = [feed for feed in self.feeds if feed.partition.topic is self._home]
        needed = self.needed_from(feed)
        if needed > self._log.start_offset:
            self._log.trim(needed)

    def when_durable(self, receiver: AppendReceiver, token: object) -> None:
        if self.is_deleted:
            super().when_durable(receiver, token)
        else:
            self.context.services.rounds.call_soon(lambda: receiver.append_done(token, 0))

    @property
    def has_unwritten(self) -> bool:
        return False

    def deleted(self) -> None:
        super().deleted()
        partition = self._home.partitions[0]
        partition.refuse(UnknownQueue(f"queue {self.name} was deleted", queue=self.name))
        self._log.trim(self._log.end_offset)
        self.context.sources.remove_volatile(partition)
