"""What the segment store writes, and how little it reads and keeps open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.disk import DiskFile, RealDisk
from trunkline.log import SavedState
from trunkline.settings import TopicSettings

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

MakeBatches = Callable[..., list[bytes]]


class CountingDisk(RealDisk):
    """Counts the bytes read from each file, and what is done to files, in order."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}
        self.calls: list[str] = []

    def open(self, path: Path) -> DiskFile:
        file: Any = super().open(path)
        disk = self

        class Counting(type(file)):  # type: ignore[misc]  # the class of real files is not public
            __slots__ = ()

            def read(self, position: int, size: int) -> bytes:
                data: bytes = super().read(position, size)
                disk.read[path.suffix] = disk.read.get(path.suffix, 0) + len(data)
                return data

            def append(self, buffers: Any) -> int:
                disk.calls.append(f"append {path.suffix}")
                size: int = super().append(buffers)
                return size

            def sync(self) -> None:
                disk.calls.append(f"sync {path.suffix}")
                super().sync()

        file.close()
        counting: DiskFile = Counting(path)
        return counting

    def replace_file(self, path: Path, contents: bytes) -> None:
        self.calls.append(f"replace {path.name}")
        super().replace_file(path, contents)

    def sync_directory(self, directory: Path) -> None:
        self.calls.append("sync directory")
        super().sync_directory(directory)


@pytest.fixture
def counting(workbench: Workbench) -> CountingDisk:
    disk = workbench.disk = CountingDisk()
    return disk


def test_a_round_is_one_write(workbench: Workbench, counting: CountingDisk, some_batches: MakeBatches) -> None:
    log = workbench.open()
    counting.calls.clear()
    log.append(some_batches(0, 10))

    assert counting.calls == ["append .log"]


def test_a_round_is_split_only_where_a_segment_is_full(small_segments: Workbench, some_batches: MakeBatches) -> None:
    disk = small_segments.disk = CountingDisk()
    log = small_segments.open()
    disk.calls.clear()
    log.append(some_batches(0, 25))

    assert disk.calls == ["append .log"] * 3


def test_a_flush_is_one_sync(workbench: Workbench, counting: CountingDisk, some_batches: MakeBatches) -> None:
    log = workbench.open()
    log.append(some_batches(0, 10))
    counting.calls.clear()
    log.flush()
    log.flush()

    assert counting.calls == ["sync .log"]


def test_a_flush_after_a_roll_syncs_logs_names_indexes_and_checkpoint_in_this_order(
    small_segments: Workbench, some_batches: MakeBatches
) -> None:
    disk = small_segments.disk = CountingDisk()
    log = small_segments.open()
    log.append(some_batches(0, 15))
    disk.calls.clear()
    log.flush()

    indexes = ["append .index", "sync .index", "append .timeindex", "sync .timeindex"] * 2
    assert disk.calls == ["sync .log"] * 2 + ["sync directory"] + indexes + ["replace checkpoint", "sync directory"]


def test_segments_roll_by_the_time_their_records_span(workbench: Workbench, some_batches: MakeBatches) -> None:
    workbench.settings = TopicSettings(segment_ms=10)
    log = workbench.open()
    for batch in some_batches(100, 125):  # the timestamps too go from 100 to 124
        log.append([batch.replace(batch[:8], (log.end_offset).to_bytes(8, "big"), 1)])

    assert [path.name for path in sorted(workbench.directory.glob("*.log"))] == [
        f"{base:020d}.log" for base in (0, 11, 22)
    ]


def test_a_closed_log_is_opened_without_reading_it(
    workbench: Workbench, counting: CountingDisk, some_batches: MakeBatches
) -> None:
    log = workbench.open()
    log.append(some_batches(0, 1_000))
    log.close()
    counting.read.clear()
    counting.calls.clear()
    log = workbench.open()

    assert log.end_offset == 1_000
    assert counting.read[".log"] < 1_000
    assert counting.calls == []


def test_after_a_kill_only_what_follows_the_recovery_point_is_read(
    workbench: Workbench, counting: CountingDisk, some_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline_segments.log.CHECKPOINT_BYTES", 50_000)
    log = workbench.open()
    for batch in some_batches(0, 2_000):
        log.append([batch])
        log.flush()
    counting.read.clear()
    log = workbench.open()

    assert log.end_offset == 2_000
    assert counting.read[".log"] < 52_000


def test_few_files_are_open_at_a_time(
    small_segments: Workbench, some_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        paths = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return sum(path.startswith(str(small_segments.root)) for path in paths)

    monkeypatch.setattr("trunkline_segments.files.OpenFiles.__init__.__defaults__", (8,))
    log = small_segments.open()
    wanted = some_batches(0, 500)
    for batch in wanted:
        log.append([batch])
        log.flush()
    assert [log.read(offset, 1, 500) for offset in range(500)] == wanted
    assert [log.find_timestamp(offset, 500) for offset in range(500)] == [(offset, offset) for offset in range(500)]

    assert count() <= 9, "eight files, and the one that is appended to"
    log.close()
    assert count() == 0


def test_a_damaged_state_gives_way_to_the_one_before(
    workbench: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    log = workbench.open()
    log.append(some_batches(0, 10))
    log.flush()
    for offset in (2, 5, 9):
        log.save_state(SavedState(offset, b"state %d" % offset))
    assert [path.name[18:20] for path in sorted(workbench.directory.glob("*.snapshot"))] == ["05", "09"]
    path = workbench.path(9, ".snapshot")
    contents = path.read_bytes()
    for byte in range(len(contents)):
        path.write_bytes(contents)
        workbench.flip(path, byte)
        assert log.load_state() == (5, b"state 5")
    path.write_bytes(contents[:4])
    assert log.load_state() == (5, b"state 5")

    assert str(path) in caplog.text
