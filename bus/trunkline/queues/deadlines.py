"""When those who hold entries of a queue lose them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Final

from trunkline.queues.index import Lease
from trunkline.queues.spans import SpanMap

__all__ = ["Deadlines"]

_FEW: Final = 1024
"""Deadlines that are kept without asking how many of them are out of date."""


class Deadlines:
    """Those of all leases, also of some that have ended. ``holders``, where asked for, has what each holder has now."""

    __slots__ = ("_heap", "_most")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int]] = []  # deadline_ms, first, end, holder
        self._most = _FEW

    def add(self, spans: list[Lease], holder: int, deadline_ms: int, holders: Mapping[int, SpanMap]) -> None:
        """The holder loses these then; they may be far apart."""
        first = min(span.sequence for span in spans)
        end = max(span.sequence + span.count for span in spans)
        heapq.heappush(self._heap, (deadline_ms, first, end, holder))
        if len(self._heap) > self._most:
            self._heap = [
                (span.deadline_ms, span.sequence, span.sequence + span.count, holder)
                for holder, held in holders.items()
                for span in held
                if span.deadline_ms
            ]
            heapq.heapify(self._heap)
            self._most = max(_FEW, 2 * len(self._heap))

    def overdue(self, now_ms: int, holders: Mapping[int, SpanMap]) -> Iterator[tuple[int, int, int]]:
        """What was held for too long: holder, and sequences ``[first, end)``; to be taken out before the next."""
        while self._heap and self._heap[0][0] <= now_ms:
            _, first, end, holder = heapq.heappop(self._heap)
            held = holders.get(holder)
            if held is None:
                continue
            for span in list(held.overlapping(first, end)):
                if 0 < span.deadline_ms <= now_ms:
                    yield holder, span.sequence, span.sequence + span.count

    def next_ms(self, holders: Mapping[int, SpanMap]) -> int | None:
        """When somebody loses something next; None: nobody does."""
        while self._heap and not _is_true(*self._heap[0], holders):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


def _is_true(deadline_ms: int, first: int, end: int, holder: int, holders: Mapping[int, SpanMap]) -> bool:
    held = holders.get(holder)
    return held is not None and any(span.deadline_ms == deadline_ms for span in held.overlapping(first, end))
