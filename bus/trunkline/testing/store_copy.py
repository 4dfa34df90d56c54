"""Promises about being a copy of another log: of another store's (``store convert``), or a leader's.

A log that retention and compaction have been at does not start at offset 0, and lacks offsets in the middle. Its copy
has the same ones, so batches are appended with gaps between them, and with fewer records than offsets.
"""

from __future__ import annotations

from trunkline.log import Log, SavedState
from trunkline.records import HEADER_BYTES, encode, read_header, with_records
from trunkline.testing.batches import make_batch
from trunkline.testing.store_suite import MANY_BYTES, NAME, Promises, SuiteStore, expect

__all__ = ["CopyPromises"]

_FAR = 5_000_000_000  # more than 32 bits


class CopyPromises(Promises):
    """Checks of ``append`` with gaps."""

    def test_a_copy_starts_where_its_first_batch_does(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(_FAR, b"a", b"b"), make_batch(_FAR + 2)]
        log.append(batches)
        log.trim(_FAR + 1)

        for found in store.before_and_after_restart(log):
            expect("a copy of a trimmed log is trimmed to its start", found.start_offset, _FAR + 1)
            expect("its end is that of its batches", found.end_offset, _FAR + 3)
            self.expect_log("a copy of a trimmed log has its records, at their offsets", found, batches)

    def test_a_copy_may_have_gaps_between_batches(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(3), make_batch(4), make_batch(10, b"x", b"y"), make_batch(_FAR), make_batch(_FAR + 7)]
        log.append(batches[:3])
        log.append(batches[3:])
        log.flush()

        for found in store.before_and_after_restart(log):
            self.expect_log("batches keep their offsets; a gap between them is read over", found, batches)
            read = found.read(5, 1, found.end_offset)
            self.expect_batches("a read in a gap gives the next batch there is", read, batches[2:3])
            read = found.read(12, MANY_BYTES, _FAR)
            expect("a read in a gap up to its end gives nothing", read, b"")
            time = found.find_timestamp(0, found.end_offset)
            expect("times are found past a gap", time and time.offset, 3)

    def test_a_copy_may_lack_records_in_batches(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(0), thinned_batch(1, 9, count=1), thinned_batch(10, 12), make_batch(13)]
        for batch in batches:
            log.append([batch])
            log.flush()

        for found in store.before_and_after_restart(log):
            expect("a batch ends at its last offset, whatever records are left in it", found.end_offset, 14)
            self.expect_log("a batch from which compaction took records, even all, is kept as it is", found, batches)

    def test_a_copy_goes_on_without_gaps(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(7), thinned_batch(20, 29), make_batch(30), make_batch(31)]
        log.append(batches[:2])
        log.save_state(SavedState(30, b"state"))
        log = store.reopen()
        log.append(batches[2:])
        log.flush()

        log = store.reopen()
        self.expect_log("records follow a copy as they follow any log", log, batches)
        expect("a saved state is kept beside a copy", log.load_state(), SavedState(30, b"state"))

    def test_verify_finds_nothing_wrong_with_a_copy(self, store: SuiteStore, log: Log) -> None:
        log.append([make_batch(7), make_batch(_FAR), thinned_batch(_FAR + 5, _FAR + 9, count=1)])
        log.append([make_batch(_FAR + 10)])
        log.trim(_FAR)
        store.restart()

        expect("missing offsets are no fault in a copy", list(store.store.verify(NAME)), [])


def thinned_batch(base_offset: int, last_offset: int, *, count: int = 0) -> bytes:
    """A batch of which compaction has left only the first record, or (``count`` 0) none."""
    kept = encode([(1_000, b"key", b"value", ())], base_offset=base_offset)
    header = read_header(kept)._replace(last_offset_delta=last_offset - base_offset, record_count=count)
    return with_records(header, kept[HEADER_BYTES:] if count else b"")
