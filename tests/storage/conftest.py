"""A log on segment files that can be abandoned as a kill would leave it, changed by hand, and opened again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.disk import Disk, RealDisk
from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing.batches import make_batch
from trunkline_segments.store import SegmentStore

NAME = TopicPartition("orders", 0)


class Workbench:
    """Opens the log ``orders/0`` in a directory. Logs that are not closed are left as a killed broker leaves them."""

    def __init__(self, root: Path, settings: TopicSettings, disk: Disk | None = None) -> None:
        self.root = root
        self.directory = root / "orders-0"
        self.settings = settings
        self.disk = disk or RealDisk()

    def open(self) -> Log:
        return SegmentStore(StoreContext(self.root, self.disk)).open(NAME, self.settings)

    def copy(self, number: int) -> Workbench:
        root = self.root.with_name(f"{self.root.name}-{number}")
        shutil.copytree(self.root, root)
        return Workbench(root, self.settings)

    def path(self, base_offset: int, suffix: str) -> Path:
        return self.directory / f"{base_offset:020d}{suffix}"

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}

    def flip(self, path: Path, position: int, bits: int = 0x40) -> None:
        contents = bytearray(path.read_bytes())
        contents[position] ^= bits
        path.write_bytes(contents)

    def read_all(self, log: Log) -> bytes:
        found, offset = b"", log.start_offset
        while offset < log.end_offset:
            data = log.read(offset, 1 << 20, log.end_offset)
            found += data
            offset += data.count(b"payload")
        return found


def batches(start: int, stop: int, size: int = 100) -> list[bytes]:
    """Batches of one record; every value has the word that :meth:`Workbench.read_all` counts."""
    return [make_batch(offset, b"payload %d " % offset, timestamp=offset, size=size) for offset in range(start, stop)]


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    root = tmp_path / "data"
    root.mkdir()
    return Workbench(root, TopicSettings(index_interval_bytes=200))


@pytest.fixture
def small_segments(tmp_path: Path) -> Workbench:
    root = tmp_path / "data"
    root.mkdir()
    return Workbench(root, TopicSettings(index_interval_bytes=200, segment_bytes=1024))


@pytest.fixture
def some_batches() -> Callable[..., list[bytes]]:
    return batches
