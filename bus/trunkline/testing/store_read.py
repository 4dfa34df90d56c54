"""Promises about reading."""

from __future__ import annotations

from functools import partial

import pytest

from trunkline.errors import OffsetOutOfRange
from trunkline.log import Log
from trunkline.records import decode_all
from trunkline.testing.batches import content, make_batch, next_offset
from trunkline.testing.store_suite import MANY_BYTES, Promises, SuiteStore, beside, expect

__all__ = ["ReadPromises"]

_BATCHES = [make_batch(offset, b"%d" % offset, b"%d" % (offset + 1), size=150) for offset in range(0, 40, 2)]


class ReadPromises(Promises):
    """Checks of ``read`` and ``read_nowait``."""

    @pytest.fixture
    def full_log(self, log: Log) -> Log:
        """Batches of two records each, offsets 0 to 39."""
        for batch in _BATCHES:
            log.append([batch])
        return log

    def test_a_read_starts_at_any_batch(self, full_log: Log) -> None:
        for number in range(len(_BATCHES)):
            data = full_log.read(2 * number, 1, full_log.end_offset)
            self.expect_batches("a read starts with the batch that its offset starts", data, [_BATCHES[number]])

    def test_a_read_from_inside_a_batch_gives_the_whole_batch(self, full_log: Log) -> None:
        for number in range(len(_BATCHES)):
            offset = 2 * number + 1
            data = full_log.read(offset, 1, full_log.end_offset)
            promise = "an offset inside a batch gives the whole batch; the reader skips what it did not ask for"
            self.expect_batches(promise, data, [_BATCHES[number]], offset)

    def test_a_read_never_passes_max_bytes_after_the_first_batch(self, full_log: Log) -> None:
        size = len(_BATCHES[0])
        first = full_log.read(0, 3 * size - 1, full_log.end_offset)

        promise = "max_bytes bounds the answer, or readers' memory is not bounded"
        expect(promise, len(first) <= 3 * size - 1 or next_offset(first) <= 2, True)
        expect("a read with room for a batch is never empty, or readers hang", len(first) > 0, True)

    def test_a_read_uses_the_room_it_has(self, full_log: Log) -> None:
        size = len(_BATCHES[0])
        data = full_log.read(0, 3 * size, full_log.end_offset)

        self.expect_batches("batches that fit max_bytes exactly are given", data, _BATCHES[: len(content(data)) // 2])
        expect("a read gives more than one batch if there is room", len(data) > size, True)

    @pytest.mark.parametrize("max_bytes", [0, 1, 60, 149])
    def test_the_first_batch_is_given_whatever_its_size(self, full_log: Log, max_bytes: int) -> None:
        data = full_log.read(6, max_bytes, full_log.end_offset)

        self.expect_batches("a batch larger than max_bytes is given alone, or its reader hangs", data, [_BATCHES[3]])

    def test_a_large_first_batch_is_given_whole(self, log: Log) -> None:
        batch = make_batch(0, size=300_000)
        log.append([batch])
        log.append([make_batch(1)])

        self.expect_batches("the first batch is given whole, however large", log.read(0, 1_000, 2), [batch])

    def test_no_read_reaches_end_offset(self, full_log: Log) -> None:
        for end in range(2, full_log.end_offset + 1, 2):
            data = full_log.read(0, MANY_BYTES, end)
            last = next_offset(data)
            promise = f"a read stops before end_offset {end} (the high watermark): what follows may still be lost"
            expect(promise, last <= end, True)

    def test_reading_at_the_end_gives_nothing(self, full_log: Log) -> None:
        end = full_log.end_offset
        expect("at the log's end there is nothing yet", full_log.read(end, MANY_BYTES, end), b"")
        expect("at end_offset there is nothing to give", full_log.read(6, MANY_BYTES, 6), b"")
        expect("past end_offset there is nothing to give", full_log.read(8, MANY_BYTES, 6), b"")

    @pytest.mark.parametrize("offset", [-1, 41, 1_000_000])
    def test_an_offset_outside_the_log_is_an_error(self, full_log: Log, offset: int) -> None:
        with pytest.raises(OffsetOutOfRange):
            full_log.read(offset, MANY_BYTES, full_log.end_offset)

    def test_read_nowait_gives_the_same_or_none(self, full_log: Log) -> None:
        end = full_log.end_offset
        for offset in range(end + 1):
            data = full_log.read_nowait(offset, 500, end)
            wanted = full_log.read(offset, 500, end)
            expect(f"read_nowait({offset}) is None or what read gives", data in (None, wanted), True)

    @pytest.mark.parametrize("max_bytes", [1, 151, 500, 4_096, MANY_BYTES])
    def test_reading_on_gives_everything_once(self, store: SuiteStore, full_log: Log, max_bytes: int) -> None:
        for log in store.before_and_after_restart(full_log):
            offset, offsets = 0, []
            while offset < log.end_offset:
                data = log.read(offset, max_bytes, log.end_offset)
                expect(f"there are records at offset {offset}, so a read is not empty", len(data) > 0, True)
                offsets += [record.offset for record in decode_all(data, from_offset=offset)]
                offset = next_offset(data)
            promise = "a reader that asks on where the last answer ended gets each record once"
            expect(promise, offsets, list(range(log.end_offset)))

    def test_readers_keep_up_with_a_writer(self, log: Log) -> None:
        batches = [make_batch(offset, b"%d" % offset, size=100) for offset in range(200)]
        found: list[list[bytes | None]] = [[], []]
        failures: list[BaseException] = []

        def follow(values: list[bytes | None]) -> None:
            try:
                while len(values) < len(batches):
                    end = log.end_offset
                    data = log.read_nowait(len(values), 1_000, end)
                    if data is None:
                        data = log.read(len(values), 1_000, end)
                    values += [record.value for record in decode_all(data, from_offset=len(values))]
            except BaseException as failure:
                failures.append(failure)

        with beside(*(partial(follow, values) for values in found)):
            for batch in batches:
                log.append([batch])

        expect("a read that overlaps an append does not fail", failures, [])
        promise = "readers that overlap an append see every record once, in order, and never a part of one"
        wanted = [record.value for batch in batches for record in content(batch)]
        expect(promise, found, [wanted, wanted])
