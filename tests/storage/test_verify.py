"""What ``verify`` finds in the files of a log, and that it leaves them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from trunkline.disk import RealDisk
from trunkline.log import Fault, SavedState, StoreContext
from trunkline.records import encode, iter_headers
from trunkline_segments.store import SegmentStore

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

MakeBatches = Callable[..., list[bytes]]


def verify(workbench: Workbench) -> list[Fault]:
    """All faults; checks that looking for them changed nothing."""
    before = workbench.contents()
    store = SegmentStore(StoreContext(workbench.root, RealDisk()))
    faults = list(store.verify(store.list()[0]))
    assert workbench.contents() == before
    return faults


def fill(workbench: Workbench, batches: list[bytes], *, close: bool = True) -> None:
    """Write the batches, an append each, and a saved state."""
    log = workbench.open()
    for batch in batches:
        log.append([batch])
    log.flush()
    log.save_state(SavedState(log.end_offset, b"state"))
    if close:
        log.close()


@pytest.mark.parametrize("close", [True, False])
def test_a_good_log_has_no_faults(small_segments: Workbench, some_batches: MakeBatches, close: bool) -> None:
    fill(small_segments, some_batches(0, 40), close=close)
    assert verify(small_segments) == []


def test_a_trimmed_and_compacted_log_has_no_faults(small_segments: Workbench, some_batches: MakeBatches) -> None:
    fill(small_segments, some_batches(0, 40))
    log = small_segments.open()
    log.trim(15)
    keep = {17, 22, 30}
    log.rewrite(log.rewritable_end_offset, lambda batch: batch if batch[7] in keep else None)
    log.close()
    assert verify(small_segments) == []


def test_an_empty_log_has_no_faults(workbench: Workbench) -> None:
    workbench.open().close()
    assert verify(workbench) == []


def test_every_damaged_byte_of_every_file_is_found(small_segments: Workbench, some_batches: MakeBatches) -> None:
    fill(small_segments, some_batches(0, 25, 120))
    last = max(small_segments.directory.glob("*.log"))
    (*_, (last_batch, _)) = iter_headers(last.read_bytes())
    unnoticed = []
    for path in sorted(small_segments.directory.iterdir()):
        contents = path.read_bytes()
        for position in range(0, len(contents), 1 if path.suffix != ".log" else 3):
            small_segments.flip(path, position)
            if not verify(small_segments):
                unnoticed.append((path.name, position))
            path.write_bytes(contents)
    # The leader epoch is outside the CRC; that of the last batch has none after it to be compared with
    assert {position - last_batch for name, position in unnoticed if name == last.name} <= {12, 13, 14, 15}
    assert [name for name, _ in unnoticed if name != last.name] == []


def test_a_fault_names_file_byte_and_offset(workbench: Workbench) -> None:
    batches = [encode([(1, None, b"x" * 100, ())] * 3, base_offset=offset) for offset in range(0, 30, 3)]
    fill(workbench, batches)
    size = len(batches[0])
    workbench.flip(workbench.path(0, ".log"), 4 * size + 80)
    (fault,) = verify(workbench)
    assert (fault.file, fault.position, fault.offset) == (str(workbench.path(0, ".log")), 4 * size, 12)
    assert "CRC" in fault.reason
    assert not fault.is_torn_tail


def test_several_faults_are_all_found(small_segments: Workbench, some_batches: MakeBatches) -> None:
    fill(small_segments, some_batches(0, 40, 120))
    logs = sorted(small_segments.directory.glob("*.log"))
    for path in logs[:3]:
        small_segments.flip(path, 100)
        small_segments.flip(path, 500)
    faults = verify(small_segments)
    assert [(fault.file, fault.position) for fault in faults] == [
        (str(path), position) for path in logs[:3] for position in (0, 480)
    ]


def test_a_torn_tail_is_told_from_damage_wherever_it_is_cut(
    workbench: Workbench, some_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workbench, some_batches(0, 5, 120))
    log = workbench.open()
    log.append(some_batches(5, 7, 120))
    log.flush()
    path = workbench.path(0, ".log")
    contents = path.read_bytes()
    for size in range(5 * 120, 7 * 120):
        path.write_bytes(contents[:size])
        torn = [
            Fault(str(path), size // 120 * 120, size // 120, f"the file ends at byte {size}, inside the batch", True)
        ]
        states = [fault for fault in verify(workbench) if fault.file == str(path)]
        assert states == (torn if size % 120 else [])


def test_a_file_that_is_too_short_below_the_recovery_point_is_damage(
    workbench: Workbench, some_batches: MakeBatches
) -> None:
    fill(workbench, some_batches(0, 5, 120))
    path = workbench.path(0, ".log")
    path.write_bytes(path.read_bytes()[:500])
    assert [(fault.position, fault.is_torn_tail) for fault in verify(workbench) if fault.file == str(path)] == [
        (500, False),
        (480, False),
    ]


def test_a_missing_segment_is_found(small_segments: Workbench, some_batches: MakeBatches) -> None:
    fill(small_segments, some_batches(0, 40, 120))
    bases = [int(path.stem) for path in sorted(small_segments.directory.glob("*.log"))]
    small_segments.path(bases[2], ".log").unlink()
    (fault,) = verify(small_segments)
    assert (fault.file, fault.offset) == (str(small_segments.path(bases[1], ".log")), bases[2])
    assert f"offsets {bases[2]} to {bases[3] - 1} are missing" in fault.reason


def test_missing_indexes_and_checkpoint_are_found(small_segments: Workbench, some_batches: MakeBatches) -> None:
    fill(small_segments, some_batches(0, 40, 120))
    missing = [small_segments.path(0, ".index"), small_segments.path(0, ".timeindex")]
    for path in missing:
        path.unlink()
    assert [fault.file for fault in verify(small_segments)] == [str(path) for path in missing]
    (small_segments.directory / "checkpoint").unlink()
    assert str(small_segments.directory / "checkpoint") in [fault.file for fault in verify(small_segments)]


def test_a_state_past_the_end_is_found(workbench: Workbench, some_batches: MakeBatches) -> None:
    fill(workbench, some_batches(0, 5))
    workbench.path(5, ".snapshot").rename(workbench.path(6, ".snapshot"))
    (fault,) = verify(workbench)
    assert (fault.file, fault.offset) == (str(workbench.path(6, ".snapshot")), 6)
