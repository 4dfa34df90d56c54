"""A queue of ours: a consumer takes its records, RabbitMQ's confirm settles them.

What RabbitMQ refuses goes back to the queue with a delay, so the queue's own limits and dead letters apply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from trunkline.broker import Broker
from trunkline.errors import TrunklineError
from trunkline.links import Journal
from trunkline.queues import Block, Consumption, Queue, QueueConsumer
from trunkline_rabbitmq.outbound import Message
from trunkline_rabbitmq.sources import Source, ToMessage

__all__ = ["QueueSource"]

_ALL = [(0, 2**62)]

HELD_BYTES: Final = 32 * 1024 * 1024
"""Of records on their way to RabbitMQ, whatever their number."""


class QueueSource(Source, QueueConsumer):
    """See the module's docstring."""

    def __init__(
        self,
        broker: Broker,
        queue: str,
        prefetch: int,
        journal: Journal,
        to_message: ToMessage,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(to_message, wake)
        self._broker = broker
        self._name = queue
        self._prefetch = prefetch
        self._journal = journal
        self._ready: deque[Message] = deque()
        self._done: list[tuple[int, int]] = []
        self._ended: TrunklineError | None = None
        self._queue: Queue
        self._consumption: Consumption

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """See :class:`Source`. Raises UnknownQueue, QueueInUse."""
        self._queue = self._broker.queues.get(self._name)
        self._consumption = self._queue.consume(
            self, prefetch=self._prefetch, prefetch_bytes=HELD_BYTES, name=f"rabbitmq {self._journal.name}"
        )
        try:
            yield
        finally:
            if self._ended is None:
                self._settle()
                self._consumption.release(_ALL, count=False)  # it was not their fault
                self._consumption.close()

    def deliver(self, blocks: list[Block]) -> None:
        """See :class:`trunkline.queues.QueueConsumer`."""
        for block in blocks:
            try:
                records = block.records()
            except TrunklineError as error:  # a client's batch with an intact checksum around nonsense
                self._journal.counters["unreadable"] += block.count
                self._journal.note(f"{block.partition.name}: {error}", self._broker.now_ms())
                self._consumption.reject([(block.sequence, block.sequence + block.count)], "unreadable")
                continue
            topic = block.partition.topic.name
            for sequence, record in enumerate(records, block.sequence):
                message = self.to_message(record, topic, sequence)
                if message is None:
                    self._done.append((sequence, sequence + 1))
                else:
                    self._ready.append(message)
        self.wake()

    def cancelled(self, error: TrunklineError) -> None:
        """Likewise."""
        self._ended = error
        self.wake()

    async def take(self, limit: int) -> list[Message]:
        """See :class:`Source`; also raises what ended the consumption."""
        await trio.lowlevel.checkpoint()
        if self._ended is not None:
            raise self._ended
        ready = self._ready
        return [ready.popleft() for _ in range(min(limit, len(ready)))]

    def done(self, message: Message) -> None:
        """See :class:`Source`."""
        self._done.append((message.place, message.place + 1))
        if len(self._done) >= 100:
            self._settle()

    def give_back(self, message: Message, delay_s: float) -> bool:
        """It comes again, after the delay, or becomes a dead letter, as the queue is set."""
        if self._ended is None:
            self._consumption.release([(message.place, message.place + 1)], delay_s=delay_s)
        return True

    async def dead_letter(self, message: Message, reason: str) -> None:
        """A dead letter of the queue."""
        await trio.lowlevel.checkpoint()
        if self._ended is None:
            self._consumption.reject([(message.place, message.place + 1)], reason)

    async def commit(self) -> None:
        """See :class:`Source`."""
        await trio.lowlevel.checkpoint()
        self._settle()

    def _settle(self) -> None:
        if self._done and self._ended is None:
            self._consumption.settle(self._done)
        self._done = []

    @property
    def lag(self) -> int:
        """See :class:`Source`."""
        statistics = self._queue.statistics()
        return statistics.ready + statistics.unacked + statistics.delayed
