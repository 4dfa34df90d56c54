"""Why a group was last rebalanced, and who was waited for."""

from __future__ import annotations

__all__ = ["Rebalance"]


class Rebalance:
    """One rebalance. Times are those of the state machine, in seconds.

    Attributes:
      reason: a sentence about what set it off.
      ended: None while it is under way.
      late: ids of members that were waited for until a timeout.
    """

    __slots__ = ("began", "ended", "late", "reason")

    def __init__(self, reason: str, now: float) -> None:
        self.reason = reason
        self.began = now
        self.ended: float | None = None
        self.late: list[str] = []

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    def end(self, now: float) -> None:
        if self.ended is None:
            self.ended = now
