"""One task's worth of timers: a deadline for each name, the earliest first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

__all__ = ["Timers"]


class Timers:
    """A heap of deadlines, in seconds of the clock that is given to :meth:`due`.

    A deadline is only ever made earlier from outside. One that turns out to be too early costs a look: who is called
    sets it again. So a heartbeat, which makes it later, costs nothing here.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._deadlines: dict[str, float] = {}
        self._is_earlier = trio.Event()

    @property
    def next_deadline(self) -> float:
        return self._heap[0][0] if self._heap else math.inf

    def set(self, name: str, deadline: float) -> None:
        """Call ``name`` at ``deadline``, unless it is called earlier anyway."""
        if deadline < self._deadlines.get(name, math.inf):
            if deadline < self.next_deadline:
                self._is_earlier.set()
            self._deadlines[name] = deadline
            heapq.heappush(self._heap, (deadline, name))

    def due(self, now: float) -> list[str]:
        """The names whose deadline has come; they are forgotten."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            deadline, name = heapq.heappop(self._heap)
            if self._deadlines.get(name) == deadline:  # else it was made earlier, and has been called
                del self._deadlines[name]
                found.append(name)
        return found

    async def run(self, fire: Callable[[], None]) -> None:
        """Call ``fire`` whenever something is due, until cancelled."""
        while True:
            with trio.move_on_at(self.next_deadline):
                await self._is_earlier.wait()
            self._is_earlier = trio.Event()
            fire()
