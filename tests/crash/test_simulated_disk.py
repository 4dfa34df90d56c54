"""What a simulated disk loses, refuses and damages."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.disk import DiskFile
from trunkline.log import Store, StoreContext
from trunkline.testing import PowerLost, SimulatedDisk, StoreCompliance
from trunkline_segments.store import SegmentStore

ROOT = Path("/root")
FILE = ROOT / "file"
SEEDS = range(300)


class TestSegmentStoreOnSimulatedDisk(StoreCompliance):
    """The suite passes on it, also when every other read would have to wait."""

    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        disk = SimulatedDisk(nowait_misses=0.5)

        def make(directory: Path) -> Store:
            disk.make_directory(directory)
            return SegmentStore(StoreContext(directory, disk))

        return make


def make_disk(seed: int = 0) -> tuple[SimulatedDisk, DiskFile]:
    """A disk with an open file whose name is durable."""
    disk = SimulatedDisk(seed)
    disk.make_directory(ROOT)
    file = disk.open(FILE)
    disk.sync_directory(ROOT)
    return disk, file


def after_crash(disk: SimulatedDisk) -> bytes:
    disk.crash()
    found = disk.read_file(FILE)
    assert found is not None
    return found


# -- loss of power ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_was_synced_is_kept(seed: int) -> None:
    disk, file = make_disk(seed)
    file.append([b"a" * 1000])
    file.sync()
    file.append([b"b" * 1000])
    assert after_crash(disk)[:1000] == b"a" * 1000


def test_what_was_not_synced_is_kept_or_lost_or_torn_anywhere() -> None:
    found = set()
    for seed in SEEDS:
        disk, file = make_disk(seed)
        file.append([b"a" * 700])
        file.append([b"b" * 700])
        found.add(after_crash(disk))
    assert {b"", b"a" * 700, b"a" * 700 + b"b" * 700} < found
    assert any(0 < len(contents) < 700 for contents in found), "torn at a byte"
    assert any(len(contents) == 512 for contents in found), "torn at a sector"
    assert any(contents[:512] == bytes(512) and b"b" in contents for contents in found), "written out of order"
    assert all(len(contents) <= 1400 for contents in found)


def test_a_truncation_that_was_not_synced_may_be_undone() -> None:
    found = set()
    for seed in SEEDS:
        disk, file = make_disk(seed)
        file.append([b"a" * 100])
        file.sync()
        file.truncate(10)
        found.add(after_crash(disk))
    assert {b"a" * 10, b"a" * 100} <= found


def test_names_that_were_not_synced_are_there_or_not_each_by_itself() -> None:
    found = set()
    for seed in SEEDS:
        disk, _ = make_disk(seed)
        disk.open(ROOT / "a")
        disk.open(ROOT / "b")
        disk.rename(FILE, ROOT / "c")
        disk.crash()
        found.add(tuple(sorted(disk.list(ROOT))))
    others = [("a",), ("b",), ("a", "b"), ()]
    assert found == {tuple(sorted((*some, moved))) for some in others for moved in ("file", "c")}


def test_names_are_kept_once_their_directory_is_synced() -> None:
    disk, _ = make_disk()
    disk.remove(FILE)
    disk.open(ROOT / "other")
    disk.sync_directory(ROOT)
    disk.crash()
    assert disk.list(ROOT) == ["other"]


def test_a_file_that_is_being_replaced_is_the_old_or_the_new_one() -> None:
    found = set()
    for seed in SEEDS:
        disk, _ = make_disk(seed)
        disk.replace_file(FILE, b"old")
        disk.crash_after(1 + seed % 5)
        with pytest.raises(PowerLost):
            disk.replace_file(FILE, b"new")
        found.add(after_crash(disk))
    assert found == {b"old", b"new"}


def test_power_goes_at_the_chosen_operation_and_stays_away() -> None:
    disk, file = make_disk()
    disk.crash_after(2)
    file.append([b"a"])
    with pytest.raises(PowerLost):
        file.sync()
    with pytest.raises(PowerLost):
        disk.read_file(FILE)
    disk.crash()
    assert disk.open(FILE).append([b"b"]) == 1


def test_files_that_were_open_are_gone_after_a_crash() -> None:
    disk, file = make_disk()
    disk.crash()
    with pytest.raises(OSError, match="when power was lost"):
        file.append([b"a"])
    file.close()


def test_the_same_seed_and_calls_give_the_same_disk() -> None:
    def play(seed: int) -> bytes:
        disk, file = make_disk(seed)
        for number in range(20):
            file.append([b"%d " % number * 50])
        return after_crash(disk)

    assert [play(seed) for seed in range(20)] == [play(seed) for seed in range(20)]
    assert len({play(seed) for seed in range(20)}) > 5


# -- failures --------------------------------------------------------------------------------------


def test_the_chosen_operation_fails_once() -> None:
    disk, file = make_disk()
    disk.fail("append", errno.EIO, after=1)
    file.append([b"a"])
    with pytest.raises(OSError, match="Input/output error"):
        file.append([b"b"])
    file.append([b"c"])
    assert file.read(0, 10) == b"ac"


def test_a_failed_append_may_leave_a_part_which_the_next_one_overwrites() -> None:
    sizes = set()
    for seed in range(50):
        disk, file = make_disk(seed)
        disk.fail("append")
        with pytest.raises(OSError, match="Input/output error"):
            file.append([b"0123456789"])
        sizes.add(file.size())
        file.append([b"x"])
        assert file.read(0, 1) == b"x"
    assert sizes == set(range(11))


def test_only_files_of_that_name_fail() -> None:
    disk, file = make_disk()
    disk.fail("append", name="other")
    file.append([b"a"])
    with pytest.raises(OSError, match="Input/output error"):
        disk.open(ROOT / "another").append([b"a"])


def test_reads_can_fail() -> None:
    disk, file = make_disk()
    disk.fail("read", count=2)
    for read in (file.read, file.read_nowait):
        with pytest.raises(OSError, match="Input/output error"):
            read(0, 1)


def test_a_sync_after_a_failed_one_succeeds_without_having_written() -> None:
    """As on Linux: the pages that could not be written are marked clean."""
    lost = 0
    for seed in range(50):
        disk, file = make_disk(seed)
        file.append([b"a" * 100])
        disk.fail("sync")
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        file.sync()
        assert file.read(0, 100) == b"a" * 100
        lost += after_crash(disk) != b"a" * 100
    assert 0 < lost < 50


# -- room ------------------------------------------------------------------------------------------


def test_a_write_that_fills_the_disk_is_cut_short() -> None:
    disk, file = make_disk()
    disk.capacity_bytes = 1024
    file.append([b"a" * 600])
    with pytest.raises(OSError, match="No space left"):
        file.append([b"b" * 600])
    assert (file.size(), disk.used_bytes) == (1024, 1024)
    file.truncate(600)
    file.append([b"c" * 424])
    assert file.read(600, 500) == b"c" * 424


def test_removing_a_file_makes_room_once_it_is_closed() -> None:
    disk, file = make_disk()
    file.append([bytes(1024)])
    disk.capacity_bytes = 1024
    other = disk.open(ROOT / "other")
    disk.remove(FILE)
    with pytest.raises(OSError, match="No space left"):
        other.append([b"a"])
    file.close()
    other.append([b"a"])


def test_a_full_disk_replaces_no_file() -> None:
    disk, _ = make_disk()
    disk.replace_file(FILE, b"old")
    disk.capacity_bytes = 512
    with pytest.raises(OSError, match="No space left"):
        disk.replace_file(FILE, b"new")
    assert (disk.read_file(FILE), disk.list(ROOT)) == (b"old", ["file"])


def test_a_read_only_disk_refuses_changes_and_is_read() -> None:
    disk, file = make_disk()
    file.append([b"a"])
    file.sync()
    disk.is_read_only = True
    changes: list[Callable[[], object]] = [
        lambda: file.append([b"b"]),
        lambda: file.truncate(0),
        lambda: disk.open(ROOT / "new"),
        lambda: disk.remove(FILE),
        lambda: disk.rename(FILE, ROOT / "new"),
        lambda: disk.make_directory(ROOT / "new"),
        lambda: disk.replace_file(FILE, b"b"),
    ]
    for change in changes:
        with pytest.raises(OSError, match="Read-only"):
            change()
    assert disk.open(FILE).read(0, 10) == b"a"
    disk.is_read_only = False
    file.append([b"b"])
    assert file.read(0, 10) == b"ab"


# -- damage ----------------------------------------------------------------------------------------


def test_one_bit_is_flipped_for_good() -> None:
    disk, file = make_disk()
    file.append([bytes(100)])
    file.sync()
    position = disk.flip(FILE)
    disk.crash()
    found = disk.read_file(FILE)
    assert found is not None
    assert int.from_bytes(found, "big").bit_count() == 1
    assert found[position]
