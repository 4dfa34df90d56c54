"""A store compared with a plain list after any series of operations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from trunkline.log import Log, Store, TimestampedOffset
from trunkline.records import Record, decode_all, encode
from trunkline.settings import TopicSettings
from trunkline.testing.store_suite import MANY_BYTES, NAME, Promises, SuiteStore, expect

__all__ = ["ModelPromises"]

_TIMESTAMPS = st.integers(0, 60)
_BATCHES = st.lists(
    st.lists(st.tuples(_TIMESTAMPS, st.none(), st.binary(max_size=300), st.just(())), min_size=1, max_size=3),
    min_size=1,
    max_size=4,
)


class ModelPromises(Promises):
    """Checks series of operations that no one has thought of."""

    def test_a_log_is_like_a_list(
        self, store_factory: Callable[[Path], Store], topic_settings: TopicSettings, tmp_path: Path
    ) -> None:
        def make_store() -> SuiteStore:
            directory = Path(tempfile.mkdtemp(dir=tmp_path))
            return SuiteStore(store_factory, directory, topic_settings, is_durable=self.is_durable)

        supports_truncate = self.supports_truncate

        class Machine(_LogMachine):
            def __init__(self) -> None:
                super().__init__(make_store(), supports_truncate)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


class _LogMachine(RuleBasedStateMachine):
    """The model: the records since offset 0, the offsets where batches start, and the start offset."""

    def __init__(self, store: SuiteStore, supports_truncate: bool) -> None:
        super().__init__()
        self.store = store
        self.supports_truncate = supports_truncate
        self.records: list[Record] = []
        self.boundaries = [0]
        self.start = 0
        self.log: Log = store.open(NAME)

    @property
    def end(self) -> int:
        return len(self.records)

    @rule(batches=_BATCHES)
    def append(self, batches: list[list[Any]]) -> None:
        encoded = []
        for records in batches:
            batch = encode(records, base_offset=self.end)
            encoded.append(batch)
            self.records += decode_all(batch)
            self.boundaries.append(self.end)
        self.log.append(encoded)

    @rule()
    def flush(self) -> None:
        expect("flush says how far the log is durable", self.log.flush(), self.end)

    @rule()
    def restart(self) -> None:
        self.log = self.store.reopen(NAME)

    @rule(data=st.data(), max_bytes=st.integers(0, 2_000))
    def read(self, data: st.DataObject, max_bytes: int) -> None:
        offset = data.draw(st.integers(self.start, self.end), "offset")
        end = data.draw(st.sampled_from([b for b in self.boundaries if b >= self.start] or [self.end]), "end offset")
        found = self.log.read(offset, max_bytes, end)
        records = decode_all(found, from_offset=offset)
        expect(
            "a read gives the records from its offset on, without a gap", records, self.records[offset:][: len(records)]
        )
        expect("a read is empty only if there is nothing", bool(records), offset < end)
        expect("a read stops before end_offset", offset + len(records) <= max(end, offset), True)
        tried = self.log.read_nowait(offset, max_bytes, end)
        expect("read_nowait gives the same or None", tried in (None, found), True)

    @rule(data=st.data(), timestamp=_TIMESTAMPS)
    def find_timestamp(self, data: st.DataObject, timestamp: int) -> None:
        end = data.draw(st.sampled_from(self.boundaries), "end offset")
        newer = [r for r in self.records[self.start : max(end, self.start)] if r.timestamp >= timestamp]
        wanted = TimestampedOffset(newer[0].offset, newer[0].timestamp) if newer else None
        expect("the first record so new is found", self.log.find_timestamp(timestamp, end), wanted)

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        self.start = data.draw(st.integers(self.start, self.end), "offset")
        self.log.trim(self.start)

    @precondition(lambda self: self.supports_truncate)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from([b for b in self.boundaries if b >= self.start] or [self.end]), "offset")
        self.log.truncate(offset)
        del self.records[offset:]
        self.boundaries = [boundary for boundary in self.boundaries if boundary <= offset]

    @invariant()
    def agrees(self) -> None:
        expect("start and end offset", (self.log.start_offset, self.log.end_offset), (self.start, self.end))
        found = decode_all(self.log.read(self.start, MANY_BYTES, self.end), from_offset=self.start)
        expect("reading the log gives it from the start", found, self.records[self.start :][: len(found)])

    def teardown(self) -> None:
        self.store.close()
