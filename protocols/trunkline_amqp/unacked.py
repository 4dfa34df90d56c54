"""What a channel has delivered and heard nothing of yet: delivery tags and what they stand for. Decides only.

A channel numbers its deliveries from 1. A *span* is consecutive tags that stand for consecutive sequences of one holder
(a consumer, or those who get single messages); a consumer that is served in batches and acknowledges in order
has one or two, however many messages it holds.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeVar

__all__ = ["Held", "Unacked"]

H = TypeVar("H")


Held = tuple[H, int, int]
"""A holder, and the sequences ``[first, end)`` that it has."""


class _Span(Generic[H]):
    __slots__ = ("end", "first", "holder", "sequence")

    def __init__(self, first: int, end: int, holder: H, sequence: int) -> None:
        self.first = first
        self.end = end
        self.holder = holder
        self.sequence = sequence  # of the first tag

    def held(self, first: int, end: int) -> Held[H]:
        start = self.sequence - self.first
        return self.holder, start + first, start + end


class Unacked(Generic[H]):
    """The unacknowledged deliveries of one channel.

    Attributes:
      last_tag: of the last delivery.
    """

    __slots__ = ("_head", "_spans", "last_tag")

    def __init__(self) -> None:
        self.last_tag = 0
        self._spans: list[_Span[H]] = []
        self._head = 0  # spans before it are done with

    def __len__(self) -> int:
        return sum(span.end - span.first for span in self._spans[self._head :])

    def add(self, holder: H, sequence: int, count: int) -> int:
        """Deliveries of consecutive sequences; the first one's tag."""
        tag = self.last_tag + 1
        self.last_tag += count
        if len(self._spans) > self._head:
            last = self._spans[-1]
            if last.end == tag and last.holder is holder and last.sequence + tag - last.first == sequence:
                last.end += count
                return tag
        self._spans.append(_Span(tag, tag + count, holder, sequence))
        return tag

    def skip(self, count: int) -> int:
        """Deliveries that need no acknowledgement; the first one's tag."""
        tag = self.last_tag + 1
        self.last_tag += count
        return tag

    def take(self, tag: int) -> Held[H] | None:
        """The delivery with this tag; None: there is none that is unacknowledged."""
        spans, place = self._spans, self._head
        if len(spans) == place:
            return None
        span = spans[place]
        if span.first == tag < span.end - 1:  # in order, as nearly all of them
            sequence = span.sequence
            span.first += 1
            span.sequence += 1
            return span.holder, sequence, sequence + 1
        if not span.first <= tag < span.end:
            place = self._find(tag)
            if place < 0:
                return None
            span = spans[place]
        held = span.held(tag, tag + 1)
        if tag == span.first:
            span.first += 1
            span.sequence += 1
        elif tag == span.end - 1:
            span.end -= 1
        else:
            spans.insert(place + 1, _Span(tag + 1, span.end, span.holder, span.sequence + tag + 1 - span.first))
            span.end = tag
        if span.first == span.end:
            self._remove(place)
        return held

    def take_run(self, first: int, end: int) -> Held[H] | None:
        """Deliveries in order, if they are the first ones of one holder that are unacknowledged; None: take each."""
        spans, place = self._spans, self._head
        if len(spans) == place:
            return None
        span = spans[place]
        if span.first != first or end > span.end:
            return None
        sequence, count = span.sequence, end - first
        span.first = end
        span.sequence += count
        if end == span.end:
            self._remove(place)
        return span.holder, sequence, sequence + count

    def take_through(self, tag: int) -> list[Held[H]] | None:
        """All up to and with this tag; None: that one is not unacknowledged."""
        place = self._find(tag)
        if place < 0:
            return None
        spans = self._spans
        held = [span.held(span.first, span.end) for span in spans[self._head : place]]
        span = spans[place]
        held.append(span.held(span.first, tag + 1))
        span.sequence += tag + 1 - span.first
        span.first = tag + 1
        self._head = place
        if span.first == span.end:
            self._remove(place)
        return held

    def take_all(self) -> list[Held[H]]:
        """All there are."""
        held = [span.held(span.first, span.end) for span in self._spans[self._head :]]
        self._spans, self._head = [], 0
        return held

    def has(self, tag: int) -> bool:
        """Whether the delivery with this tag is unacknowledged."""
        return self._find(tag) >= 0

    @property
    def highest(self) -> int:
        """The highest tag that is unacknowledged; 0: there is none."""
        return self._spans[-1].end - 1 if len(self._spans) > self._head else 0

    def _find(self, tag: int) -> int:
        """The place of the span with this tag; -1: there is none."""
        place = bisect_right(self._spans, tag, lo=self._head, key=lambda span: span.first) - 1
        return place if place >= self._head and tag < self._spans[place].end else -1

    def _remove(self, place: int) -> None:
        if place == self._head:
            self._head += 1
            if self._head > 64 and self._head * 2 > len(self._spans):  # deleting each time would move all of them
                del self._spans[: self._head]
                self._head = 0
        else:
            del self._spans[place]
