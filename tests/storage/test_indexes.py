"""The sparse indexes: Kafka's entries, made anew when they are missing or wrong, small in memory."""

from __future__ import annotations

from collections.abc import Callable
from struct import iter_unpack
from typing import TYPE_CHECKING

import pytest

from trunkline_segments.names import INDEX, TIME_INDEX

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

MakeBatches = Callable[..., list[bytes]]


@pytest.fixture
def closed_log(small_segments: Workbench, some_batches: MakeBatches) -> Workbench:
    """Segments of ten batches, one a record, timestamp = offset."""
    log = small_segments.open()
    for batch in some_batches(0, 35):
        log.append([batch])
    log.close()
    return small_segments


def test_entries_are_kafkas(closed_log: Workbench, some_batches: MakeBatches) -> None:
    """An entry follows more than index.interval.bytes (200 here, two batches) after the last."""
    size = len(some_batches(0, 1)[0])

    assert [*iter_unpack(">ii", closed_log.path(10, INDEX).read_bytes())] == [(n, n * size) for n in (3, 6, 9)]
    times = [*iter_unpack(">qi", closed_log.path(10, TIME_INDEX).read_bytes())]
    assert times == [(13, 3), (16, 6), (19, 9)]


def test_a_finished_segment_has_a_last_time_entry(small_segments: Workbench, some_batches: MakeBatches) -> None:
    log = small_segments.open()
    log.append(some_batches(0, 5, 250))
    log.flush()

    times = [*iter_unpack(">qi", small_segments.path(0, TIME_INDEX).read_bytes())]
    assert times == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("suffix", [INDEX, TIME_INDEX])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "torn", "long", "garbage", "zeros"])
def test_a_bad_index_is_made_anew(closed_log: Workbench, some_batches: MakeBatches, suffix: str, damage: str) -> None:
    path = closed_log.path(10, suffix)
    good = path.read_bytes()
    entry = 8 if suffix == INDEX else 12
    damaged = {
        "empty": b"",
        "short": good[:-entry],
        "torn": good[:-3],
        "long": good + b"\x7f" * entry,
        "garbage": b"\x11" * len(good),
        "zeros": bytes(len(good)),
    }
    path.unlink()
    if damage != "missing":
        path.write_bytes(damaged[damage])
    log = closed_log.open()
    found = closed_log.read_all(log)
    times = [log.find_timestamp(offset, 35) for offset in range(35)]
    log.close()

    assert found == b"".join(some_batches(0, 35))
    assert times == [(offset, offset) for offset in range(35)]
    assert path.read_bytes()[: len(good)] == good


def test_a_wrong_entry_in_the_middle_costs_time_only(
    workbench: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    log = workbench.open()
    wanted = some_batches(0, 40)
    log.append(wanted)
    log.close()
    entries = workbench.path(0, INDEX).stat().st_size // 8
    for entry in range(entries - 1):  # the last one is looked at when the log is opened
        bench = workbench.copy(entry)
        bench.flip(bench.path(0, INDEX), 8 * entry + 7, 0x01)
        log = bench.open()
        assert [log.read(offset, 1, 40) for offset in range(39, -1, -1)] == wanted[::-1]
        log.close()
    assert "is made anew" in caplog.text


def test_a_wrong_time_in_the_middle_costs_time_only(
    workbench: Workbench, some_batches: MakeBatches, caplog: pytest.LogCaptureFixture
) -> None:
    log = workbench.open()
    log.append(some_batches(0, 40))
    log.close()
    for entry in range(1, workbench.path(0, TIME_INDEX).stat().st_size // 12 - 1):
        bench = workbench.copy(entry)
        bench.flip(bench.path(0, TIME_INDEX), 12 * entry + 11, 0x01)
        log = bench.open()
        assert [log.find_timestamp(time, 40) for time in range(40)] == [(time, time) for time in range(40)]
        log.close()
    assert "searching without it" in caplog.text


def test_index_entries_leave_memory_at_a_checkpoint(
    workbench: Workbench, some_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline_segments.log.CHECKPOINT_BYTES", 2_000)
    log = workbench.open()
    wanted = some_batches(0, 200)
    in_file = []
    for batch in wanted:
        log.append([batch])
        log.flush()
        path = workbench.path(0, INDEX)
        in_file.append(path.stat().st_size // 8 if path.exists() else 0)

    assert in_file[-1] > 60
    assert workbench.read_all(log) == b"".join(wanted)
    assert [log.read(offset, 1, 200) for offset in range(199, -1, -1)] == wanted[::-1]


def test_a_segment_rolls_when_its_index_is_full(
    workbench: Workbench, some_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline_segments.segment.MAX_INDEX_ENTRIES", 3)
    log = workbench.open()
    wanted = some_batches(0, 25)
    log.append(wanted)

    assert workbench.path(10, ".log").exists()
    assert workbench.read_all(log) == b"".join(wanted)


def test_a_segment_rolls_before_an_offset_passes_its_entries(workbench: Workbench, some_batches: MakeBatches) -> None:
    """An entry has 32 bits for the offset. A batch may claim to hold many records, so few batches get there."""
    log = workbench.open()
    [batch] = some_batches(0, 1)
    delta = 2**30
    for number in range(4):
        base_offset = number * (delta + 1)
        log.append([base_offset.to_bytes(8, "big") + batch[8:23] + delta.to_bytes(4, "big") + batch[27:]])

    assert sorted(path.name for path in workbench.directory.glob("*.log")) == [
        f"{number * (delta + 1):020d}.log" for number in (0, 1, 2, 3)
    ]
