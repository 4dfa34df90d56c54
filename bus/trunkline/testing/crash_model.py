"""A log and its model, a list, driven through crash after crash.

Appends, flushes, saved states, trims, truncations, rewrites, full disks and crashes come in a random order, over and
over on the same log. Each time the log is opened again everything about it is compared with the model:

* what a flush had returned is there, in order, and nothing is there that was not appended;
* an append that raised StoreFull has left nothing;
* the start offset is one that ``trim`` was given, the saved state one that was saved;
* a batch that was being rewritten is there in its old or its new form, and nowhere else is a gap.

What is found then counts as acknowledged, because the core shows it to readers.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from typing import Final

from trunkline.errors import StoreFull
from trunkline.log import Log, SavedState, Store
from trunkline.records import Record, decode_all, encode, read_header
from trunkline.settings import TopicSettings
from trunkline.testing.store_suite import NAME, expect

__all__ = ["CrashModel", "Machine"]

_STEPS: Final = 40  # at most, between two crashes
_TINY = TopicSettings(segment_bytes=2048, index_interval_bytes=300)


class Machine(ABC):
    """What a store runs on: something that can be cut off at any moment."""

    lost: tuple[type[Exception], ...] = ()
    """What calls raise after it was cut off, or once its disk has failed."""

    @abstractmethod
    def open(self) -> Store:
        """Start the store, on whatever is there."""

    @abstractmethod
    def arm(self, random: Random) -> None:
        """From now on it may be cut off, or fail, at any moment."""

    @abstractmethod
    def crash(self, random: Random) -> None:
        """It was cut off, or is now: leave what a crash could leave."""

    def synced(self) -> None:  # noqa: B027  # for machines that cannot see it themselves
        """The store has said just now that everything so far is durable."""

    def fill_up(self, random: Random) -> None:  # noqa: B027  # see above
        """Have little room left, if that can be."""

    def make_room(self) -> None:  # noqa: B027  # see above
        """Have enough room again."""


class _Known:
    """A batch of the model."""

    __slots__ = ("base_offset", "end_offset", "forms")

    def __init__(self, batch: bytes) -> None:
        header = read_header(batch)
        self.base_offset = header.base_offset
        self.end_offset = header.next_offset
        self.forms: list[list[Record]] = [decode_all(batch)]
        """What it may be found as; an empty list of records if it may have been dropped."""


class CrashModel:
    """One log on a machine, and what must be in it.

    Args:
      seed: decides everything; or a Random, of which hypothesis has one that it can shrink.
      rewrites: whether ``Log.rewrite`` is driven too.
      truncates: the same for ``Log.truncate``.
      settings: of the topic; None: tiny segments.
    """

    def __init__(
        self,
        machine: Machine,
        seed: int | Random,
        *,
        rewrites: bool = True,
        truncates: bool = True,
        settings: TopicSettings | None = None,
    ) -> None:
        self._settings = settings or _TINY
        self.machine = machine
        self.random = Random(seed) if isinstance(seed, int) else seed
        self._steps: list[Callable[[Log], None]] = [
            *[self._append] * 6,
            *[self._flush] * 4,
            self._save_state,
            self._find_keys,
            self._trim,
            self._fill_up,
            self._make_room,
        ]
        self._steps += [self._truncate] * truncates + [self._rewrite] * rewrites
        self._batches: list[_Known] = []
        self._starts = {0}
        self._states: set[SavedState] = set()
        self._saved_offset = -1  # of a state that must be there
        self._acknowledged = 0
        self._end = 0
        self._count = 0

    def run(self, crashes: int) -> None:
        """Crash so many times. Raises AssertionError for a broken promise."""
        for _ in range(crashes):
            self._live()
            self.machine.crash(self.random)
        self._live()

    def _live(self) -> None:
        """From one start to the next crash, which may come at once."""
        try:
            store = self.machine.open()
            log = store.open(NAME, self._settings)
        except self.machine.lost:  # what the last crash left cannot have become less
            return
        self._compare(log)
        self.machine.arm(self.random)
        try:
            self._find_keys(log)
            for _ in range(self.random.randint(0, _STEPS)):
                self.random.choice(self._steps)(log)
            if self.random.random() < 0.2:
                log.close()
                self._acknowledged = self._end
                store.close()
        except self.machine.lost:
            return

    # -- steps -------------------------------------------------------------------------------------

    def _append(self, log: Log) -> None:
        batches, known = [], []
        base_offset = self._end
        for _ in range(self.random.randint(1, 4)):
            batch = self._make(base_offset, self.random.randint(1, 3))
            batches.append(batch)
            known.append(_Known(batch))
            base_offset = known[-1].end_offset
        self._batches += known  # before the call: if it is cut off, they may be there
        try:
            log.append(batches)
            self._end = base_offset
        except StoreFull:
            del self._batches[-len(known) :]
        expect("the end offset is that of what was appended", log.end_offset, self._end)

    def _make(self, base_offset: int, count: int) -> bytes:
        self._count += 1
        values = [b"%d.%d " % (self._count, i) + bytes(self.random.randint(0, 400)) for i in range(count)]
        keys = [self.random.choice((None, b"often", b"often", b"%d" % self._count)) for _ in values]
        records = [(self.random.randint(0, 60), key, value, ()) for key, value in zip(keys, values, strict=True)]
        return encode(records, base_offset=base_offset)

    def _flush(self, log: Log) -> None:
        durable = log.flush()
        expect("flush says how far the log is durable", durable, self._end)
        self._acknowledged = durable
        self.machine.synced()

    def _save_state(self, log: Log) -> None:
        self._count += 1
        state = SavedState(max(self._acknowledged, log.start_offset), b"state %d" % self._count)
        self._states.add(state)
        if self._has_room(lambda: log.save_state(state)):
            self._states = {other for other in self._states if other.offset != state.offset} | {state}
            self._saved_offset = state.offset

    def _find_keys(self, log: Log) -> None:
        """What is found by a key is what reading finds, whatever index has survived."""
        key = self.random.choice((b"often", b"%d" % max(self._count - 3, 0)))
        found: list[int] = []
        offset, end = log.start_offset, log.end_offset
        while offset < end:
            some, offset = log.find_keys(offset, end, lambda other: other == key, 5)
            found += some
        wanted = [record.offset for record in _read_all(log).values() if record.key == key]
        expect("records are found by their keys", found, wanted)

    def _trim(self, log: Log) -> None:
        offset = self.random.randint(log.start_offset, log.end_offset)
        self._starts.add(offset)
        if self._has_room(lambda: log.trim(offset)):
            self._starts = {offset}
            self._acknowledged = max(self._acknowledged, offset)
            self._forget_trimmed(offset)

    def _forget_trimmed(self, start: int) -> None:
        if self._batches and self._batches[-1].end_offset > start:
            self._batches = [known for known in self._batches if known.end_offset > start]

    def _truncate(self, log: Log) -> None:
        boundaries = [known.base_offset for known in self._batches if known.base_offset >= log.start_offset]
        offset = self.random.choice([*boundaries, self._end])
        if offset < self._end and all(known.forms != [[]] for known in self._batches if known.base_offset >= offset):
            self._acknowledged = min(self._acknowledged, offset)
            self._saved_offset = -1  # only older ones stay, if there are any
            if self._has_room(lambda: log.truncate(offset)):
                self._batches = [known for known in self._batches if known.end_offset <= offset]
                self._acknowledged = self._end = offset
                self._states = {state for state in self._states if state.offset <= offset}

    def _rewrite(self, log: Log) -> None:
        limit = log.rewritable_end_offset
        boundaries = [known.end_offset for known in self._batches if log.start_offset < known.end_offset <= limit]
        if not boundaries:
            return
        known = {batch.base_offset: batch for batch in self._batches}
        choices = {base: self.random.choice(("keep", "keep", "drop", "change")) for base in known}

        def transform(batch: bytes) -> bytes | None:
            base_offset = read_header(batch).base_offset
            if choices.get(base_offset, "keep") == "keep":  # those below the log's start are not in the model
                return batch
            changed = None
            if choices[base_offset] == "change":
                changed = self._make(base_offset, known[base_offset].end_offset - base_offset)
            known[base_offset].forms.append([] if changed is None else decode_all(changed))
            return changed

        end_offset = self.random.choice(boundaries)
        if self._has_room(lambda: log.rewrite(end_offset, transform)):
            self._flush(log)

    def _fill_up(self, log: Log) -> None:
        self.machine.fill_up(self.random)

    def _make_room(self, log: Log) -> None:
        self.machine.make_room()

    def _has_room(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except (StoreFull, OSError) as error:
            if isinstance(error, self.machine.lost) or not _is_full(error):
                raise
            return False
        self.machine.synced()
        return True

    # -- after a crash -----------------------------------------------------------------------------

    def _compare(self, log: Log) -> None:
        start, end = log.start_offset, log.end_offset
        expect("the log starts where it was trimmed to", start in self._starts, True)
        expect("everything acknowledged is there", end >= self._acknowledged, True)
        ends = {start, self._end, *(known.end_offset for known in self._batches)}
        ends |= {known.base_offset for known in self._batches}
        expect("the log ends where a batch ends", end in ends, True)
        self._compare_records(log)
        state = log.load_state()
        expect(f"the saved state {state} was saved", state is None or state in self._states, True)
        expect("a saved state is not lost", (-1 if state is None else state.offset) >= self._saved_offset, True)
        expect("what an opened log shows is durable, or becomes so", log.flush(), end)
        self.machine.synced()
        self._starts, self._acknowledged, self._end = {start}, end, end
        self._batches = [known for known in self._batches if known.end_offset <= end]
        self._forget_trimmed(start)

    def _compare_records(self, log: Log) -> None:
        found, end = _read_all(log), log.end_offset
        for known in self._batches:
            if known.base_offset >= end or known.end_offset <= log.start_offset:
                continue
            records = [found.pop(o) for o in range(known.base_offset, known.end_offset) if o in found]
            forms = [[r for r in form if r.offset >= log.start_offset] for form in known.forms]
            expect(
                f"the batch at offset {known.base_offset} is found as it was appended or rewritten",
                records,
                next((form for form in forms if form == records), forms[-1]),
            )
            known.forms = [form for form, seen in zip(known.forms, forms, strict=True) if seen == records][:1]
        expect("nothing is found that was not appended", found, {})


def _read_all(log: Log) -> dict[int, Record]:
    """The log's records, by offset."""
    found: dict[int, Record] = {}
    offset, end = log.start_offset, log.end_offset
    while offset < end:
        data = log.read(offset, 3_000, end)
        if not data:
            break
        records = decode_all(data, from_offset=offset)
        found.update((record.offset, record) for record in records)
        expect("a read goes forward", not records or records[0].offset >= offset, True)
        offset = max(offset + 1, _end_of(data))
    return found


def _end_of(batches: bytes) -> int:
    position, end = 0, 0
    while position < len(batches):
        header = read_header(batches, position)
        position += header.size_bytes
        end = header.next_offset
    return end


def _is_full(error: Exception) -> bool:
    return isinstance(error, StoreFull) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS))
