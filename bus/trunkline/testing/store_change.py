"""Promises about trimming, truncating, and the core's saved state."""

from __future__ import annotations

import pytest

from trunkline.errors import OffsetOutOfRange
from trunkline.log import Log, SavedState
from trunkline.testing.batches import content, make_batch
from trunkline.testing.store_suite import MANY_BYTES, Promises, SuiteStore, beside, expect

__all__ = ["ChangePromises"]

_BATCHES = [make_batch(offset, b"%d" % offset, b"%d" % (offset + 1), size=150) for offset in range(0, 40, 2)]


class ChangePromises(Promises):
    """Checks of ``trim``, ``truncate``, ``save_state`` and ``load_state``."""

    @pytest.fixture
    def full_log(self, log: Log) -> Log:
        """Batches of two records each, offsets 0 to 39."""
        for batch in _BATCHES:
            log.append([batch])
        return log

    @pytest.fixture
    def truncatable_log(self, full_log: Log) -> Log:
        if not self.supports_truncate:
            pytest.skip("the store declares supports_truncate = False")
        return full_log

    # -- trim --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("offset", [0, 1, 2, 13, 24, 39])
    def test_trim_moves_the_start(self, store: SuiteStore, full_log: Log, offset: int) -> None:
        full_log.trim(offset)

        for log in store.before_and_after_restart(full_log):
            expect("trim moves the start offset, durably", log.start_offset, offset)
            expect("trim leaves the end offset alone", log.end_offset, 40)
            self.expect_log("what is at or past the start stays", log, _BATCHES[offset // 2 :])

    def test_what_was_trimmed_is_never_given_out(self, full_log: Log) -> None:
        full_log.trim(20)

        with pytest.raises(OffsetOutOfRange):
            full_log.read(19, MANY_BYTES, 40)

    def test_a_log_trimmed_to_its_end_goes_on(self, store: SuiteStore, full_log: Log) -> None:
        full_log.trim(40)
        log = store.reopen()
        expect(
            "an empty log remembers where it is: offsets are never used twice",
            (log.start_offset, log.end_offset),
            (40, 40),
        )
        batch = make_batch(40)
        log.append([batch])

        self.expect_log("a log trimmed to its end goes on there", store.reopen(), [batch])

    def test_trimming_again_goes_on(self, store: SuiteStore, full_log: Log) -> None:
        for offset in range(0, 41, 5):
            full_log.trim(offset)
            expect("trim moves the start offset up", full_log.start_offset, offset)
        expect("the start offset is durable", store.reopen().start_offset, 40)

    def test_trimmed_space_comes_back(self, log: Log) -> None:
        for offset in range(200):
            log.append([make_batch(offset, size=1_000)])
        before = log.size_bytes()
        log.trim(200)

        expect("size_bytes does not grow by trimming, or retention would never stop", log.size_bytes() <= before, True)

    def test_readers_overlap_trims(self, log: Log) -> None:
        batches = [make_batch(offset, b"%d" % offset, size=200) for offset in range(200)]
        log.append(batches)
        wrong: list[object] = []

        def read() -> None:
            while (start := log.start_offset) < 200:
                try:
                    found = content(log.read(start, 1, 200))
                except OffsetOutOfRange:
                    continue  # trimmed in between
                except BaseException as failure:
                    wrong.append(failure)
                    return
                if found != content(batches[start]):
                    wrong.append((start, found))

        with beside(read):
            for offset in range(0, 201, 3):
                log.trim(offset)
            log.trim(200)

        expect("a read that overlaps a trim gives its records or OffsetOutOfRange, nothing else", wrong, [])

    # -- truncate ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("offset", [0, 2, 14, 24, 38, 40])
    def test_truncate_removes_what_follows(self, store: SuiteStore, truncatable_log: Log, offset: int) -> None:
        truncatable_log.truncate(offset)

        for log in store.before_and_after_restart(truncatable_log):
            expect("the next record gets the offset truncated to", log.end_offset, offset)
            self.expect_log("what lies before stays, what follows is gone", log, _BATCHES[: offset // 2])

    def test_other_records_take_the_place_of_truncated_ones(self, store: SuiteStore, truncatable_log: Log) -> None:
        truncatable_log.read(20, 500, 40)
        truncatable_log.truncate(14)
        others = [make_batch(offset, b"other", size=170) for offset in range(14, 40)]
        for batch in others:
            truncatable_log.append([batch])

        wanted = _BATCHES[:7] + others
        for log in store.before_and_after_restart(truncatable_log):
            self.expect_log(
                "a follower replaces what its leader does not have; nothing of it may shine through", log, wanted
            )
            for offset in range(14, 40):
                data = log.read(offset, 1, 40)
                self.expect_batches("reads find the new records", data, [others[offset - 14]])

    def test_truncated_records_are_not_found_by_time(self, log: Log) -> None:
        if not self.supports_truncate:
            pytest.skip("the store declares supports_truncate = False")
        for offset in range(50):
            log.append([make_batch(offset, timestamp=1_000 + offset, size=120)])
        log.truncate(30)

        expect("what was truncated is gone for searches too", log.find_timestamp(1_030, 30), None)
        expect("what was left is found", log.find_timestamp(1_029, 30), (29, 1_029))

    def test_truncate_after_trim(self, store: SuiteStore, truncatable_log: Log) -> None:
        truncatable_log.trim(21)
        truncatable_log.truncate(30)

        for log in store.before_and_after_restart(truncatable_log):
            expect("both ends hold", (log.start_offset, log.end_offset), (21, 30))
            expect("reads give what is left", content(log.read(28, MANY_BYTES, 30)), content(_BATCHES[14]))

    def test_truncate_forgets_later_states(self, store: SuiteStore, truncatable_log: Log) -> None:
        truncatable_log.flush()
        truncatable_log.save_state(SavedState(10, b"early"))
        truncatable_log.save_state(SavedState(30, b"late"))
        truncatable_log.truncate(20)
        truncatable_log.append([make_batch(offset) for offset in range(20, 40)])

        promise = (
            "a state past the truncation is of records that are gone; it must not come back when the log has grown"
        )
        for log in store.before_and_after_restart(truncatable_log):
            expect(promise, log.load_state(), SavedState(10, b"early"))

    # -- saved state -------------------------------------------------------------------------------

    def test_the_latest_state_is_loaded(self, store: SuiteStore, full_log: Log) -> None:
        full_log.flush()
        states = [SavedState(offset, b"\x00state\xff%d" % offset) for offset in (0, 10, 30, 40)]
        for state in states:
            full_log.save_state(state)
            expect("the state with the largest offset is loaded", full_log.load_state(), state)

        expect("a saved state outlives a restart", store.reopen().load_state(), states[-1])

    def test_a_state_is_replaced_by_one_of_the_same_offset(self, full_log: Log) -> None:
        full_log.flush()
        full_log.save_state(SavedState(10, b"old"))
        full_log.save_state(SavedState(10, b"new"))

        expect("the state saved last for an offset counts", full_log.load_state(), SavedState(10, b"new"))

    @pytest.mark.parametrize("state", [b"", bytes(range(256)) * 400])
    def test_a_state_is_any_bytes(self, full_log: Log, state: bytes) -> None:
        full_log.flush()
        full_log.save_state(SavedState(40, state))

        expect("a state is opaque and comes back as it was", full_log.load_state(), SavedState(40, state))
