"""What of a queue waits for its time."""

from __future__ import annotations

import heapq

from trunkline.queues.index import Lease
from trunkline.queues.spans import SpanMap

__all__ = ["Delayed"]


class Delayed:
    """Spans with a ``due_ms``. They may be taken out of ``spans`` at any time."""

    __slots__ = ("_due", "spans")

    def __init__(self) -> None:
        self.spans = SpanMap()
        self._due: list[tuple[int, int, int]] = []  # heap of due_ms, first, end; some may be out of date

    def add(self, span: Lease) -> None:
        """Let it wait until its ``due_ms``."""
        self.spans.add(span)
        heapq.heappush(self._due, (span.due_ms, span.sequence, span.sequence + span.count))

    def take_due(self, now_ms: int, changed: list[Lease]) -> list[Lease]:
        """Take out what is due; ``changed`` as for :meth:`SpanMap.take`."""
        taken: list[Lease] = []
        while self._due and self._due[0][0] <= now_ms:
            _, first, end = heapq.heappop(self._due)
            for span in [one for one in self.spans.overlapping(first, end) if one.due_ms <= now_ms]:
                taken += self.spans.take(span.sequence, span.sequence + span.count, changed)
        return taken

    def next_ms(self) -> int | None:
        """When something is due next; None: nothing waits."""
        due = self._due
        while due and not self._is_true(*due[0]):
            heapq.heappop(due)
        return due[0][0] if due else None

    def _is_true(self, due_ms: int, first: int, end: int) -> bool:
        return any(span.due_ms == due_ms for span in self.spans.overlapping(first, end))
