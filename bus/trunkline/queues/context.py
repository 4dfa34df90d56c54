"""What all queues of a broker share: time, the log's tail end, who is due when, and what is to be written.

Work is done in rounds. A queue that has something to give out, or to write, says so once; in the next round all
that said so are served together, so that a thousand acknowledgements make one delta and one look at the consumers.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from trunkline.queues.blocks import BatchCache
from trunkline.queues.marks import Marks
from trunkline.queues.sources import SourceTable

if TYPE_CHECKING:
    from trunkline.queues.dead_letters import DeadLetterHandler
    from trunkline.queues.remembered import RememberedQueue
    from trunkline.state_topic import StateTopic
    from trunkline.views import ViewServices

__all__ = ["ENGINE", "QueueContext"]

logger = logging.getLogger("trunkline.queues")

ENGINE: Final = -1
"""The holder of entries that are on their way out (dead letters, moved records)."""

WRITTEN_AT_ONCE: Final = 100
"""Queues that write something in one round, or are woken: 0.1 ms each. Others wait for the next round."""

_LONGEST_SLEEP_S: Final = 60.0
"""The timer looks at the wall clock so often, since that may be set."""


class QueueContext:
    """Belongs to the broker's thread.

    Attributes:
      topic: ``__queues``.
      sources: which number stands for which partition.
      cache: batches on their way out.
      marks: of copies that the broker has made.
      is_closing: nothing is given out any more.
      dead_letter_handlers: by the names that queues call them.
    """

    __slots__ = (
        "_defining",
        "_dirty",
        "_due",
        "_holder",
        "_locks",
        "_serving",
        "_turn",
        "_woken",
        "cache",
        "dead_letter_handlers",
        "is_closing",
        "marks",
        "services",
        "sources",
        "topic",
    )

    def __init__(self, services: ViewServices) -> None:
        self.services = services
        self.topic: StateTopic = services.state_topic("__queues")
        self.sources = SourceTable(self.topic, services.catalog)
        self.marks = Marks(self.topic, services.rng)
        self.cache = BatchCache()
        self.is_closing = False
        self.dead_letter_handlers: dict[str, DeadLetterHandler] = {}
        self._holder = 0
        self._defining = 0
        self._locks: dict[str, trio.Lock] = {}  # of queues that are being made, changed or deleted
        self._dirty: list[RememberedQueue] = []
        self._serving: list[RememberedQueue] = []
        self._due: list[tuple[int, int, RememberedQueue]] = []  # a heap: ms, to tell equals apart, queue
        self._turn = 0
        self._woken = trio.Event()

    def now_ms(self) -> int:
        return self.services.rounds.now_ms()

    def new_holder(self) -> int:
        self._holder += 1
        return self._holder

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        """One change of a queue at a time; those of others go on, and share their fsyncs."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    @contextmanager
    def defining(self) -> Iterator[None]:
        """What is stored of a queue's sources may differ from what is here: nothing is said for all queues meanwhile.

        Else such a note could stand behind the definition of a queue that did not take from the source yet.
        """
        self._defining += 1
        try:
            yield
        finally:
            self._defining -= 1

    @property
    def is_defining(self) -> bool:
        return self._defining > 0

    # -- once a round ------------------------------------------------------------------------------

    def serve_soon(self, queue: RememberedQueue) -> None:
        """Have ``queue.serve()`` called in the next round. The queue sees to it that it is there once."""
        if not self._serving:
            self.services.rounds.call_soon(self._serve)
        self._serving.append(queue)

    def _serve(self) -> None:
        serving, self._serving = self._serving, []
        for queue in serving:
            self.serve(queue)

    def serve(self, queue: RememberedQueue) -> None:
        """Call ``queue.serve()`` now; its failure is logged."""
        try:
            queue.serve()
        except Exception:  # the boundary: one queue's bug must not keep the others from being served
            logger.exception("queue %s could not be served", queue.name)

    def persist_soon(self, queue: RememberedQueue) -> None:
        """The same for ``queue.persist()``."""
        if not self._dirty:
            self.services.rounds.call_soon(self._persist)
        self._dirty.append(queue)

    def _persist(self) -> None:
        dirty, self._dirty = self._dirty[:WRITTEN_AT_ONCE], self._dirty[WRITTEN_AT_ONCE:]
        if self._dirty:
            self.services.rounds.call_soon(self._persist)
        for queue in dirty:
            try:
                queue.persist()
            except Exception:  # the boundary, as above
                logger.exception("queue %s could not write what it must remember", queue.name)

    # -- time --------------------------------------------------------------------------------------

    def wake_at(self, queue: RememberedQueue, when_ms: int) -> None:
        """Have ``queue.tick()`` called at that time (ms since the epoch), or soon after."""
        self._turn += 1
        is_first = not self._due or when_ms < self._due[0][0]
        heapq.heappush(self._due, (when_ms, self._turn, queue))
        if is_first:
            self._woken.set()

    async def run_timers(self) -> None:
        """Call those who are due, until cancelled."""
        while True:
            self._woken = trio.Event()
            wait_s = _LONGEST_SLEEP_S
            if self._due:
                wait_s = min(wait_s, (self._due[0][0] - self.services.rounds.clock_ms()) / 1000)
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._woken.wait()
            else:
                await trio.lowlevel.checkpoint()
            if self._due and self._due[0][0] <= self.services.rounds.clock_ms():
                self.services.rounds.call_soon(self._tick)
                with trio.move_on_after(_LONGEST_SLEEP_S):
                    await self._woken.wait()

    def _tick(self) -> None:
        now = self.services.rounds.now_ms()
        for _ in range(WRITTEN_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            _, _, queue = heapq.heappop(self._due)
            try:
                queue.tick()
            except Exception:  # the boundary, as above
                logger.exception("queue %s could not do what was due", queue.name)
        self._woken.set()
