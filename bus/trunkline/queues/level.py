"""The order of one priority: what its index gives out, and before that what was put back.

What the head of the index has passed is live only as a span: leased by somebody, or ``returned``. What comes next is
whichever of the two has the lower sequence.
"""

from __future__ import annotations

import msgspec

from trunkline.queues.chain import Chain
from trunkline.queues.index import END, Chunk, Lease, fitting, slice_bytes
from trunkline.queues.spans import SpanMap

__all__ = ["Level", "Taking"]


class Taking(msgspec.Struct, gc=False):
    """What somebody takes, over several priorities.

    Attributes:
      limit: so many more entries.
      room: so many more bytes; a first entry is taken even if it is larger.
      wants_expired: takes what has expired at ``now_ms``, otherwise what has not.
      spans: what was taken.
    """

    limit: int
    holder: int
    deadline_ms: int = 0
    room: int = END
    now_ms: int = 0
    wants_expired: bool = False
    spans: list[Lease] = msgspec.field(default_factory=list)


class Level(Chain):
    """One priority of a queue."""

    __slots__ = ("returned", "settled", "told")

    def __init__(self, priority: int) -> None:
        super().__init__(priority)
        self.returned: SpanMap | None = None
        self.settled: list[int] = []  # first, end, first, end, ... since the last delta
        self.told = 0  # what was last told of how far the head is

    # What comes next

    def take(self, taking: Taking, changed: list[Lease]) -> bool:
        """Take what comes next, as long as it is wanted.

        Args:
          changed: spans about which the next delta has to tell something are added.

        Returns:
          Whether lower priorities may be looked at: nothing is left here, and no chunk has to be loaded.
        """
        while taking.limit:
            has_run = self.count > 0 or self.refill()
            returned = self.returned
            span = None if returned is None else self._returned_below(self.sequence if has_run else self.missing_from)
            if span is not None:
                expires, count, size = span.expires_ms, span.count, span.size_bytes
            elif has_run:
                expires, count, size = self.expires_ms, self.count, self.size_bytes
            else:
                return self.missing_from == END
            if (0 < expires <= taking.now_ms) is not taking.wants_expired:
                return False
            wanted = count if count < taking.limit else taking.limit
            if size > taking.room:
                wanted = min(wanted, fitting(size, count, taking.room)) or int(not taking.spans)
                if not wanted:
                    return False
            if span is None:
                span = self._take_run(wanted, taking.holder, taking.deadline_ms, changed)
            else:
                assert returned is not None
                span = self._take_returned(returned, wanted, changed)
                span.holder, span.deadline_ms = taking.holder, taking.deadline_ms
            taking.spans.append(span)
            taking.limit -= wanted
            taking.room -= span.size_bytes
        return False

    def _take_run(self, wanted: int, holder: int, deadline_ms: int, changed: list[Lease]) -> Lease:
        """The first entries of the run that the head stands on."""
        sequence, offset, size = self.sequence, self.offset, self.size_bytes
        if wanted == self.count:
            self.count = 0
        else:
            size = slice_bytes(size, self.count, 0, wanted)
            self.sequence += wanted
            self.offset += wanted
            self.count -= wanted
            self.size_bytes -= size
        chunk = self.chunks[self.head]
        span = Lease(
            sequence,
            wanted,
            self.source,
            offset,
            size,
            self.deliveries,
            holder,
            deadline_ms,
            self.priority,
            self.expires_ms,
            0,
            chunk,
        )
        chunk.held += wanted
        if self.deliveries:
            self.put_aside(span, changed)
        return span

    def _take_returned(self, returned: SpanMap, wanted: int, changed: list[Lease]) -> Lease:
        first = returned.first()
        assert first is not None
        if wanted == first.count:
            span = returned.pop_first()
        else:
            span = returned.cut_first(wanted)
            if span.is_changed:
                changed.append(span)
        self.put_aside(span, changed)
        return span

    @property
    def next_expiry_ms(self) -> int:
        """When what comes next expires; 0: never, or nothing is known of it."""
        has_run = self.count > 0 or self.refill()
        span = self._returned_below(self.sequence if has_run else self.missing_from)
        if span is not None:
            return span.expires_ms
        return self.expires_ms if has_run else 0

    def _returned_below(self, sequence: int) -> Lease | None:
        """What was put back and comes next, if it is before ``sequence``."""
        span = self.returned.first() if self.returned is not None else None
        return span if span is not None and span.sequence < sequence else None

    # What comes back, or is done with

    def put_back(self, span: Lease) -> None:
        """A span is ready again, at its place."""
        if self.returned is None:
            self.returned = SpanMap()
        self.returned.add(span)

    def put_aside(self, span: Lease, changed: list[Lease]) -> None:
        """The index no longer says enough about a span: it is stored by itself."""
        chunk = span.chunk
        if chunk is not None:
            span.chunk = None
            chunk.held -= span.count
            if not chunk.held and chunk.is_passed:
                self.leave(chunk)
        if not span.is_changed:
            span.is_changed = True
            changed.append(span)

    def note_settled(self, first: int, end: int, chunk: Chunk | None = None) -> None:
        """Entries are done with: the next delta tells it. ``chunk``: through which they were found."""
        settled = self.settled
        if settled and settled[-1] == first:
            settled[-1] = end
        else:
            settled.append(first)
            settled.append(end)
        if chunk is not None:
            held = chunk.held = chunk.held - end + first
            if not held and chunk.is_passed:
                self.leave(chunk)
