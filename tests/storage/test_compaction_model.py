"""Compaction of any log at any moment: the newest of each key is there, and readers see every deletion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trunkline.cleaner import Cleaner, RateLimiter
from trunkline.disk import RealDisk
from trunkline.keymap import BYTES_PER_KEY
from trunkline.log import Log, Store, StoreContext, TopicPartition
from trunkline.producers import ProducerTable
from trunkline.records import Record, decode, encode, iter_headers, read_header
from trunkline.settings import TopicSettings
from trunkline.testing import MemoryStore
from trunkline_segments.store import SegmentStore

NAME = TopicPartition("orders", 0)
SETTINGS = TopicSettings(segment_bytes=1024, index_interval_bytes=150)
RETENTION_MS = 50

KEYS = st.sampled_from([None, b"", b"a", b"b", b"c", b"d"])
VALUES = st.none() | st.binary(max_size=60)
ROWS = st.lists(st.tuples(st.integers(0, 1_000), KEYS, VALUES, st.just(())), min_size=1, max_size=4)


class Reader:
    """Reads the log from its start, and keeps a table of what it has seen."""

    def __init__(self, now_ms: int) -> None:
        self.began_ms = now_ms
        self.offset = 0
        self.table: dict[bytes, bytes] = {}

    def take(self, batches: bytes) -> None:
        for position, header in iter_headers(batches):
            for record in decode(batches[position : position + header.size_bytes]):
                if record.offset >= self.offset and record.key is not None:
                    self.table.pop(record.key, None)
                    if record.value is not None:
                        self.table[record.key] = record.value
            self.offset = header.next_offset


class CompactedLog(RuleBasedStateMachine):
    """The model: every record ever appended, by offset."""

    def __init__(self, make_store: Callable[[], Store]) -> None:
        super().__init__()
        self.make_store = make_store
        self.store = make_store()
        self.log: Log = self.store.open(NAME, SETTINGS)
        self.appended: list[Record] = []
        self.producers = ProducerTable()
        self.sequences = {1: 0, 2: 0}
        self.readers: list[Reader] = []
        self.cleaned = 0
        self.now_ms = 1_000

    @rule(
        batches=st.lists(ROWS, min_size=1, max_size=8),
        compression=st.integers(0, 4),
        producer=st.sampled_from([None, 1, 2]),
        stamped=st.booleans(),
    )
    def append(self, batches: list[list[Any]], compression: int, producer: int | None, stamped: bool) -> None:
        for rows in batches:
            options: dict[str, Any] = {"append_time": self.now_ms if stamped else None}
            if producer is not None:
                options |= {"producer_id": producer, "producer_epoch": 0, "base_sequence": self.sequences[producer]}
                self.sequences[producer] += len(rows)
            batch = encode(rows, base_offset=len(self.appended), compression=compression, **options)
            self.producers.update(read_header(batch), len(self.appended))
            self.appended += decode(batch)
            self.log.append([batch])

    @rule(passed_ms=st.integers(1, 60))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(share=st.floats(0.3, 1), keys=st.integers(5, 12))
    def clean(self, share: float, keys: int) -> None:
        self.log.flush()
        end = self._boundary(int(self.log.rewritable_end_offset * share))
        if end <= self.cleaned:
            return
        cleaner = Cleaner(RateLimiter(0), now_ms=lambda: self.now_ms, key_map_bytes=keys * BYTES_PER_KEY)
        done = cleaner.clean(
            self.log,
            cleaned_offset=self.cleaned,
            end_offset=end,
            last_batches=self.producers.last_batches(1 << 62),
            delete_retention_ms=RETENTION_MS,
        )
        assert self.cleaned < done.cleaned_offset <= end
        self.cleaned = done.cleaned_offset

    @rule()
    def forget_how_far_it_was_cleaned(self) -> None:
        self.cleaned = 0

    @rule(stop_after=st.integers(0, 20))
    def clean_and_stop(self, stop_after: int) -> None:
        class _Stop(Exception):
            pass

        left = stop_after

        def sleep(seconds: float) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Stop

        self.log.flush()
        cleaner = Cleaner(RateLimiter(1, clock=lambda: 0.0, sleep=sleep), now_ms=lambda: self.now_ms)
        try:
            done = cleaner.clean(
                self.log,
                cleaned_offset=self.cleaned,
                end_offset=max(self.log.rewritable_end_offset, self.cleaned),
                last_batches=self.producers.last_batches(1 << 62),
                delete_retention_ms=RETENTION_MS,
            )
            self.cleaned = done.cleaned_offset
        except _Stop:
            pass

    @rule()
    def restart(self) -> None:
        self.log.close()
        if not isinstance(self.store, MemoryStore):
            self.store.close()
            self.store = self.make_store()
        self.log = self.store.open(NAME, SETTINGS)

    @rule()
    def begin_to_read(self) -> None:
        self.readers.append(Reader(self.now_ms))

    @rule(max_bytes=st.integers(1, 2_000))
    def read_on(self, max_bytes: int) -> None:
        for reader in self.readers:
            data = self.log.read(reader.offset, max_bytes, self.log.end_offset)
            assert bool(data) == (reader.offset < self.log.end_offset), "a read below the end finds something"
            reader.take(data)
        self._judge_readers()

    def _judge_readers(self) -> None:
        for reader in [*self.readers]:
            is_late = self.now_ms >= reader.began_ms + RETENTION_MS
            if is_late or reader.offset == len(self.appended):
                self.readers.remove(reader)
            if not is_late and reader.offset == len(self.appended):
                assert reader.table == self.table, "who reads it in time has seen every deletion"

    @property
    def table(self) -> dict[bytes, bytes]:
        table: dict[bytes, bytes | None] = {r.key: r.value for r in self.appended if r.key is not None}
        return {key: value for key, value in table.items() if value is not None}

    def _boundary(self, offset: int) -> int:
        """The end of the batch that holds ``offset``, if that may be rewritten."""
        data = self.log.read(offset, 1, self.log.end_offset)
        end = read_header(data).next_offset if data else offset
        return end if end <= self.log.rewritable_end_offset else self.log.rewritable_end_offset

    @invariant()
    def keeps_what_it_must(self) -> None:
        batches, offset = [], 0
        while offset < self.log.end_offset:
            data = self.log.read(offset, 900, self.log.end_offset)
            for position, header in iter_headers(data):
                batches.append(data[position : position + header.size_bytes])
                offset = header.next_offset
        records = [record for batch in batches for record in decode(batch)]
        assert records == [self.appended[record.offset] for record in records], "what is there is as it was appended"
        kept = {record.offset for record in records}
        assert kept >= {r.offset for r in self.appended if r.key is None}, "records without a key stay"
        newest = {record.key: record for record in self.appended}
        assert kept >= {r.offset for r in newest.values() if r.value is not None}, "the newest of each key is there"
        found = {r.key: r.value for r in records if r.key is not None}
        assert {key: value for key, value in found.items() if value is not None} == self.table
        recovered = ProducerTable()
        for batch in batches:
            recovered.update(read_header(batch), read_header(batch).base_offset)
        assert recovered.last_batches(1 << 62) == self.producers.last_batches(1 << 62), (
            "each producer's last batch is there"
        )

    def teardown(self) -> None:
        self.log.close()
        self.store.close()


@pytest.mark.parametrize("kind", ["memory", "segments"])
def test_a_compacted_log_is_like_a_table(kind: str, tmp_path: Path) -> None:
    def make_store_maker() -> Callable[[], Store]:
        if kind == "memory":
            return MemoryStore
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        return lambda: SegmentStore(StoreContext(directory, RealDisk()))

    class Machine(CompactedLog):
        def __init__(self) -> None:
            super().__init__(make_store_maker())

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


STEPS = st.lists(st.tuples(st.integers(0, 24), st.booleans(), st.integers(0, 3)), min_size=2, max_size=8)
DELETIONS = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([None, b"1", b"2"])), min_size=4, max_size=25
)


@settings(max_examples=400, deadline=None)
@given(DELETIONS, STEPS, STEPS)
def test_who_reads_the_log_in_time_sees_every_deletion(
    rows: list[tuple[bytes, bytes | None]], before: list[tuple[int, bool, int]], during: list[tuple[int, bool, int]]
) -> None:
    log = MemoryStore().open(NAME, SETTINGS)
    log.append([encode([(0, key, value, ())], base_offset=offset) for offset, (key, value) in enumerate(rows)])
    now_ms = cleaned = 0
    cleaner = Cleaner(RateLimiter(0), now_ms=lambda: now_ms)
    reader: Reader | None = None

    for number, (passed_ms, cleans, reads) in enumerate(before + during):
        if number == len(before):
            reader = Reader(now_ms)
        now_ms += passed_ms
        if reader is not None and now_ms >= reader.began_ms + RETENTION_MS:
            now_ms -= passed_ms  # it is quick enough
        if cleans:
            end = min(log.end_offset, cleaned + 6)  # as if it were appended bit by bit
            cleaner.clean(
                log, cleaned_offset=cleaned, end_offset=end, last_batches={}, delete_retention_ms=RETENTION_MS
            )
            cleaned = end
        for _ in range(reads):
            if reader is not None:
                reader.take(log.read(reader.offset, 1, log.end_offset))
    assert reader is not None
    reader.take(log.read(reader.offset, 1 << 20, log.end_offset))

    assert reader.table == {key: value for key, value in dict(rows).items() if value is not None}
