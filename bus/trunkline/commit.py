"""The commit thread: one thread makes all logs durable, a group at a time.

The I/O round hands it the logs written since the last hand-over and goes on. While one fsync runs,
later rounds pile up behind it and share the next one (group commit), so the cost of durability is
per fsync, not per record. The thread answers through ``notify``, which must be callable from any
thread (the reactor's wake-up). A hop through a general thread pool cost four times as much.

A log whose flush raised is reported with its error and never flushed again: after a failed fsync the
kernel may have dropped the dirty pages, and a second fsync would succeed without having written them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from typing import Generic, TypeVar

__all__ = ["Committer"]

K = TypeVar("K", bound=Hashable)


class Committer(Generic[K]):
    """Feeds the commit thread. All methods but :meth:`run` belong to the broker's thread.

    Args:
      flush: makes one log durable and returns its durable end offset; called in the commit thread.
      notify: called in the commit thread after results were put where :meth:`take_results` finds them.
    """

    def __init__(self, flush: Callable[[K], int], notify: Callable[[], None]) -> None:
        self._flush = flush
        self._notify = notify
        self._jobs: SimpleQueue[list[K] | None] = SimpleQueue()
        self._results: deque[tuple[K, int | Exception]] = deque()
        self._waiting: dict[K, None] = {}
        self._group: dict[K, None] = {}  # handed over and not answered yet

    @property
    def is_idle(self) -> bool:
        """Nothing is being flushed, nothing waits for it."""
        return not self._group and not self._waiting

    def has(self, log: K) -> bool:
        """``log`` is being flushed, or waits for it: what must not overlap a flush waits until it is not."""
        return log in self._group or log in self._waiting

    def add(self, log: K) -> None:
        """This log was written to; flush it with the next group."""
        self._waiting[log] = None

    def discard(self, log: K) -> None:
        """Do not flush this log again (it was closed); a flush under way goes on."""
        self._waiting.pop(log, None)

    def start_group(self) -> None:
        """Hand over what is waiting, unless a group is being flushed now."""
        if self._waiting and not self._group:
            self._group, self._waiting = self._waiting, {}
            self._jobs.put(list(self._group))

    def take_results(self) -> list[tuple[K, int | Exception]]:
        """The logs of the group that has been flushed, each with its durable end offset or error."""
        if not self._results:
            return []
        results = list(self._results)
        self._results.clear()
        self._group = {}
        return results

    def run(self) -> None:
        """The thread's body: returns after :meth:`stop`, when all groups are flushed."""
        while (group := self._jobs.get()) is not None:
            results = [(log, self._flush_one(log)) for log in group]
            self._results.extend(results)  # one call: take_results sees all of a group or none
            self._notify()

    def _flush_one(self, log: K) -> int | Exception:
        try:
            return self._flush(log)
        except Exception as error:  # whatever a store raises stops that log, not the thread
            return error

    def stop(self) -> None:
        """Let the thread end."""
        self._jobs.put(None)
