"""Opening segment files after a crash: what was durable is there, nothing is invented, damage is never hidden."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from crc32c import crc32c

from trunkline.disk import RealDisk
from trunkline.errors import CorruptLog
from trunkline.log import StoreContext, TopicPartition
from trunkline.testing import make_batch
from trunkline_segments.store import SegmentStore

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

MakeBatches = Callable[..., list[bytes]]


@pytest.fixture
def closed_then_killed(workbench: Workbench, some_batches: MakeBatches) -> Workbench:
    """Ten batches below the recovery point, then ten more that were flushed before the broker was killed."""
    log = workbench.open()
    log.append(some_batches(0, 10))
    log.close()
    log = workbench.open()
    log.append(some_batches(10, 20))
    log.flush()
    return workbench


@pytest.fixture
def three_segments(small_segments: Workbench, some_batches: MakeBatches) -> Workbench:
    """A closed log in segments of ten batches: bases 0, 10 and 20."""
    log = small_segments.open()
    for batch in some_batches(0, 25):
        log.append([batch])
    log.close()
    assert small_segments.path(20, ".log").exists()
    return small_segments


# -- torn tails ----------------------------------------------------------------------------------------


def test_a_kill_loses_nothing(closed_then_killed: Workbench, some_batches: MakeBatches) -> None:
    log = closed_then_killed.open()

    assert closed_then_killed.read_all(log) == b"".join(some_batches(0, 20))


def test_a_tail_cut_at_any_byte_leaves_the_whole_batches(
    closed_then_killed: Workbench, some_batches: MakeBatches
) -> None:
    wanted = some_batches(0, 20)
    size = len(wanted[0])
    for cut in range(18 * size, 20 * size + 1):
        bench = closed_then_killed.copy(cut)
        with open(bench.path(0, ".log"), "r+b") as file:
            file.truncate(cut)
        log = bench.open()
        assert log.end_offset == cut // size
        more = some_batches(log.end_offset, log.end_offset + 1)
        log.append(more)
        log.close()
        assert bench.read_all(bench.open()) == b"".join(wanted[: cut // size] + more)


def test_a_torn_tail_is_reported_with_file_byte_and_offset(
    closed_then_killed: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(some_batches(0, 1)[0])
    path = closed_then_killed.path(0, ".log")
    path.write_bytes(path.read_bytes()[:-7])
    closed_then_killed.open()

    [record] = caplog.records
    assert (record.name, record.levelno) == ("trunkline.segments", logging.WARNING)
    assert f"{path}: cut off a torn tail at byte {19 * size}, offset 19" in record.getMessage()


def test_garbage_after_the_last_batch_is_cut_off(closed_then_killed: Workbench, some_batches: MakeBatches) -> None:
    for number, garbage in enumerate([b"\x00" * 5_000, b"\xff" * 100, b"\x02" * 100, some_batches(20, 21)[0][:-1]]):
        bench = closed_then_killed.copy(number)
        with open(bench.path(0, ".log"), "ab") as file:
            file.write(garbage)
        assert bench.read_all(bench.open()) == b"".join(some_batches(0, 20))


def test_a_flipped_bit_in_the_last_batch_is_taken_for_a_torn_tail(
    closed_then_killed: Workbench, some_batches: MakeBatches
) -> None:
    size = len(some_batches(0, 1)[0])
    for byte in range(16, size):  # what lies before the magic is covered by no CRC
        bench = closed_then_killed.copy(byte)
        bench.flip(bench.path(0, ".log"), 19 * size + byte)
        assert bench.read_all(bench.open()) == b"".join(some_batches(0, 19))


def test_a_flipped_bit_before_intact_batches_is_damage(
    closed_then_killed: Workbench, some_batches: MakeBatches
) -> None:
    size = len(some_batches(0, 1)[0])
    for byte in [*range(12), *range(16, size)]:  # the leader epoch, 12 to 15, is covered by no CRC
        bench = closed_then_killed.copy(byte)
        path = bench.path(0, ".log")
        bench.flip(path, 15 * size + byte)
        before = bench.contents()
        with pytest.raises(CorruptLog) as caught:
            bench.open()
        assert (caught.value.file, caught.value.position) == (str(path), 15 * size)
        assert bench.contents() == before, "damage must be left for someone to look at"


def test_a_page_that_was_never_written_is_a_torn_tail(workbench: Workbench) -> None:
    wanted = [make_batch(offset, b"payload" + bytes([offset + 1]) * 3_000) for offset in range(10)]
    log = workbench.open()
    log.append(wanted)
    contents = bytearray(workbench.path(0, ".log").read_bytes())
    contents[12_288:16_384] = bytes(4_096)
    workbench.path(0, ".log").write_bytes(contents)

    assert workbench.read_all(workbench.open()) == b"".join(wanted[: 12_288 // len(wanted[0])])


def test_a_tail_torn_inside_a_batch_within_a_record_is_torn(workbench: Workbench, some_batches: MakeBatches) -> None:
    nested = make_batch(7)
    wanted = some_batches(0, 3)
    log = workbench.open()
    log.append([*wanted, make_batch(3, b"payload" + nested + b"and more")])
    path = workbench.path(0, ".log")
    path.write_bytes(path.read_bytes()[:-4])

    assert workbench.read_all(workbench.open()) == b"".join(wanted)


def test_segments_after_a_torn_one_go_with_it(
    small_segments: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    log = small_segments.open()
    log.append(some_batches(0, 25))  # never flushed: the system wrote the new segment first, and lost power
    path = small_segments.path(0, ".log")
    path.write_bytes(path.read_bytes()[:-10])
    log = small_segments.open()

    assert small_segments.read_all(log) == b"".join(some_batches(0, 9))
    assert not small_segments.path(10, ".log").exists()
    assert "never acknowledged" in caplog.text


def test_a_flipped_bit_at_the_end_of_a_segment_that_is_not_the_last_is_damage(
    small_segments: Workbench, some_batches: MakeBatches
) -> None:
    log = small_segments.open()
    log.append(some_batches(0, 25))
    path = small_segments.path(0, ".log")
    small_segments.flip(path, path.stat().st_size - 3)

    with pytest.raises(CorruptLog, match=f"{path}: damaged at byte {9 * len(some_batches(0, 1)[0])}"):
        small_segments.open()


# -- below the recovery point --------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0, 10, 20])
def test_a_log_that_lost_durable_bytes_is_not_opened(three_segments: Workbench, base: int) -> None:
    path = three_segments.path(base, ".log")
    contents = path.read_bytes()
    for cut in range(0, len(contents), 11):
        path.write_bytes(contents[:cut])
        before = three_segments.contents()
        with pytest.raises(CorruptLog) as caught:
            three_segments.open()
        assert caught.value.file == str(path)
        assert caught.value.position <= cut
        assert three_segments.contents() == before


@pytest.mark.parametrize("base", [10, 20])
def test_a_missing_segment_is_damage(three_segments: Workbench, base: int) -> None:
    three_segments.path(base, ".log").unlink()

    with pytest.raises(CorruptLog):
        three_segments.open()


def test_a_missing_first_segment_is_damage(three_segments: Workbench) -> None:
    three_segments.path(0, ".log").unlink()

    with pytest.raises(CorruptLog, match="start offset 0"):
        three_segments.open()


def test_damage_below_the_recovery_point_is_found_where_it_is_read(
    three_segments: Workbench, some_batches: MakeBatches
) -> None:
    size = len(some_batches(0, 1)[0])
    path = three_segments.path(0, ".log")
    three_segments.flip(path, 3 * size + 16)  # the magic of the batch at offset 3
    log = three_segments.open()

    with pytest.raises(CorruptLog) as caught:
        log.read(3, 1, log.end_offset)
    assert (caught.value.file, caught.value.position) == (str(path), 3 * size)


def test_damage_is_found_when_the_indexes_are_made_anew(three_segments: Workbench, some_batches: MakeBatches) -> None:
    size = len(some_batches(0, 1)[0])
    three_segments.flip(three_segments.path(10, ".log"), 4 * size + 70)
    three_segments.path(10, ".index").unlink()
    before = three_segments.contents()

    with pytest.raises(CorruptLog) as caught:
        three_segments.open()
    assert (caught.value.file, caught.value.position) == (str(three_segments.path(10, ".log")), 4 * size)
    assert three_segments.contents() == before


# -- the checkpoint ------------------------------------------------------------------------------------


def test_without_a_checkpoint_the_whole_log_is_checked(
    three_segments: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    (three_segments.directory / "checkpoint").unlink()

    assert three_segments.read_all(three_segments.open()) == b"".join(some_batches(0, 25))
    assert "no checkpoint" in caplog.text


def test_a_damaged_checkpoint_is_damage(three_segments: Workbench) -> None:
    path = three_segments.directory / "checkpoint"
    contents = path.read_bytes()
    for byte in range(len(contents)):
        path.write_bytes(contents)
        three_segments.flip(path, byte, 0x01)
        with pytest.raises(CorruptLog) as caught:
            three_segments.open()
        assert caught.value.file == str(path)


def test_a_checkpoint_of_a_later_version_is_refused(three_segments: Workbench) -> None:
    path = three_segments.directory / "checkpoint"
    body = b"2" + path.read_bytes()[1:].rpartition(b"crc32c ")[0]
    path.write_bytes(body + b"crc32c %08x\n" % crc32c(body))

    with pytest.raises(CorruptLog, match="version '2'"):
        three_segments.open()


# -- leftovers -----------------------------------------------------------------------------------------


def test_leftovers_of_a_crash_are_cleaned_up(three_segments: Workbench, some_batches: MakeBatches) -> None:
    directory = three_segments.directory
    for name in ("checkpoint.tmp", "00000000000000000005.snapshot.tmp", "00000000000000000003.index"):
        (directory / name).write_bytes(b"half")
    three_segments.open()

    names = sorted(path.name for path in directory.iterdir())
    assert not [name for name in names if name.endswith(".tmp") or "03.index" in name]


def test_a_removal_that_was_cut_off_is_finished(three_segments: Workbench, some_batches: MakeBatches) -> None:
    log = three_segments.open()
    kept = {path.name: path.read_bytes() for path in three_segments.directory.iterdir()}
    log.trim(12)
    log.close()
    for name in ("00000000000000000000.log", "00000000000000000000.timeindex"):
        (three_segments.directory / name).write_bytes(kept[name])
    log = three_segments.open()

    assert three_segments.read_all(log).endswith(b"".join(some_batches(12, 25)))
    assert not three_segments.path(0, ".log").exists()


def test_a_deletion_that_was_cut_off_is_finished(three_segments: Workbench) -> None:
    three_segments.directory.rename(three_segments.root / "orders-0.delete")
    log = three_segments.open()

    assert log.end_offset == 0
    assert not (three_segments.root / "orders-0.delete").exists()


def test_other_names_in_the_directory_are_left_alone(
    three_segments: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("lost+found", "orders", "orders-01", "-1", "or ders-1"):
        (three_segments.root / name).mkdir()
    store = SegmentStore(StoreContext(three_segments.root, RealDisk()))

    assert store.list() == [TopicPartition("orders", 0)]
    assert len(caplog.records) == 5
    assert (three_segments.root / "lost+found").exists()
