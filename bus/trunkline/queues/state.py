"""The state of a queue, and how it survives. No I/O and no clock: what to store comes out, what was stored goes in.

The driver has one log per broker, in which a crash loses only a suffix. It writes in this order:

1. what :meth:`QueueState.take_sealed` gives: chunks of the index that are full. Their runs need not be told again.
2. a *delta*, what happened since the last one: :meth:`QueueState.take_delta` until it gives None; or, now and
   then, a *snapshot*, which makes the deltas before it superfluous.
3. deletions of what :meth:`QueueState.chunks_to_forget` names. Not before 2, which says that they are not needed.

Nothing is written for an append or an acquisition alone. Arrivals that no delta spoke about are found by
looking at the sources again from :attr:`QueueState.positions` on; they may get other sequences then, which no one
has seen in the log. So a chunk counts only if a later delta knows its number: one that was sealed after
the last delta is ignored, and its number used again.

To recover: :meth:`QueueState.restore` (or a new state), :meth:`QueueState.apply_delta` for each,
:meth:`QueueState.recover_chunk` for each, :meth:`QueueState.recovered`. The result is the state as of the last delta,
with everything that was leased ready again, at its place, as delivered once more.

What is stored is drawn in :mod:`trunkline.queues.stored`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from trunkline.errors import CorruptLog
from trunkline.queues.contents import Contents
from trunkline.queues.entries import NO_HOLDERS, NO_LEVELS
from trunkline.queues.index import RUN_FIELDS, Chunk, Lease, Piece, Range, pieces
from trunkline.queues.level import Level
from trunkline.queues.ranges import Ranges, joined
from trunkline.queues.stored import (
    FORGOTTEN,
    MAX_PART_BYTES,
    Change,
    LevelChange,
    decode_change,
    decode_chunk,
    decode_chunk_head,
    decode_part,
    encode_change,
    encode_chunk,
    encode_parts,
)

__all__ = ["QueueState"]

_CHUNKS_LOADED: Final = 4
"""Chunks that were asked for by others than the head stay in memory while they are among the last so many."""

_NO_RUNS: Final[array[int]] = array("q")
_NEVER: Final = (1 << 62, 1 << 62)


class QueueState(Contents):
    """The entries of a queue, and what must be stored of them."""

    __slots__ = ("_chunks", "_floor", "_forgettable", "_loaded", "_next_chunk", "_parts", "_pending", "_serial")

    def __init__(self) -> None:
        super().__init__()
        self._serial = 0  # of the last delta
        self._floor = 0  # everything below was settled when the levels were given up
        self._next_chunk = 0
        self._chunks: dict[int, Chunk] | None = None  # those that are stored
        self._loaded: list[int] | None = None  # numbers, latest last
        self._forgettable: list[int] | None = None
        self._parts: list[bytes] | None = None  # of the last delta, not yet taken
        self._pending: tuple[int, list[bytes]] | None = None  # a delta to be applied: serial, its parts so far

    # What to store

    def take_delta(self, max_bytes: int = MAX_PART_BYTES) -> bytes | None:
        """The next part of what happened since the last delta, at most ``max_bytes`` long; None: nothing more.

        Parts of one delta take effect together, when the last is applied. One whose write failed has to be written
        again, or a snapshot instead, before anything else is.
        """
        if self._parts:
            return self._parts.pop()
        if not self.has_changes and not self._routed and not self._changed:
            return None
        self._collect_done()
        self._serial += 1
        levels = [told for level in self._order if (told := self._told(level)) is not None]
        asides = [span for span in self._changed or () if span.holder >= 0]
        for span in asides:
            span.is_changed = False
        positions = {source: self._positions.get(source, FORGOTTEN) for source in self._routed or ()}
        self._changed = self._routed = None
        self.has_changes = False
        parts = encode_parts(self._serial, encode_change(self._change(positions, levels, asides)), max_bytes)
        parts.reverse()
        first = parts.pop()
        self._parts = parts or None
        return first

    def forget_changes(self) -> None:
        """Nothing of this state is ever stored: let go of what would have been told."""
        self.take_sealed()
        self._collect_done()
        for level in self._order:
            self._told(level)
        for span in self._changed or ():
            span.is_changed = False
        self._changed = self._routed = None
        self.has_changes = False
        self.chunks_to_forget()

    def _change(self, positions: dict[int, int], levels: list[LevelChange], asides: list[Lease]) -> Change:
        live = self.ready + self.unacked + self.delayed
        return Change(
            self._floor, self.next_sequence, self._next_chunk, live, self.live_bytes, positions, levels, asides
        )

    def _told(self, level: Level) -> LevelChange | None:
        """What a delta says of a level; None: nothing."""
        seen = max(level.seen, level.position)
        tail = level.tail
        runs = _NO_RUNS
        if tail is not None and tail.runs is not None:
            runs = tail.runs[tail.saved :]
            tail.saved = len(tail.runs)
        if not runs and not level.settled and seen == level.told:
            return None
        gone = joined(zip(level.settled[0::2], level.settled[1::2], strict=True))
        level.settled = []
        level.told = seen
        return LevelChange(level.priority, seen, 0, runs, gone)

    def snapshot(self, max_bytes: int = MAX_PART_BYTES) -> list[bytes]:
        """All of the state, in parts of at most ``max_bytes``. Does not change what :meth:`take_delta` gives next."""
        self._collect_done()
        spans_of: dict[int, list[Range]] = {level.priority: [] for level in self._order}
        asides: list[Lease] = []
        for span in chain.from_iterable(self._maps()):
            if span.chunk is None:
                asides.append(span)
            else:
                spans_of[span.priority].append((span.sequence, span.sequence + span.count))
        levels = [_whole(level, joined(spans_of[level.priority])) for level in self._order]
        body = encode_change(self._change(self._positions, levels, asides))
        return encode_parts(self._serial, body, max_bytes, is_snapshot=True)

    def _collect_done(self) -> None:
        """Find the chunks that nobody needs any more, once what is written next is written."""
        assert not any(chunk.runs for chunk in self._sealed or ()), "take_sealed comes first"
        done: list[Chunk] = []
        for level in self._order:
            if not level.count:
                level.refill()
            level.trim()
            level.forget_hidden()
            done += level.done
            level.done = []
        if not self.ready + self.unacked + self.delayed:
            done += [chunk for level in self._order for chunk in level.chunks]
            self._floor = self.next_sequence
            self._levels, self._order, self._holders = NO_LEVELS, (), NO_HOLDERS
            self._late = self._deadlines = self._sealed = self._scan = None
        numbers = [chunk.number for chunk in done if chunk.number >= 0]
        if numbers:
            self._forgettable = (self._forgettable or []) + numbers

    # Chunks of the index

    def take_sealed(self) -> list[tuple[int, bytes]]:
        """Chunks that are full, to be stored: number and what to store. Call :meth:`chunk_written` for each."""
        taken: list[tuple[int, bytes]] = []
        for chunk in self._sealed or ():
            if not chunk.runs:
                continue  # all settled meanwhile
            chunk.number = self._next_chunk
            self._next_chunk += 1
            if self._forgettable and chunk.number in self._forgettable:
                self._forgettable.remove(chunk.number)  # it is that of a chunk that counted for nothing
            self._know(chunk)
            taken.append((chunk.number, encode_chunk(chunk)))
            if chunk.is_passed:
                chunk.runs = None
        self._sealed = None
        return taken

    def _know(self, chunk: Chunk) -> None:
        if self._chunks is None:
            self._chunks = {}
        self._chunks[chunk.number] = chunk

    def chunk_written(self, number: int, stored_at: int) -> None:
        """A chunk is stored and can be read from there: it need not be in memory."""
        chunk = (self._chunks or {}).get(number)
        if chunk is not None:
            chunk.stored_at = stored_at
            self._unload(chunk)

    def _unload(self, chunk: Chunk) -> None:
        level = self._levels.get(chunk.priority)
        if level is None or not level.is_near(chunk):
            chunk.runs = None

    def stored_at(self, number: int) -> int:
        """Where a chunk is stored, as :meth:`chunk_written` or :meth:`recover_chunk` said. Raises KeyError."""
        return (self._chunks or {})[number].stored_at

    def load_chunk(self, number: int, data: bytes) -> None:
        """The chunk that was missing. One that is not needed any more is ignored. Raises CorruptLog."""
        chunk = (self._chunks or {}).get(number)
        if chunk is None or chunk.is_passed:
            return
        found = decode_chunk(data)
        if (found.priority, found.first, found.end) != (chunk.priority, chunk.first, chunk.end):
            raise CorruptLog(f"chunk {number} of a queue's index is another one than was written")
        assert found.runs is not None
        chunk.load(found.runs)
        most = _CHUNKS_LOADED + len(self._order)  # looking at all of them needs one of each priority
        loaded = [one for one in self._loaded or () if one != number]
        for old in loaded[: 1 - most]:
            if (other := (self._chunks or {}).get(old)) is not None:
                self._unload(other)
        self._loaded = [*loaded[1 - most :], number]

    def chunks_to_forget(self) -> list[int]:
        """Numbers of stored chunks that are not needed once everything taken so far is written."""
        numbers, self._forgettable = self._forgettable or [], None
        for number in numbers:
            if self._chunks is not None:
                self._chunks.pop(number, None)
        return numbers

    # Recovery

    @classmethod
    def restore(cls, chunks: Iterable[bytes]) -> QueueState:
        """The state of a snapshot: all of its parts, in order. Raises CorruptLog. :meth:`recovered` has to follow."""
        parts = [decode_part(data) for data in chunks]
        is_whole = bool(parts) and parts[-1].is_last and all(part.is_snapshot for part in parts)
        if not is_whole or [(part.serial, part.number) for part in parts] != [
            (parts[0].serial, number) for number in range(len(parts))
        ]:
            raise CorruptLog("a snapshot of a queue is not complete")
        state = cls()
        state._serial = parts[0].serial
        state._apply(decode_change(b"".join(part.body for part in parts)))
        return state

    def apply_delta(self, data: bytes) -> None:
        """Apply a part of a delta; old ones, and those whose first part is missing, have no effect.

        Raises:
          CorruptLog: nothing was applied.
        """
        part = decode_part(data)
        if part.serial <= self._serial or part.is_snapshot:
            return
        if part.is_first:
            self._pending = (part.serial, [])
        if self._pending is None or (part.serial, part.number) != (self._pending[0], len(self._pending[1])):
            self._pending = None
            return
        self._pending[1].append(part.body)
        if part.is_last:
            body = b"".join(self._pending[1])
            self._pending = None
            self._apply(decode_change(body))
            self._serial = part.serial

    def _apply(self, change: Change) -> None:
        if change.floor > self._floor:
            self._floor = change.floor
            for level in self._order:
                _hide(level, 0, change.floor)
        self.next_sequence = change.next_sequence
        self._next_chunk = change.next_chunk
        self.ready, self.live_bytes = change.live, change.live_bytes  # parted by recovered()
        positions = {**self._positions, **change.positions}
        self._positions = {source: offset for source, offset in positions.items() if offset != FORGOTTEN}
        for told in change.levels:
            level = self._levels.get(told.priority) or self._add_level(told.priority)
            level.seen = level.told = max(level.seen, told.seen)
            for first, end in ((0, told.floor), *told.gone):
                _hide(level, first, end)
            tail = level.tail
            runs = tail.runs if tail is not None else level.open_chunk()
            assert runs is not None
            if told.runs:
                known = bisect_left(told.runs[0::RUN_FIELDS], level.end)  # a snapshot had those already
                runs.extend(told.runs[known * RUN_FIELDS :])
                level.end = max(level.end, told.runs[-6] + told.runs[-3])
        for span in change.asides:
            level = self._levels.get(span.priority) or self._add_level(span.priority)
            _hide(level, span.sequence, span.sequence + span.count)
            level.put_back(span)

    def recover_chunk(self, number: int, stored_at: int, data: bytes) -> None:
        """A chunk is stored there. Raises CorruptLog."""
        chunk = decode_chunk_head(data)
        chunk.number, chunk.stored_at = number, stored_at
        self._know(chunk)

    def recovered(self) -> None:
        """All deltas and chunks were given. From here on the state can be used."""
        self._pending = None
        chunks = self._chunks or {}
        self._chunks = {number: chunks[number] for number in sorted(chunks) if number < self._next_chunk} or None
        self._forgettable = [number for number in chunks if number >= self._next_chunk] or None
        for chunk in (self._chunks or {}).values():
            level = self._levels.get(chunk.priority) or self._add_level(chunk.priority)
            level.chunks.insert(len(level.chunks) - (level.tail is not None), chunk)
        for level in self._order:
            _begin(level, self._floor)
            self._part_delayed(level)
        self.delayed = self._late.spans.entries if self._late is not None else 0
        self.ready -= self.delayed
        if self.ready < 0:
            raise CorruptLog("the stored state of a queue has fewer entries than are delayed")
        self.may_be_due = self.ready + self.delayed > 0
        self._collect_done()

    def _part_delayed(self, level: Level) -> None:
        returned = level.returned
        if returned is None:
            return
        delayed = [span for span in returned if span.due_ms]
        for span in delayed:
            returned.take(span.sequence, span.sequence + span.count, [])
            self._delay(span)


def _whole(level: Level, held: list[Range]) -> LevelChange:
    """All there is to say of a level whose entries in ``held`` are found through the index."""
    position = level.position
    floor = held[0][0] if held else position
    gone: list[Range] = []
    last = floor
    for first, end in [*held, (position, position)]:
        if first > last:
            gone.append((last, first))
        last = end
    if level.hidden is not None:
        gone = joined(chain(gone, level.hidden.above(position)))
    runs = level.tail.runs if level.tail is not None and level.tail.runs is not None else _NO_RUNS
    return LevelChange(level.priority, max(level.seen, position), floor, runs, gone)


def _hide(level: Level, first: int, end: int) -> None:
    """During recovery: what is hidden is collected as ``settled`` is, and made a set at the end."""
    if first < end:
        if level.returned is not None:
            level.returned.take(first, end, [])
        level.note_settled(first, end)


def _not_hidden(runs: Iterable[Piece], hidden: Ranges) -> Iterator[Piece]:
    """The runs, which are in order, of which not all is hidden. One pass over both, for there may be a million."""
    ranges = iter(hidden)
    first = end = 0
    for run in runs:
        sequence, count = run[0], run[3]
        while end <= sequence:
            first, end = next(ranges, _NEVER)
        if sequence < first or sequence + count > end:
            yield run


def _begin(level: Level, floor: int) -> None:
    """Put the head of a recovered level at its start."""
    level.hidden = Ranges([(0, floor), *zip(level.settled[0::2], level.settled[1::2], strict=True)])
    level.settled = []
    tail = level.tail
    sealed_end = 0
    for chunk in level.chunks:
        if chunk is not tail:
            level.note_extents(chunk)
            sealed_end = chunk.end
    level.end = max(level.end, sealed_end)
    if tail is not None and tail.runs is not None:
        later = (piece for piece in pieces(tail.runs, 0) if piece[0] >= sealed_end)
        tail.runs = array("q", chain.from_iterable(_not_hidden(later, level.hidden)))
        tail.saved = len(tail.runs)
    level.forget_hidden()
