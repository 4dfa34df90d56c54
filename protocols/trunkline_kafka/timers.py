"""Calls at a time, from one task for all connections: a task for each waiting fetch would cost more than the fetch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final

import trio

__all__ = ["Timer", "Timers"]


_FEW: Final = 100  # cancelled calls that are not worth a look


class Timer:
    """A call that was asked for; ``call`` is None once it is cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call


class Timers:
    """For the broker's thread. Most calls are cancelled; what is cancelled is forgotten when it is half of all."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        self._numbers = count()
        self._is_earlier = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it once, so many seconds from now. It must not raise."""
        timer = Timer(call)
        deadline = trio.current_time() + seconds
        if not self._heap or deadline < self._heap[0][0]:
            self._is_earlier.set()
        heapq.heappush(self._heap, (deadline, next(self._numbers), timer))
        return timer

    def cancel(self, timer: Timer) -> None:
        """It will not happen, if it has not."""
        if timer.call is None:
            return
        timer.call = None
        self._cancelled += 1
        if self._cancelled > max(_FEW, len(self._heap) // 2):
            self._heap[:] = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

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
                call, timer.call = timer.call, None
                if call is None:
                    self._cancelled -= 1
                else:
                    call()
