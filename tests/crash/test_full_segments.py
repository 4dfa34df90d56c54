"""The segment store where there is no room: nothing of what it refuses stays, and nothing is broken afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.errors import StoreFull
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing import SimulatedDisk, make_batch
from trunkline_segments import log as segment_log
from trunkline_segments.store import SegmentStore

NAME = TopicPartition("orders", 0)
DIRECTORY = Path("/data/orders-0")
SETTINGS = TopicSettings(segment_bytes=1024, index_interval_bytes=100)


@pytest.fixture
def disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY.parent)
    return disk


def open_log(disk: SimulatedDisk) -> Log:
    return SegmentStore(StoreContext(DIRECTORY.parent, disk)).open(NAME, SETTINGS)


def batches(start: int, stop: int) -> list[bytes]:
    """Of 200 bytes: five fit into a segment."""
    return [make_batch(offset, size=200) for offset in range(start, stop)]


def contents(disk: SimulatedDisk) -> dict[str, bytes | None]:
    return {name: disk.read_file(DIRECTORY / name) for name in sorted(disk.list(DIRECTORY))}


Refuse = Callable[[SimulatedDisk], None]


def fill(disk: SimulatedDisk) -> None:
    disk.capacity_bytes = disk.used_bytes


def fill_but_two_sectors(disk: SimulatedDisk) -> None:
    disk.capacity_bytes = disk.used_bytes + 1024


def exceed_quota(disk: SimulatedDisk) -> None:
    disk.fail("append", errno.EDQUOT, count=10, name=".log")


def run_out_of_files(disk: SimulatedDisk) -> None:
    disk.fail("create", errno.EMFILE, count=10, name=".log")


def make_read_only(disk: SimulatedDisk) -> None:
    disk.is_read_only = True


def make_room(disk: SimulatedDisk) -> None:
    disk.capacity_bytes = None
    disk.is_read_only = False
    disk.forget_failures()


@pytest.mark.parametrize("refuse", [fill, fill_but_two_sectors, exceed_quota, run_out_of_files, make_read_only])
@pytest.mark.parametrize("count", [0, 3, 5])
@pytest.mark.parametrize("more", [10, 14])
def test_a_refused_append_leaves_files_and_log_as_they_were(
    disk: SimulatedDisk, refuse: Refuse, count: int, more: int
) -> None:
    log = open_log(disk)
    log.append(batches(0, count))
    log.flush()
    before, size = contents(disk), log.size_bytes()
    refuse(disk)

    for _ in range(2):
        with pytest.raises(StoreFull):
            log.append(batches(count, count + more))  # over several segments

    assert contents(disk) == before
    assert (log.start_offset, log.end_offset, log.size_bytes()) == (0, count, size)
    assert log.read(0, 1 << 20, count) == b"".join(batches(0, count))
    make_room(disk)
    log.append(batches(count, 30))
    assert log.flush() == 30
    assert log.read(0, 1 << 20, 30)
    log.close()
    assert open_log(disk).end_offset == 30


def test_a_log_that_was_full_has_the_same_files_as_one_that_was_not(disk: SimulatedDisk) -> None:
    other = SimulatedDisk()
    other.make_directory(DIRECTORY.parent)
    for one in (disk, other):
        log = open_log(one)
        log.append(batches(0, 3))
        if one is disk:
            fill_but_two_sectors(disk)
            with pytest.raises(StoreFull):
                log.append(batches(3, 20))
            make_room(disk)
        log.append(batches(3, 4))
        log.append(batches(4, 23))
        log.close()
    assert contents(disk) == contents(other)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_refused_is_not_back_after_a_crash(seed: int) -> None:
    """Its producer was told that it was not written, and may have sent it again."""
    disk = SimulatedDisk(seed)
    disk.make_directory(DIRECTORY.parent)
    log = open_log(disk)
    log.append(batches(0, 3))
    log.flush()
    fill_but_two_sectors(disk)
    with pytest.raises(StoreFull):
        log.append(batches(3, 20))
    disk.crash()
    make_room(disk)
    assert open_log(disk).end_offset == 3


def test_a_flush_needs_no_room(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_log, "CHECKPOINT_BYTES", 1)
    log = open_log(disk)
    log.append(batches(0, 14))
    fill(disk)
    assert log.flush() == 14
    disk.crash()
    assert open_log(disk).end_offset == 14


def test_indexes_and_checkpoint_follow_when_there_is_room(disk: SimulatedDisk) -> None:
    log = open_log(disk)
    log.append(batches(0, 14))
    fill(disk)
    log.flush()
    before = disk.read_file(DIRECTORY / "checkpoint")
    make_room(disk)
    log.append(batches(14, 15))
    log.flush()
    assert disk.read_file(DIRECTORY / "checkpoint") != before
    assert disk.read_file(DIRECTORY / f"{0:020d}.index")


@pytest.mark.parametrize("refuse", [fill, make_read_only])
def test_a_log_opens_without_room(disk: SimulatedDisk, refuse: Refuse) -> None:
    log = open_log(disk)
    log.append(batches(0, 14))
    log.flush()
    disk.crash()
    refuse(disk)
    log = open_log(disk)
    assert log.read(0, 1 << 20, 14) == b"".join(batches(0, 5))
    make_room(disk)
    log.append(batches(14, 15))
    assert log.flush() == 15


def test_trimming_needs_no_room(disk: SimulatedDisk) -> None:
    """It is what makes room. The indexes of what is to be removed give up theirs."""
    log = open_log(disk)
    log.append(batches(0, 14))
    log.flush()
    fill(disk)
    log.trim(12)
    assert log.start_offset == 12
    log.append(batches(14, 15))
    assert log.flush() == 15
    disk.crash()
    assert open_log(disk).start_offset == 12


def test_trimming_may_be_tried_again(disk: SimulatedDisk) -> None:
    log = open_log(disk)
    log.append(batches(0, 14))
    log.flush()
    disk.is_read_only = True
    with pytest.raises(StoreFull):
        log.trim(12)
    assert log.start_offset == 0
    assert log.read(0, 1 << 20, 14) == b"".join(batches(0, 5))
    make_room(disk)
    log.trim(12)
    assert log.start_offset == 12
    log.append(batches(14, 15))
    assert log.flush() == 15


def test_an_error_that_is_not_about_room_is_not_taken_for_it(disk: SimulatedDisk) -> None:
    log = open_log(disk)
    disk.fail("append", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        log.append(batches(0, 3))


def test_a_cut_back_that_fails_leaves_doubt(disk: SimulatedDisk) -> None:
    log = open_log(disk)
    fill_but_two_sectors(disk)
    disk.fail("truncate", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        log.append([*batches(0, 4), make_batch(4, size=2000)])
