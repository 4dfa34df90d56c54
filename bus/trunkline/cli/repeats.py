"""Which lines of a log are written when thousands say the same. Decides; no I/O, no clock.

A device that connects ten times a second and is refused, or 5,000 that a router has cut off, would fill the log and
push what matters out of it. Lines of one *kind* (the same text before its arguments are filled in) are written up to
``ALLOWED`` in ``WINDOW_S`` seconds, from the first of them on. Of the others the last is remembered, and written with
their number when that time is over.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["ALLOWED", "WINDOW_S", "Repeats"]

T = TypeVar("T")

WINDOW_S: Final = 10.0
ALLOWED: Final = 20


class _Window(Generic[T]):
    __slots__ = ("count", "ends_at", "last")

    def __init__(self, ends_at: float, last: T) -> None:
        self.ends_at = ends_at
        self.count = 0
        self.last = last


class Repeats(Generic[T]):
    """The kinds of lines of the last seconds, in the order in which their time is over."""

    def __init__(self) -> None:
        self._windows: dict[Hashable, _Window[T]] = {}

    def admit(self, kind: Hashable, line: T, now: float) -> bool:
        """Whether to write a line. Call ``over`` before."""
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now + WINDOW_S, line)
        window.count += 1
        window.last = line
        return window.count <= ALLOWED

    def over(self, now: float) -> Iterator[tuple[int, T]]:
        """How many lines were left out, and the last of them, for each kind whose time is over at ``now``."""
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if window.ends_at > now:
                return
            del self._windows[kind]
            if window.count > ALLOWED:
                yield window.count - ALLOWED, window.last

    def next_due(self) -> float | None:
        """When ``over`` has something to say, at the earliest; None: there is nothing to wait for."""
        return next((window.ends_at for window in self._windows.values()), None)
