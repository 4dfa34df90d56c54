"""Promises about appending and flushing."""

from __future__ import annotations

import threading

from trunkline.log import Log, TopicPartition
from trunkline.records import encode
from trunkline.testing.batches import content, make_batch
from trunkline.testing.store_suite import MANY_BYTES, Promises, SuiteStore, beside, expect

__all__ = ["AppendPromises"]


class AppendPromises(Promises):
    """Checks of ``append``, ``flush``, ``size_bytes`` and ``close``."""

    def test_a_new_log_is_empty(self, log: Log) -> None:
        expect("a new log starts at offset 0", log.start_offset, 0)
        expect("the next offset of a new log is 0", log.end_offset, 0)
        expect("reading an empty log at its end is no error, there is just nothing", log.read(0, MANY_BYTES, 0), b"")
        expect("an empty log has no record of any time", log.find_timestamp(0, 0), None)
        expect("an empty log has no saved state", log.load_state(), None)
        expect("what is durable of an empty log ends at 0", log.flush(), 0)

    def test_end_offset_counts_records_not_batches(self, log: Log) -> None:
        log.append([make_batch(0, b"a", b"b", b"c")])

        expect("the next record gets the offset after the batch's last record", log.end_offset, 3)

    def test_appended_batches_can_be_read_at_once(self, log: Log) -> None:
        batches = [make_batch(0), make_batch(1, b"x", b"y"), make_batch(3)]
        log.append(batches[:2])
        log.append(batches[2:])

        self.expect_log("what was appended is readable before any flush, in order and without a gap", log, batches)

    def test_buffers_may_change_once_they_are_appended(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(0, size=300), make_batch(1, size=70_000), make_batch(2, size=300)]
        memory = bytearray(b"".join(batches))
        views = [memoryview(memory)[: len(batches[0])], memoryview(memory)[len(batches[0]) : -len(batches[2])]]
        log.append_buffers([*views, batches[2]])
        memory[:] = bytes(len(memory))
        self.expect_log("what was in a buffer is kept", log, batches)
        log.flush()
        self.expect_log("what was in a buffer survives", store.reopen(), batches)

    def test_appending_nothing_changes_nothing(self, log: Log) -> None:
        log.append([make_batch(0)])
        log.append([])

        expect("appending no batches moves nothing", log.end_offset, 1)

    def test_records_come_back_as_they_were(self, store: SuiteStore, log: Log) -> None:
        records = [
            (1, None, None, ()),
            (2, b"", b"", ()),
            (3, b"key", b"\x00\xff\r\n", (("name", b"value"), ("name", None), ("", b""))),
        ]
        batch = encode(records, base_offset=0, leader_epoch=7)
        log.append([batch])

        promise = "null and empty are not the same, and keys, values, headers and their order are kept exactly"
        self.expect_log(promise, log, [batch])
        self.expect_log(promise + ", after a restart too", store.reopen(), [batch])

    def test_compressed_batches_come_back_as_they_were(self, log: Log) -> None:
        batch = encode([(1, None, b"a" * 500, ()), (2, None, b"b" * 500, ())], compression=1)
        log.append([batch])

        self.expect_log("compression is the client's business; its records must survive the store", log, [batch])

    def test_a_batch_larger_than_a_segment_is_kept(self, log: Log) -> None:
        batches = [make_batch(0), make_batch(1, size=5_000), make_batch(2)]
        for batch in batches:
            log.append([batch])

        self.expect_log("a batch is as large as max.message.bytes allows, whatever the segment size", log, batches)

    def test_flush_returns_the_end_of_what_is_durable(self, log: Log) -> None:
        log.append([make_batch(0, b"a", b"b")])
        expect("flush makes durable all that was appended before, and says how far that is", log.flush(), 2)
        expect("flushing again, with nothing new, still says how far", log.flush(), 2)

    def test_many_rounds_survive_a_restart(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(offset, size=200) for offset in range(100)]
        for batch in batches:
            log.append([batch])
            log.flush()

        log = store.reopen()
        expect(
            "the end offset is what it was before the restart, else offsets would be given twice", log.end_offset, 100
        )
        self.expect_log("what was flushed is there after a restart", log, batches)

    def test_closing_flushes(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(0), make_batch(1)]
        log.append(batches)

        self.expect_log("close flushes, so what was appended before is there after a restart", store.reopen(), batches)

    def test_appends_go_on_after_a_restart(self, store: SuiteStore, log: Log) -> None:
        batches = [make_batch(offset, size=300) for offset in range(10)]
        for batch in batches:
            log.append([batch])
            log = store.reopen()

        self.expect_log("a reopened log goes on where it was", log, batches)

    def test_size_follows_what_is_kept(self, store: SuiteStore, log: Log) -> None:
        before = log.size_bytes()
        log.append([make_batch(0, size=20_000)])
        grown = log.size_bytes()

        if grown - before < 10_000:
            raise AssertionError(
                f"broken promise: size_bytes tells retention how much a log takes; it went from {before} to {grown} "
                "when 20000 bytes were appended"
            )
        expect("size_bytes is the same after a restart, roughly", store.reopen().size_bytes() >= grown / 2, True)

    def test_flushes_overlap_appends(self, store: SuiteStore, log: Log) -> None:
        promised: list[int] = []
        is_done = threading.Event()

        def flush() -> None:
            while not is_done.is_set():
                promised.append(log.flush())

        batches = [make_batch(offset, size=100) for offset in range(300)]
        with beside(flush):
            for batch in batches:
                log.append([batch])
            is_done.set()

        expect("what flush returns never goes back", promised, sorted(promised))
        self.expect_log("appends during a flush are neither lost nor mixed up", store.reopen(), batches)

    def test_logs_do_not_touch_each_other(self, store: SuiteStore) -> None:
        names = [TopicPartition(f"topic{i % 5}", i // 5) for i in range(50)]
        batches = {name: make_batch(0, str(name).encode()) for name in names}
        logs = {name: store.open(name) for name in names}
        for name, log in logs.items():
            log.append([batches[name]])

        found = {name: content(log.read(0, MANY_BYTES, 1)) for name, log in logs.items()}
        expect("each log has its own records only", found, {name: content(batch) for name, batch in batches.items()})
