"""Queues that go by themselves: with their connection, with their last consumer, or when nobody uses them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from trunkline_amqp.expiry import Expiries
from trunkline_amqp.queue_entry import QueueEntry

__all__ = ["Lifetimes"]


class Lifetimes:
    """Belongs to the broker's thread.

    Args:
      delete: deletes a queue, if it is still there.
      spawn: runs an async function as a task of the broker.
    """

    def __init__(self, delete: Callable[[QueueEntry], Awaitable[None]], spawn: Callable[..., None]) -> None:
        self._delete = delete
        self._spawn = spawn
        self._expiries = Expiries()
        self._changed = trio.Event()

    def consumer_gone(self, queue: QueueEntry) -> None:
        """A consumer of a queue is gone: with the last one an auto-delete queue goes."""
        self.touched(queue)
        if queue.is_auto_delete and not queue.consumer_count:
            self._spawn(self._delete, queue)

    def touched(self, queue: QueueEntry) -> None:
        """A queue is used now, as far as its ``x-expires`` goes."""
        if self._expiries.used(queue, trio.current_time()):
            self._changed.set()

    def removed(self, queue: QueueEntry) -> None:
        """A queue was deleted."""
        self._expiries.remove(queue)

    async def run(self) -> None:
        """Delete queues that nobody uses when their time is over, until cancelled."""
        while True:
            self._changed = trio.Event()
            due_s = self._expiries.next_due_s
            with trio.move_on_at(math.inf if due_s is None else due_s):
                await self._changed.wait()
            for queue in self._expiries.due(trio.current_time()):
                await self._delete(queue)
