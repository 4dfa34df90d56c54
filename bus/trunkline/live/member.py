"""A subscriber's place in one partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from trunkline.few import Few
from trunkline.filters import Syntax, key_text, matches
from trunkline.records import Record

if TYPE_CHECKING:
    from trunkline.live.subscriber import LiveSubscriber

__all__ = ["GONE", "Member", "Ranges", "holds"]

Ranges = Sequence[tuple[int, int]]
"""Of offsets, each from the first to behind the last."""

GONE: Final = -1
_NO_RECORDS: Final[list[Record]] = []


def holds(ranges: Ranges, start: int, end: int) -> bool:
    """Whether one of these ranges of offsets has all of ``[start, end)``; they are few."""
    return any(first <= start and end <= last for first, last in ranges)


class Member:
    """A subscriber's place in one partition. ``cursor`` is None while it is live, GONE once it was removed."""

    __slots__ = ("cursor", "dense_until", "filters", "fresh_at", "is_reading", "leftover", "skip", "subscriber")

    def __init__(self, subscriber: LiveSubscriber, fresh_at: int) -> None:
        self.subscriber = subscriber
        self.fresh_at = fresh_at  # the high watermark when it came; while it is this, nothing was offered live
        self.filters: Few[tuple[str, Syntax], tuple[Any, int]] = Few()  # -> options, start offset
        self.cursor: int | None = None
        self.dense_until = 0  # below this offset it is not worth looking for what it wants
        self.leftover = _NO_RECORDS  # decoded, not offered yet; last first; replaced, never filled
        self.skip: Ranges = ()  # ranges of offsets that it was offered early before it stopped
        self.is_reading = False  # it is being served from the log, or will be in the next round

    def options(self, key: bytes | None, offset: int) -> list[Any]:
        return [
            options
            for (filter, syntax), (options, start) in self.filters.items()
            if offset >= start and (text := key_text(key, syntax)) is not None and matches(filter, text, syntax)
        ]
