"""Heartbeats to clients (AMQP 0-9-1, 4.2.7): one in each half of what was agreed on, whatever else is sent.

Not to send one when something else was just sent would save 8 bytes in 30 seconds, and cost a look at the clock
for each write.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Protocol

import trio

__all__ = ["Heartbeats"]


class Beating(Protocol):
    """Who is to be sent heartbeats."""

    @property
    def is_over(self) -> bool: ...

    def beat(self) -> None: ...


class Heartbeats:
    """All connections of a door that want some; belongs to the broker's thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, float, Beating]] = []  # when, to tell equals apart, interval, who
        self._numbers = count()
        self._is_earlier = trio.Event()

    def add(self, connection: Beating, interval_s: float) -> None:
        """Begin; it ends when the connection is over."""
        when = trio.current_time() + interval_s
        if not self._due or when < self._due[0][0]:
            self._is_earlier.set()
        heapq.heappush(self._due, (when, next(self._numbers), interval_s, connection))

    async def run(self) -> None:
        """Send them, until cancelled."""
        due = self._due
        while True:
            with trio.move_on_at(due[0][0] if due else math.inf):
                await self._is_earlier.wait()
            self._is_earlier = trio.Event()
            now = trio.current_time()
            while due and due[0][0] <= now:
                _, number, interval, connection = due[0]
                if connection.is_over:
                    heapq.heappop(due)
                else:
                    connection.beat()
                    heapq.heapreplace(due, (now + interval, number, interval, connection))
