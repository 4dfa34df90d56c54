"""Waiting for something that happens again and again, mostly while nobody waits."""

from __future__ import annotations

import trio

__all__ = ["Changes"]


class Changes:
    """Wakes all tasks that wait, each time it is told; next to nothing is kept, and done, while there are none."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: trio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next time; a checkpoint."""
        if self._next is None:
            self._next = trio.Event()
        await self._next.wait()

    def tell(self) -> None:
        """It has happened."""
        if self._next is not None:
            happened, self._next = self._next, None
            happened.set()
