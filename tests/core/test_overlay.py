"""The disk whose changes stay in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.overlay import OverlayDisk


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a").write_bytes(b"0123456789")
    (tmp_path / "log" / "b").write_bytes(b"b")
    return tmp_path / "log"


def read(disk: OverlayDisk, path: Path) -> bytes:
    file = disk.open(path)
    data = file.read(0, 100)
    assert (file.size(), disk.read_file(path), file.read_nowait(0, 100)) == (len(data), data, data)
    file.close()
    return data


def snapshot(directory: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(directory.parent.rglob("*"))}


def test_appends_and_cuts_are_seen_and_not_written(directory: Path) -> None:
    before, disk = snapshot(directory), OverlayDisk(RealDisk())
    file = disk.open(directory / "a")
    file.append([b"ab", b"c"])
    file.sync()
    assert read(disk, directory / "a") == b"0123456789abc"
    assert [file.read(position, 4) for position in (8, 9, 10, 12, 13)] == [b"89ab", b"9abc", b"abc", b"c", b""]
    file.truncate(11)
    assert read(disk, directory / "a") == b"0123456789a"
    file.truncate(4)
    file.append([b"x"])
    assert read(disk, directory / "a") == b"0123x"
    file.close()
    assert snapshot(directory) == before


def test_files_come_and_go(directory: Path) -> None:
    before, disk = snapshot(directory), OverlayDisk(RealDisk())
    disk.open(directory / "new").close()
    disk.replace_file(directory / "b", b"other")
    disk.remove(directory / "a")
    disk.sync_directory(directory)
    assert disk.list(directory) == ["b", "new"]
    assert (disk.read_file(directory / "a"), disk.read_file(directory / "missing")) == (None, None)
    assert (read(disk, directory / "b"), read(disk, directory / "new")) == (b"other", b"")
    assert read(disk, directory / "a") == b"", "it is made anew, empty"
    assert snapshot(directory) == before


def test_files_and_directories_are_renamed(directory: Path) -> None:
    before, disk = snapshot(directory), OverlayDisk(RealDisk())
    disk.rename(directory / "a", directory / "b")
    assert (disk.list(directory), read(disk, directory / "b")) == (["b"], b"0123456789")
    other = directory.parent / "other"
    disk.rename(directory, other)
    assert disk.list(directory.parent) == ["other"]
    assert (disk.list(directory), disk.list(other), read(disk, other / "b")) == ([], ["b"], b"0123456789")
    disk.remove_directory(other)
    assert (disk.list(directory.parent), disk.read_file(other / "b")) == ([], None)
    disk.make_directory(directory)
    assert (disk.list(directory.parent), disk.list(directory)) == (["log"], [])
    assert snapshot(directory) == before
