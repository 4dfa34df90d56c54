"""Rewriting segment files: what is touched, what is merged, and what a crash or a failing disk leaves at each step."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trunkline.disk import Disk
from trunkline.errors import CorruptLog, LogStopped, StoreFull
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import iter_headers, read_header
from trunkline.settings import TopicSettings
from trunkline.testing import PowerLost, SimulatedDisk, make_batch
from trunkline_segments.store import SegmentStore

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

ROOT = Path("/data")
DIRECTORY = ROOT / "orders-0"
SETTINGS = TopicSettings(segment_bytes=1024, index_interval_bytes=200)
COUNT = 60

Transform = Callable[[bytes], bytes | None]


def open_log(disk: Disk) -> Log:
    disk.make_directory(ROOT)
    return SegmentStore(StoreContext(ROOT, disk)).open(TopicPartition("orders", 0), SETTINGS)


def fill(log: Log) -> Log:
    """60 batches of 200 bytes, five in a segment."""
    for offset in range(COUNT):
        log.append([make_batch(offset, timestamp=offset, size=200)])
    log.flush()
    return log


def offsets(log: Log) -> list[int]:
    found: list[int] = []
    offset = log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, 500, log.end_offset)
        for _, header in iter_headers(data):
            found.append(header.base_offset)
            offset = header.next_offset
    return found


def drop(*gone: int) -> Transform:
    return lambda batch: None if read_header(batch).base_offset in gone else batch


MOST = tuple(offset for offset in range(50) if offset % 5)


def base_offsets(bench: Workbench) -> list[int]:
    return sorted(int(path.name[:20]) for path in bench.directory.glob("*.log"))


def finished(bench: Workbench) -> Log:
    return fill(bench.open())


# -- what is touched -------------------------------------------------------------------------------


def test_only_segments_in_which_something_changes_are_written(small_segments: Workbench) -> None:
    log = finished(small_segments)
    before = {path: path.stat().st_ino for path in small_segments.directory.glob("*.log")}
    log.rewrite(log.rewritable_end_offset, drop(22))
    changed = [path.name for path, inode in before.items() if path.stat().st_ino != inode]
    assert changed == [small_segments.path(20, ".log").name]


def test_the_segment_that_is_written_to_is_left_alone(small_segments: Workbench) -> None:
    log = finished(small_segments)
    assert log.rewritable_end_offset == base_offsets(small_segments)[-1] == 55
    with pytest.raises(ValueError, match="past what can be rewritten"):
        log.rewrite(56, drop(1))


def test_what_is_not_durable_is_left_alone(small_segments: Workbench) -> None:
    log = small_segments.open()
    for offset in range(COUNT):
        log.append([make_batch(offset, size=200)])
    assert log.rewritable_end_offset == 0
    log.flush()
    assert log.rewritable_end_offset == 55


def test_small_neighbours_become_one_segment(small_segments: Workbench) -> None:
    log = finished(small_segments)
    log.rewrite(55, drop(*MOST))
    assert base_offsets(small_segments) == [*range(0, 60, 5)], "decided by the sizes before"
    log.rewrite(55, drop())
    assert base_offsets(small_segments) == [0, 25, 50, 55]
    assert offsets(log) == offsets(small_segments.open()) == [*range(0, 50, 5), *range(50, 60)]
    for path in small_segments.directory.glob("*.log"):
        assert path.stat().st_size <= 1024


def test_a_segment_of_which_nothing_is_left_is_removed(small_segments: Workbench) -> None:
    log = finished(small_segments)
    log.rewrite(55, drop(*range(50)))
    assert base_offsets(small_segments) == [0, 50, 55], "the first one says where the log starts"
    assert [chunk[:2] for chunk in log.chunks()] == [(0, 55), (55, 60)], "one that is empty does not stop retention"
    assert offsets(log) == offsets(small_segments.open()) == [*range(50, 60)]


def test_a_merged_segment_is_trimmed_and_truncated_like_any_other(small_segments: Workbench) -> None:
    log = finished(small_segments)
    for _ in range(2):
        log.rewrite(55, drop(*MOST))
    log.trim(30)
    assert offsets(log) == [30, 35, 40, 45, *range(50, 60)]
    log.truncate(45)
    for opened in (log, small_segments.open()):
        assert offsets_until_gap(opened) == [30, 35, 40]
        assert (opened.start_offset, opened.end_offset) == (30, 45)


def offsets_until_gap(log: Log) -> list[int]:
    return [header.base_offset for _, header in iter_headers(log.read(log.start_offset, 1 << 20, log.end_offset))]


# -- recovery --------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [".index", ".timeindex", "checkpoint"])
def test_what_says_where_things_are_can_be_made_anew(small_segments: Workbench, missing: str) -> None:
    log = finished(small_segments)
    log.rewrite(55, drop(*MOST))
    wanted = offsets(log)
    log.close()
    for path in small_segments.directory.glob(f"*{missing}"):
        path.unlink()
    log = small_segments.open()
    assert offsets(log) == wanted
    assert log.find_timestamp(23, 60) == (25, 25)


def test_a_gap_that_compaction_cannot_have_left_is_damage(small_segments: Workbench) -> None:
    log = finished(small_segments)
    log.rewrite(20, drop(3, 11))
    log.close()
    small_segments.path(30, ".log").unlink()
    with pytest.raises(CorruptLog, match="offset 30 comes next here, but should be 35"):
        small_segments.open()


def test_damage_in_a_compacted_segment_is_found(small_segments: Workbench) -> None:
    log = finished(small_segments)
    log.rewrite(55, drop(3, 11))
    log.close()
    for path in small_segments.directory.glob("*index"):
        path.unlink()
    small_segments.flip(small_segments.path(0, ".log"), 250)
    with pytest.raises(CorruptLog, match=r"damaged at byte 20\d:"):
        small_segments.open()


def test_damage_stops_a_rewrite_and_nothing_is_written(small_segments: Workbench) -> None:
    log = finished(small_segments)
    small_segments.flip(small_segments.path(10, ".log"), 16)
    with pytest.raises(CorruptLog, match=r"00010\.log: damaged at byte 0"):
        log.rewrite(55, drop(22))
    assert not [path for path in small_segments.directory.iterdir() if path.name.endswith((".cleaned", ".swap"))]


# -- crashes ---------------------------------------------------------------------------------------


def rewrite_twice(log: Log) -> None:
    log.rewrite(55, drop(*MOST))  # many swaps, of one segment each
    log.rewrite(55, drop(5, 10, *range(25, 50)))  # swaps of several, and removals


KEPT = {0, 15, 20, *range(50, 60)}


def operations() -> int:
    disk = SimulatedDisk(0)
    log = fill(open_log(disk))
    before = disk.operations
    rewrite_twice(log)
    return disk.operations - before


def check(log: Log) -> None:
    found = offsets(log)
    assert (log.start_offset, log.end_offset) == (0, COUNT)
    assert found == sorted(set(found))
    assert set(found) >= KEPT, "no batch that was kept is lost, whatever the moment"
    for offset in found:
        data = log.read(offset, 1, COUNT)
        assert data == make_batch(offset, timestamp=offset, size=200), "each is itself"


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_power_is_lost_at_each_step(seed: int) -> None:
    for step in range(1, operations() + 1):
        disk = SimulatedDisk(seed * 1_000 + step)
        log = fill(open_log(disk))
        disk.crash_after(step)
        with pytest.raises(PowerLost):
            rewrite_twice(log)
        disk.crash()
        log = open_log(disk)
        check(log)
        assert not [name for name in disk.list(DIRECTORY) if name.endswith((".cleaned", ".swap"))]
        rewrite_twice(log)
        assert set(offsets(log)) == KEPT, "it can be done again"
        log.append([make_batch(COUNT)])
        log.close()
        assert set(offsets(open_log(disk))) == KEPT | {COUNT}


def test_power_is_lost_at_each_step_of_recovery() -> None:
    for step in range(1, 40):
        disk = SimulatedDisk(step)
        log = fill(open_log(disk))
        rewrite_twice_until(log, disk, operations() - 7)
        disk.crash_after(step)
        with suppress(PowerLost):
            open_log(disk)
        disk.crash()
        check(open_log(disk))


def rewrite_twice_until(log: Log, disk: SimulatedDisk, step: int) -> None:
    disk.crash_after(step)
    with suppress(PowerLost):
        rewrite_twice(log)
    disk.crash()


def test_the_disk_fails_at_each_step() -> None:
    for step in range(operations()):
        disk = SimulatedDisk(step)
        log = fill(open_log(disk))
        disk.fail(code=errno.EIO, after=step)
        with suppress(OSError):
            rewrite_twice(log)
        check(log)
        with suppress(OSError, LogStopped):
            log.close()
        disk.crash()
        log = open_log(disk)
        check(log)
        rewrite_twice(log)
        assert set(offsets(log)) == KEPT


def test_a_full_disk_stops_a_rewrite_and_nothing_else() -> None:
    for room in range(0, 6_000, 512):
        disk = SimulatedDisk(room)
        log = fill(open_log(disk))
        disk.capacity_bytes = disk.used_bytes + room
        with suppress(StoreFull, OSError):
            rewrite_twice(log)
        check(log)
        disk.capacity_bytes = None
        log.append([make_batch(COUNT)])
        assert log.flush() == COUNT + 1
        rewrite_twice(log)
        assert set(offsets(log)) == set(offsets(open_log(disk))) == KEPT | {COUNT}
