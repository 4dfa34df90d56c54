"""How a link goes: its state, since when, its last error, and its counters. No clock of its own."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from trunkline.bridge import LinkState, LinkStatus

__all__ = ["Journal"]


class Journal:
    """What :class:`trunkline.bridge.LinkStatus` shows of one link.

    Attributes:
      counters: by name; those of all links: ``messages``, ``bytes``, ``connections``, ``failures``.
      lag: records known to wait at the source; None: not known.
    """

    def __init__(self, name: str, direction: Literal["in", "out"], source: str, destination: str) -> None:
        self.name = name
        self.direction = direction
        self.source = source
        self.destination = destination
        self.counters: Counter[str] = Counter(messages=0, bytes=0, connections=0, failures=0)
        self.lag: int | None = None
        self.state: LinkState = "stopped"
        self._since_ms = 0
        self._error = ""
        self._error_ms = 0

    def became(self, state: LinkState, now_ms: int) -> None:
        """It is in this state now; nothing happens if it was already."""
        if state != self.state:
            self.state = state
            self._since_ms = now_ms

    def failed(self, error: str, now_ms: int) -> None:
        """Something went wrong."""
        self.counters["failures"] += 1
        self.note(error, now_ms)

    def note(self, error: str, now_ms: int) -> None:
        """Something is wrong that the link waits for."""
        self._error = error
        self._error_ms = now_ms

    def status(self) -> LinkStatus:
        return LinkStatus(
            name=self.name,
            direction=self.direction,
            source=self.source,
            destination=self.destination,
            state=self.state,
            since_ms=self._since_ms,
            error=self._error,
            error_ms=self._error_ms,
            lag=self.lag,
            counters=dict(self.counters),
        )
