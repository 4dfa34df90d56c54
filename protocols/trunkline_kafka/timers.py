"""Calls at a time, from one task for all connections: a task for each waiting fetch would cost more than the fetch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio

__all__ = ["Timer", "Timers"]


class Timer:
    """A call that was asked for."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It will not happen, if it has not."""
        self.call = None


class Timers:
    """For the broker's thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._is_earlier = trio.Event()

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it once, so many seconds from now. It must not raise."""
        timer = Timer(call)
        deadline = trio.current_time() + seconds
        if not self._heap or deadline < self._heap[0][0]:
            self._is_earlier.set()
        heapq.heappush(self._heap, (deadline, next(self._numbers), timer))
        return timer

    async def run(self) -> None:
        """Make the calls, until cancelled."""
        heap = self._heap
        while True:
            with trio.move_on_at(heap[0][0] if heap else math.inf):
                await self._is_earlier.wait()
            self._is_earlier = trio.Event()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                timer = heapq.heappop(heap)[2]
                if timer.call is not None:
                    timer.call()
