"""Promises about rewriting, and about logs with gaps in them: what compaction builds on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from trunkline.errors import TrunklineError
from trunkline.log import Log, SavedState
from trunkline.records import (
    HEADER_BYTES,
    Record,
    check_batch,
    decode,
    decode_all,
    encode,
    iter_headers,
    read_header,
    with_records,
)
from trunkline.testing.batches import content, make_batch
from trunkline.testing.store_suite import MANY_BYTES, Promises, SuiteStore, beside, expect

__all__ = ["RewritePromises"]

Transform = Callable[[bytes], bytes | None]

_COUNT = 40


def _make(number: int) -> bytes:
    records = [(10 * offset, b"key %d" % offset, bytes(90), ()) for offset in (2 * number, 2 * number + 1)]
    return encode(records, base_offset=2 * number, producer_id=7, producer_epoch=3, base_sequence=2 * number)


_BATCHES = [_make(number) for number in range(_COUNT)]
_LAST = make_batch(2 * _COUNT, b"the last one", timestamp=20 * _COUNT, size=1_000)
_LAST_OFFSET = 2 * _COUNT


def _first_record_only(batch: bytes) -> bytes:
    """Without the second record, spanning as many offsets as before."""
    records = decode_all(batch)
    if not records:  # a store that trims single records had only this one left, and has removed it
        return batch
    kept = encode(records[:1])
    header = read_header(batch)._replace(record_count=1, max_timestamp=read_header(kept).max_timestamp)
    return with_records(header, kept[HEADER_BYTES:])


def _no_records(batch: bytes) -> bytes:
    return with_records(read_header(batch)._replace(record_count=0), b"")


def _drop(numbers: range) -> Transform:
    return lambda batch: None if read_header(batch).base_offset // 2 in numbers else batch


_TRANSFORMS: dict[str, Transform] = {
    "everything is kept": lambda batch: batch,
    "the first batch is dropped": _drop(range(1)),
    "the last batch is dropped": _drop(range(_COUNT - 1, _COUNT)),
    "a run of batches is dropped": _drop(range(5, 30)),
    "every other batch is dropped": _drop(range(0, _COUNT, 2)),
    "all batches are dropped": _drop(range(_COUNT)),
    "each batch loses a record": _first_record_only,
    "each batch loses all records": _no_records,
    "some lose all records, some are dropped": lambda b: _no_records(b) if read_header(b).base_offset % 3 else None,
}


class _Full(NamedTuple):
    """A log with ``_BATCHES`` and ``_LAST``; what lies below ``end`` can be rewritten."""

    log: Log
    end: int

    def rewritten(self, transform: Transform) -> list[bytes]:
        """What should be in it afterwards."""
        found = [transform(batch) if read_header(batch).next_offset <= self.end else batch for batch in _BATCHES]
        return [batch for batch in found if batch is not None] + [_LAST]


class RewritePromises(Promises):
    """Checks of ``rewrite``, ``rewritable_end_offset`` and ``chunks``, and of reads over gaps."""

    @pytest.fixture
    def full(self, log: Log) -> _Full:
        for batch in [*_BATCHES, _LAST]:
            log.append([batch])
        log.flush()
        return _Full(log, min(log.rewritable_end_offset, _LAST_OFFSET))

    @pytest.fixture(params=[*_TRANSFORMS.values()], ids=[*_TRANSFORMS])
    def transform(self, request: pytest.FixtureRequest) -> Transform:
        chosen: Transform = request.param
        return chosen

    def test_rewritten_batches_take_the_place_of_the_old(
        self, store: SuiteStore, full: _Full, transform: Transform
    ) -> None:
        full.log.rewrite(full.end, transform)

        wanted = full.rewritten(transform)
        for log in store.before_and_after_restart(full.log):
            expect("a rewrite moves neither end", (log.start_offset, log.end_offset), (0, _LAST_OFFSET + 1))
            self.expect_log("after a rewrite the log has the new batches, in order, at their offsets", log, wanted)

    def test_what_names_a_batch_is_kept(self, store: SuiteStore, full: _Full, transform: Transform) -> None:
        full.log.rewrite(full.end, transform)

        wanted = [_identity(batch) for batch in full.rewritten(transform)]
        for log in store.before_and_after_restart(full.log):
            promise = (
                "a batch keeps its base and last offset and its producer's fields even with no record left: "
                "a producer that comes back is recognised by them, and readers go on behind them"
            )
            expect(promise, [_identity(batch) for batch in _walk(log)], wanted)

    def test_every_gap_is_read_over(self, store: SuiteStore, full: _Full, transform: Transform) -> None:
        full.log.rewrite(full.end, transform)

        wanted = full.rewritten(transform)
        for log in store.before_and_after_restart(full.log):
            for offset in range(_LAST_OFFSET + 1):
                data = log.read(offset, 1, _LAST_OFFSET + 1)
                following = next(batch for batch in wanted if read_header(batch).next_offset > offset)
                self.expect_batches("a read from a gap gives the batch after it", data, [following])
                tried = log.read_nowait(offset, 1, _LAST_OFFSET + 1)
                expect("read_nowait gives the same or None", tried in (None, data), True)

    def test_no_read_passes_end_offset_over_a_gap(self, full: _Full, transform: Transform) -> None:
        full.log.rewrite(full.end, transform)

        wanted = full.rewritten(transform)
        for offset in range(0, _LAST_OFFSET, 3):
            for end in range(0, _LAST_OFFSET + 1, 10):
                data = full.log.read(offset, MANY_BYTES, end)
                found = [header.base_offset for _, header in iter_headers(data)]
                headers = map(read_header, wanted)
                between = [h.base_offset for h in headers if offset < end and offset < h.next_offset <= end]
                promise = f"a read from {offset} stops before end_offset {end}, though a gap may lie before that"
                expect(promise, found, between[: len(found)])
                expect("a read is empty only if there is nothing", bool(found), bool(between))

    def test_times_are_found_over_gaps(self, store: SuiteStore, full: _Full, transform: Transform) -> None:
        full.log.rewrite(full.end, transform)

        records = content(b"".join(full.rewritten(transform)))
        for log in store.before_and_after_restart(full.log):
            for timestamp in range(0, 20 * _COUNT + 20, 15):
                wanted = next(((r.offset, r.timestamp) for r in records if r.timestamp >= timestamp), None)
                promise = "find_timestamp gives a record that is still there"
                expect(promise, log.find_timestamp(timestamp, _LAST_OFFSET + 1), wanted)

    def test_each_batch_is_offered_once_and_oldest_first(self, full: _Full) -> None:
        seen: list[int] = []

        def note(batch: bytes) -> bytes:
            header = check_batch(batch, is_compacted=True)
            expect("transform gets exactly one intact batch", header.size_bytes, len(batch))
            seen.append(header.base_offset)
            return batch

        full.log.rewrite(full.end, note)

        promise = "compaction sees every batch below end_offset once, oldest first, and no other"
        expect(promise, seen, [2 * number for number in range(_COUNT) if 2 * number < full.end])

    def test_a_rewrite_stops_at_end_offset(self, store: SuiteStore, full: _Full) -> None:
        end = full.end // 4 * 2
        full.log.rewrite(end, _drop(range(_COUNT)))

        wanted = [batch for batch in _BATCHES if read_header(batch).base_offset >= end] + [_LAST]
        for log in store.before_and_after_restart(full.log):
            self.expect_log("what is at or past end_offset is left alone", log, wanted)

    def test_rewriting_again_and_again(self, store: SuiteStore, full: _Full) -> None:
        log, gone = full.log, 0
        for step in (3, 2, 5, 1):
            numbers = range(0, _COUNT, step)
            log.rewrite(full.end, _drop(numbers))
            gone |= sum(1 << number for number in numbers)
            log = store.reopen()

        wanted = [b for n, b in enumerate(_BATCHES) if not gone >> n & 1 or 2 * n >= full.end] + [_LAST]
        self.expect_log("a log that has gaps can be rewritten", log, wanted)

    def test_a_transform_that_raises_leaves_a_usable_log(self, store: SuiteStore, full: _Full) -> None:
        class _Stopped(TrunklineError):
            pass

        def stop(batch: bytes) -> bytes:
            if read_header(batch).base_offset >= full.end // 2:
                raise _Stopped("far enough")
            return _first_record_only(batch)

        if full.end:
            with pytest.raises(_Stopped):
                full.log.rewrite(full.end, stop)
        added = make_batch(_LAST_OFFSET + 1)
        full.log.append([added])
        for log in store.before_and_after_restart(full.log):
            found = [(batch, number) for number, batch in enumerate(_walk(log))]
            expect("every batch is still there, in its old or its new form", len(found), _COUNT + 2)
            for batch, number in found[:_COUNT]:
                forms = [content(_BATCHES[number]), content(_first_record_only(_BATCHES[number]))]
                expect("every batch is still there, in its old or its new form", content(batch) in forms, True)
        log = store.reopen()
        log.rewrite(full.end, _drop(range(_COUNT)))
        wanted = [b for b in _BATCHES if read_header(b).base_offset >= full.end] + [_LAST, added]
        self.expect_log("a rewrite that was stopped can be done again", log, wanted)

    def test_rewrites_overlap_appends_flushes_and_reads(self, store: SuiteStore, full: _Full) -> None:
        log = full.log
        keep = range(0, _COUNT, 5)
        added = [make_batch(_LAST_OFFSET + 1 + number, size=200) for number in range(150)]
        wrong: list[object] = []
        is_done = threading.Event()

        def read_again_and_again() -> None:
            while not is_done.is_set() and not wrong:
                try:
                    _check_pass(log, keep, full.end)
                except BaseException as failure:
                    wrong.append(failure)

        def rewrite() -> None:
            try:
                for number in sorted(set(range(_COUNT)) - set(keep)):
                    log.rewrite(full.end, _drop(range(number, number + 1)))
            except BaseException as failure:
                wrong.append(failure)

        with beside(read_again_and_again):
            with beside(rewrite):
                for batch in added:
                    log.append([batch])
                    log.flush()
            is_done.set()

        expect("a rewrite overlaps reads, appends and flushes, and none of them fails", wrong, [])
        wanted = [b for n, b in enumerate(_BATCHES) if n in keep or 2 * n >= full.end] + [_LAST, *added]
        for opened in store.before_and_after_restart(log):
            self.expect_log("nothing appended during a rewrite is lost", opened, wanted)

    def test_appends_go_on_after_a_rewrite(self, store: SuiteStore, full: _Full) -> None:
        full.log.rewrite(full.end, _drop(range(_COUNT)))
        added = [make_batch(_LAST_OFFSET + 1 + number, size=300) for number in range(10)]
        log = full.log
        for batch in added:
            log.append([batch])
            log = store.reopen()

        self.expect_log("a rewritten log goes on where it was", log, [*full.rewritten(_drop(range(_COUNT))), *added])

    def test_a_log_is_trimmed_inside_a_gap(self, store: SuiteStore, full: _Full) -> None:
        full.log.rewrite(full.end, _drop(range(3, 30)))
        for offset in (7, 20, 21, 58, 61):
            full.log.trim(offset)
            expect("trim moves the start offset, in a gap too", full.log.start_offset, offset)
            wanted = [b for b in full.rewritten(_drop(range(3, 30))) if read_header(b).next_offset > offset]
            self.expect_log("what is at or past the start stays", full.log, wanted)
        expect("the start offset is durable, in a gap too", store.reopen().start_offset, 61)

    def test_a_log_is_truncated_behind_a_gap(self, store: SuiteStore, full: _Full) -> None:
        if not self.supports_truncate:
            pytest.skip("the store declares supports_truncate = False")
        full.log.rewrite(full.end, _drop(range(10, 30)))
        log = full.log
        for number in (35, 30, 4):
            log.truncate(2 * number)
            wanted = [b for b in full.rewritten(_drop(range(10, 30))) if read_header(b).base_offset < 2 * number]
            expect("truncate moves the end offset, behind a gap too", log.end_offset, 2 * number)
            found = [_identity(batch) for batch in _walk(log)]
            expect("what lies before stays", found, [_identity(batch) for batch in wanted])
            log = store.reopen()
            expect("the end offset is durable, behind a gap too", log.end_offset, 2 * number)
        log.append([_BATCHES[4]])
        self.expect_log("records are added behind a gap", store.reopen(), [*wanted, _BATCHES[4]])

    def test_the_saved_state_is_left_alone(self, store: SuiteStore, full: _Full) -> None:
        state = SavedState(_LAST_OFFSET, b"what the core knows of its producers")
        full.log.save_state(state)
        full.log.rewrite(full.end, _drop(range(_COUNT)))

        for log in store.before_and_after_restart(full.log):
            expect("a rewrite does not touch the saved state", log.load_state(), state)

    def test_a_rewrite_gives_space_back(self, store: SuiteStore, full: _Full) -> None:
        before = full.log.size_bytes()
        full.log.rewrite(full.end, _drop(range(_COUNT)))
        after = full.log.size_bytes()

        dropped = sum(len(batch) for batch in _BATCHES if read_header(batch).base_offset < full.end)
        promise = f"size_bytes shrinks by about what is dropped ({dropped}); it went from {before} to {after}"
        expect(promise, before - after >= dropped / 2, True)
        expect("and is the same after a restart, roughly", store.reopen().size_bytes() <= before - dropped / 4, True)

    def test_chunks_hold_what_is_left(self, full: _Full, transform: Transform) -> None:
        for trimmed in (0, 0, 13):
            full.log.trim(trimmed)
            chunks = [*full.log.chunks()]
            ends = [trimmed, *(chunk.end_offset for chunk in chunks)]
            is_ordered = all(end <= chunk.base_offset for end, chunk in zip(ends, chunks, strict=False))
            expect("chunks come oldest first and do not overlap", is_ordered, True)
            expect("chunks reach up to the end of the log", ends[-1], _LAST_OFFSET + 1)
            offsets = [o for batch in _walk(full.log) for o in _offsets(batch) if o >= trimmed]
            covered = [o for c in chunks for o in range(c.base_offset, c.end_offset) if o in set(offsets)]
            expect("chunks hold every record", covered, offsets)
            newest = max(chunk.max_timestamp for chunk in chunks)
            expect("chunks know their largest timestamp", newest, 20 * _COUNT)
            full.log.rewrite(full.end, transform)


def _identity(batch: bytes) -> tuple[int, ...]:
    header = read_header(batch)
    producer = (header.producer_id, header.producer_epoch, header.base_sequence)
    return (header.base_offset, header.last_offset, header.record_count, *producer)


def _offsets(batch: bytes) -> list[int]:
    return [record.offset for record in content(batch)]


def _walk(log: Log) -> list[bytes]:
    """The batches of a log, read a few at a time."""
    found: list[bytes] = []
    offset = log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, 700, log.end_offset)
        if not data:
            break
        for position, header in iter_headers(data):
            found.append(data[position : position + header.size_bytes])
            offset = header.next_offset
    return found


def _check_pass(log: Log, keep: range, end: int) -> None:
    """Read the log from its start: what is kept is there, and nothing that is not."""
    records: list[Record] = [record for batch in _walk(log) for record in decode(batch)]
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets)), "records come in order and once"
    missing = set(range(_LAST_OFFSET + 1)) - set(offsets)
    assert not [o for o in missing if o >= end or o // 2 in keep], "only what was dropped is missing"
    assert all(r.key == b"key %d" % r.offset for r in records if r.offset < _LAST_OFFSET), "each is itself"
