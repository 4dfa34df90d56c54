"""How long to wait before something is tried again."""

from __future__ import annotations

__all__ = ["Pauses"]


class Pauses:
    """Doubling from the first to the last, each shortened by chance by up to a half, so that many do not come at once.

    Args:
      first_s, last_s: the bounds.
    """

    __slots__ = ("_attempts", "_first_s", "_last_s")

    def __init__(self, first_s: float, last_s: float) -> None:
        self._first_s = first_s
        self._last_s = max(first_s, last_s)
        self._attempts = 0

    def next(self, chance: float) -> float:
        """The next one, in seconds. ``chance``: from 0 to 1."""
        longest = min(self._first_s * 2.0 ** min(self._attempts, 60), self._last_s)
        self._attempts += 1
        return longest * (1 - chance / 2)

    def reset(self) -> None:
        """It went well: begin with the first again."""
        self._attempts = 0
