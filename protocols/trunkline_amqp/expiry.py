"""When queues that nobody uses are deleted (``x-expires``). Decides only; times are seconds of any clock.

A queue is used while it has consumers, and at the moment when it is declared (again), asked for a message (basic.get),
or left by its last consumer. After a restart its time begins anew.
"""

from __future__ import annotations

from trunkline_amqp.queue_entry import QueueEntry

__all__ = ["Expiries"]


class Expiries:
    """The queues that expire."""

    def __init__(self) -> None:
        self._used_s: dict[QueueEntry, float] = {}

    def used(self, queue: QueueEntry, now_s: float) -> bool:
        """A queue is used now; True if it expires and is new here."""
        if queue.arguments.expires_ms < 0:
            return False
        is_new = queue not in self._used_s
        self._used_s[queue] = now_s
        return is_new

    def remove(self, queue: QueueEntry) -> None:
        """A queue is gone."""
        self._used_s.pop(queue, None)

    def due(self, now_s: float) -> list[QueueEntry]:
        """Those whose time is over. The others that have consumers count as used now."""
        for queue in self._used_s:
            if queue.consumer_count:
                self._used_s[queue] = now_s
        return [queue for queue, used_s in self._used_s.items() if _end_s(queue, used_s) <= now_s]

    @property
    def next_due_s(self) -> float | None:
        """When ``due`` is to be asked next; None: not before ``used`` has said True."""
        return min((_end_s(queue, used_s) for queue, used_s in self._used_s.items()), default=None)


def _end_s(queue: QueueEntry, used_s: float) -> float:
    return used_s + queue.arguments.expires_ms / 1000
