"""What a killed process or a torn -wal file leaves: all that was flushed, in order, nothing invented.

SQLite opens its files itself, so no simulated disk can come between. Instead processes are killed while they
write, and the two files are copied as a crash could have left them: the -wal file cut at any byte, with anything
behind it. What is copied stays below the size at which SQLite moves the -wal file's contents into the database;
what is killed goes past it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from trunkline.disk import RealDisk
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import Record, decode_all
from trunkline.settings import TopicSettings
from trunkline.testing import make_batch
from trunkline_sqlite.store import DATABASE, SqliteStore

NAMES = [TopicPartition("orders", 0), TopicPartition("orders", 1)]
WAL = f"{DATABASE}-wal"
CRASHES = int(os.environ.get("TRUNKLINE_CRASHES", "300"))
LEFT_TO_FLUSH = TopicSettings.parse({"durability": "os"})  # so that an append alone syncs nothing


def make_store(directory: Path) -> SqliteStore:
    return SqliteStore(StoreContext(directory, RealDisk()))


def records(log: Log) -> list[Record]:
    found: list[Record] = []
    offset = log.start_offset
    while offset < log.end_offset:
        found += decode_all(log.read(offset, 1 << 20, log.end_offset), from_offset=offset)
        offset = found[-1].offset + 1
    return found


class Model:
    """What one log should hold."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ends = [0]  # after each append
        self.flushed = 0

    def append(self, log: Log, values: list[bytes]) -> None:
        batches = []
        for value in values:
            batches.append(make_batch(len(self.records), value, value))
            self.records += decode_all(batches[-1])
        log.append(batches)
        self.ends.append(len(self.records))

    def check(self, store: SqliteStore, name: TopicPartition, at_least: int) -> None:
        """The log is as it was after one of its appends, not before the one that ended at ``at_least``."""
        log = store.open(name, LEFT_TO_FLUSH)
        end = log.end_offset
        assert end in self.ends
        assert end >= at_least
        assert records(log) == self.records[log.start_offset : end]
        log.append([make_batch(end)])  # and it goes on from there
        assert records(log)[-1].offset == end
        log.close()


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.none() | st.integers(0, 5) | st.lists(st.binary(max_size=2_000), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=CRASHES, suppress_health_check=list(HealthCheck))
@given(operations=OPERATIONS, data=st.data())
def test_what_was_flushed_outlives_any_cut_past_it(tmp_path: Path, operations: Any, data: Any) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    before = root / "before"
    before.mkdir()
    store = make_store(before)
    logs = [store.open(name, LEFT_TO_FLUSH) for name in NAMES]
    models = [Model(), Model()]
    synced_bytes = 0
    for number, operation in operations:
        log, model = logs[number], models[number]
        if isinstance(operation, list):
            model.append(log, operation)
            continue
        if operation is None:
            log.flush()
        else:
            log.trim(min(log.start_offset + operation, log.end_offset))
        if store._writer.is_durable(store._writer._commits):  # of both logs, whichever was flushed or trimmed
            synced_bytes = (before / WAL).stat().st_size
            for one in models:
                one.flushed = one.ends[-1]
    wal = (before / WAL).read_bytes()
    cut = data.draw(st.integers(0, len(wal)) | st.integers(synced_bytes, len(wal)), "cut")
    after = root / "after"
    after.mkdir()
    shutil.copy(before / DATABASE, after)
    (after / WAL).write_bytes(wal[:cut] + data.draw(st.binary(max_size=5_000), "torn"))
    store.close()

    again = make_store(after)
    for name, model in zip(NAMES, models, strict=True):
        model.check(again, name, model.flushed if cut >= synced_bytes else 0)
    again.close()
    shutil.rmtree(root)


def test_copies_made_while_records_are_written(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    store = make_store(before)
    log, model = store.open(NAMES[0], LEFT_TO_FLUSH), Model()
    store._connection.execute("PRAGMA wal_autocheckpoint = 0")  # or a copy of two files would be of two moments
    flushed = [0]

    def write() -> None:
        for number in range(300):
            model.append(log, [b"%d" % number * 100])
            flushed.append(log.flush())

    writer = threading.Thread(target=write)
    writer.start()
    copies: list[tuple[Path, int]] = []
    while writer.is_alive():
        at_least = flushed[-1]
        copy = tmp_path / f"copy-{len(copies)}"
        copy.mkdir()
        shutil.copy(before / DATABASE, copy)
        shutil.copy(before / WAL, copy)
        copies.append((copy, at_least))
    writer.join()
    store.close()
    for copy, at_least in copies[:: max(1, len(copies) // 20)]:
        again = make_store(copy)
        model.check(again, NAMES[0], at_least)
        again.close()


_WRITING = """
import sys, threading
from pathlib import Path
from trunkline.disk import RealDisk
from trunkline.log import StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing import make_batch
from trunkline_sqlite.store import SqliteStore

store = SqliteStore(StoreContext(Path(sys.argv[1]), RealDisk()))

def write(partition):
    log = store.open(TopicPartition("orders", partition), TopicSettings())
    while True:
        value = b"%d/%d" % (partition, log.end_offset)
        log.append([make_batch(log.end_offset, value, b"x" * 20_000)])
        sys.stdout.write(f"{partition} {log.flush()}\\n")
        sys.stdout.flush()

for partition in range(4):
    threading.Thread(target=write, args=(partition,)).start()
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 600, 1500])  # the last ones past SQLite's first checkpoint
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, acknowledged: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledged)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    assert process.wait(timeout=30) == -signal.SIGKILL

    promised = dict.fromkeys(range(4), 0)
    for line in lines:
        if line.endswith("\n"):
            partition, end = map(int, line.split())
            promised[partition] = end
    store = make_store(tmp_path)
    for name in store.list():
        log = store.open(name, TopicSettings())
        assert log.end_offset >= promised[name.partition]
        found = records(log)
        assert [record.offset for record in found] == [*range(log.end_offset)]
        assert [record.value for record in found[::2]] == [
            b"%d/%d" % (name.partition, offset) for offset in range(0, log.end_offset, 2)
        ]
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == (b"ok",)
    store.close()
