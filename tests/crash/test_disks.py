"""The simulated disk does what the real one does, as long as nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.disk import Disk, RealDisk
from trunkline.testing import SimulatedDisk


@pytest.fixture(params=[RealDisk, SimulatedDisk])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    made: Disk = request.param()
    made.make_directory(tmp_path)
    return made


def test_a_file_is_made_when_it_is_opened(disk: Disk, tmp_path: Path) -> None:
    assert disk.open(tmp_path / "file").size() == 0
    assert disk.list(tmp_path) == ["file"]


def test_appends_go_to_the_end(disk: Disk, tmp_path: Path) -> None:
    file = disk.open(tmp_path / "file")
    assert file.append([b"one", b"", b"two"]) == 6
    assert file.append([b"three"]) == 5
    assert disk.open(tmp_path / "file").append([b"four"]) == 4
    assert file.read(0, 100) == b"onetwothreefour"


def test_reads_are_short_only_at_the_end(disk: Disk, tmp_path: Path) -> None:
    file = disk.open(tmp_path / "file")
    file.append([b"0123456789"])
    assert (file.read(2, 3), file.read(8, 5), file.read(10, 1), file.read(99, 1)) == (b"234", b"89", b"", b"")
    assert (file.read_nowait(2, 3), file.read_nowait(8, 5), file.read_nowait(10, 1)) == (b"234", b"89", b"")


def test_an_append_follows_what_a_truncation_leaves(disk: Disk, tmp_path: Path) -> None:
    file = disk.open(tmp_path / "file")
    file.append([b"0123456789"])
    file.truncate(4)
    assert file.size() == 4
    file.append([b"x"])
    assert file.read(0, 100) == b"0123x"


def test_more_buffers_than_one_system_call_takes(disk: Disk, tmp_path: Path) -> None:
    file = disk.open(tmp_path / "file")
    assert file.append([b"%04d" % number for number in range(3000)]) == 12_000
    assert file.read(4 * 2999, 4) == b"2999"


def test_a_file_is_replaced_whole(disk: Disk, tmp_path: Path) -> None:
    assert disk.read_file(tmp_path / "file") is None
    disk.replace_file(tmp_path / "file", b"a long first one")
    disk.replace_file(tmp_path / "file", b"second")
    assert disk.read_file(tmp_path / "file") == b"second"
    assert disk.list(tmp_path) == ["file"]


def test_a_removed_file_can_be_read_by_who_has_it_open(disk: Disk, tmp_path: Path) -> None:
    file = disk.open(tmp_path / "file")
    file.append([b"0123"])
    disk.remove(tmp_path / "file")
    disk.remove(tmp_path / "file")
    assert file.read(0, 4) == b"0123"
    assert disk.list(tmp_path) == []
    assert disk.open(tmp_path / "file").size() == 0


def test_a_rename_replaces_a_file(disk: Disk, tmp_path: Path) -> None:
    disk.replace_file(tmp_path / "a", b"a")
    disk.replace_file(tmp_path / "b", b"b")
    disk.rename(tmp_path / "a", tmp_path / "b")
    disk.sync_directory(tmp_path)
    assert (disk.list(tmp_path), disk.read_file(tmp_path / "b")) == (["b"], b"a")
    with pytest.raises(FileNotFoundError):
        disk.rename(tmp_path / "a", tmp_path / "c")


def test_directories(disk: Disk, tmp_path: Path) -> None:
    inner = tmp_path / "some" / "directory"
    assert disk.list(inner) == []
    disk.make_directory(inner)
    disk.make_directory(inner)
    disk.replace_file(inner / "file", b"contents")
    disk.rename(tmp_path / "some", tmp_path / "other")
    assert disk.read_file(tmp_path / "other" / "directory" / "file") == b"contents"
    disk.remove_directory(tmp_path / "other" / "directory")
    disk.remove_directory(tmp_path / "other" / "directory")
    assert disk.list(tmp_path / "other") == []
    assert disk.list(tmp_path) == ["other"]


@pytest.mark.parametrize("call", ["open", "replace_file", "sync_directory"])
def test_a_missing_directory_is_an_error(disk: Disk, tmp_path: Path, call: str) -> None:
    arguments = (b"",) if call == "replace_file" else ()
    with pytest.raises(FileNotFoundError):
        getattr(disk, call)(tmp_path / "missing" / "file", *arguments)
