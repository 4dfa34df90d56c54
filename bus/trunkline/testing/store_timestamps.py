"""Promises about finding records by time."""

from __future__ import annotations

import pytest

from trunkline.log import Log, TimestampedOffset
from trunkline.records import encode
from trunkline.testing.batches import make_batch
from trunkline.testing.store_suite import Promises, SuiteStore, expect

__all__ = ["TimestampPromises"]

_FIRST = "the first record by offset whose timestamp is at or after the one asked for"


class TimestampPromises(Promises):
    """Checks of ``find_timestamp``."""

    @pytest.fixture
    def timed_log(self, log: Log) -> Log:
        """Offset n has timestamp 10 * n."""
        for offset in range(50):
            log.append([make_batch(offset, timestamp=10 * offset, size=120)])
        return log

    def test_every_timestamp_finds_its_record(self, store: SuiteStore, timed_log: Log) -> None:
        for log in store.before_and_after_restart(timed_log):
            for offset in range(50):
                expect(_FIRST, log.find_timestamp(10 * offset, 50), TimestampedOffset(offset, 10 * offset))
            expect(_FIRST, log.find_timestamp(101, 50), TimestampedOffset(11, 110))

    def test_a_time_before_all_records_finds_the_first(self, timed_log: Log) -> None:
        expect(_FIRST, timed_log.find_timestamp(-5, 50), TimestampedOffset(0, 0))

    def test_a_time_after_all_records_finds_none(self, timed_log: Log) -> None:
        expect("None if no record is so new", timed_log.find_timestamp(491, 50), None)

    def test_records_at_or_past_end_offset_are_not_found(self, timed_log: Log) -> None:
        expect("nothing at end_offset or past it is given out", timed_log.find_timestamp(300, 30), None)
        expect(_FIRST, timed_log.find_timestamp(290, 30), TimestampedOffset(29, 290))

    def test_the_exact_record_in_a_batch_is_found(self, log: Log) -> None:
        records = [(100, None, b"a", ()), (300, None, b"b", ()), (200, None, b"c", ()), (400, None, b"d", ())]
        log.append([encode(records)])

        for timestamp, wanted in [(100, (0, 100)), (150, (1, 300)), (250, (1, 300)), (301, (3, 400))]:
            expect(f"{_FIRST}, not the batch's first", log.find_timestamp(timestamp, 4), TimestampedOffset(*wanted))

    def test_timestamps_that_go_back(self, store: SuiteStore, log: Log) -> None:
        timestamps = [50, 900, 10, 20, 30, 950, 40, 60, 1000, 5] * 5
        for offset, timestamp in enumerate(timestamps):
            log.append([make_batch(offset, timestamp=timestamp, size=120)])

        for opened in store.before_and_after_restart(log):
            for wanted in range(0, 1_100, 7):
                newer = [TimestampedOffset(o, t) for o, t in enumerate(timestamps) if t >= wanted]
                promise = f"{_FIRST}; clocks go back, so it cannot be bisected as if they did not"
                expect(promise, opened.find_timestamp(wanted, 50), next(iter(newer), None))

    def test_the_time_of_append_counts_where_it_stamps_the_records(self, log: Log) -> None:
        log.append([encode([(1, None, b"a", ()), (2, None, b"b", ())], append_time=5_000)])

        promise = "in a batch stamped on append every record has that timestamp"
        expect(promise, log.find_timestamp(1_000, 2), TimestampedOffset(0, 5_000))

    def test_trimmed_records_are_not_found(self, timed_log: Log) -> None:
        timed_log.trim(20)

        expect("what lies below the start offset is never given out", timed_log.find_timestamp(0, 50), (20, 200))

    def test_records_without_a_time_are_passed_over(self, log: Log) -> None:
        log.append([make_batch(0, timestamp=-1), make_batch(1, timestamp=-1), make_batch(2, timestamp=7)])

        expect("a timestamp of -1 means unknown and is before every time", log.find_timestamp(0, 3), (2, 7))
