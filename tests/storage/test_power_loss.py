"""Power is lost, or the disk fails, at each operation in turn: what was acknowledged is there, nothing is invented."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.disk import DiskFile, RealDisk
from trunkline.log import Log, SavedState
from trunkline.records import Buffer
from trunkline.testing import make_batch

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench


class DiskFailed(OSError):
    """The operation that the test chose to fail, and all after it."""


class LossyDisk(RealDisk):
    """Keeps in mind what would outlive a loss of power, and fails from the n-th operation on.

    A file's contents outlive it as they were at the last sync, its name if the directory was synced since.
    """

    def __init__(self, fail_at: int) -> None:
        self.operations = 0
        self._fail_at = fail_at
        self._contents: dict[Path, bytes] = {}
        self._names: dict[Path, set[str]] = {}

    def count(self) -> None:
        self.operations += 1
        if self.operations >= self._fail_at:
            raise DiskFailed(5, f"operation {self.operations} fails")

    def made_durable(self, path: Path) -> None:
        self._contents[path] = path.read_bytes()

    def lose_power(self, kept: float) -> None:
        """Put back what is durable, and this share of what was appended since."""
        for directory, names in self._names.items():
            for name in names | set(super().list(directory)):
                path = directory / name
                if path.is_dir():
                    continue
                durable = self._contents.get(path, b"")
                now = path.read_bytes() if path.exists() else b""
                if name not in names:
                    path.unlink()
                else:
                    unsynced = now[len(durable) :] if now.startswith(durable) else b""
                    path.write_bytes(durable + unsynced[: int(len(unsynced) * kept)])

    def open(self, path: Path) -> DiskFile:
        if not path.exists():
            self.count()
            self._contents[path] = b""
        return LossyFile(self, path, super().open(path))

    def replace_file(self, path: Path, contents: bytes) -> None:
        self.count()
        self._contents[path] = contents
        self._names.setdefault(path.parent, set()).add(path.name)
        path.write_bytes(contents)
        self.sync_directory(path.parent)

    def make_directory(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._names.setdefault(directory, set())

    def remove(self, path: Path) -> None:
        self.count()
        super().remove(path)

    def sync_directory(self, directory: Path) -> None:
        self.count()
        self._names[directory] = set(super().list(directory))


class LossyFile(DiskFile):
    def __init__(self, disk: LossyDisk, path: Path, file: DiskFile) -> None:
        self._disk, self._path, self._file = disk, path, file
        self.read, self.size, self.close = file.read, file.size, file.close  # type: ignore[method-assign]

    def append(self, buffers: Sequence[Buffer]) -> int:
        try:
            self._disk.count()
        except DiskFailed:
            self._file.append([b"".join(buffers)[:70]])  # a part of it arrives
            raise
        return self._file.append(buffers)

    def read(self, position: int, size: int) -> bytes:
        raise NotImplementedError

    def read_nowait(self, position: int, size: int) -> bytes | None:
        return self._file.read_nowait(position, size)

    def sync(self) -> None:
        self._disk.count()
        self._disk.made_durable(self._path)

    def truncate(self, size: int) -> None:
        self._disk.count()
        self._file.truncate(size)

    def size(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Workload:
    """A fixed series of changes, and what may be found after it broke off."""

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open = open_log
        self._version = 0
        self.log: Log | None = None
        self.batches: list[bytes] = []
        self.before: list[bytes] = []  # while a truncation is under way
        self.starts = {0}
        self.acknowledged = 0
        self.states: set[SavedState | None] = {None}

    def run(self) -> None:
        self.log = log = self._open()
        for number in range(2):
            self.append(log, 3)
            self.flush(log)
            self.append(log, 20)  # over several segments
            self.append(log, 2)
            self.flush(log)
            self.append(log, 15)
            self.save(log)
            self.trim(log, 11 * number + 5)
            self.append(log, 4)
            self.truncate(log, log.end_offset - 17)
            self.append(log, 5)
            log.close()
            self.acknowledged = len(self.batches)
            self.log = log = self._open()

    def append(self, log: Log, count: int) -> None:
        self._version += 1
        value = b"payload, version %d" % self._version
        new = [make_batch(log.end_offset + number, value, size=100) for number in range(count)]
        self.batches += new
        log.append(new)

    def flush(self, log: Log) -> None:
        self.acknowledged = log.flush()

    def save(self, log: Log) -> None:
        state = SavedState(self.acknowledged, b"version %d" % self._version)
        self.states.add(state)
        log.save_state(state)
        self.states = {state}

    def trim(self, log: Log, offset: int) -> None:
        self.starts.add(offset)
        log.trim(offset)
        self.acknowledged = max(self.acknowledged, offset)
        self.starts = {offset}

    def truncate(self, log: Log, offset: int) -> None:
        self.before = self.batches
        self.batches = self.batches[:offset]
        self.acknowledged = min(self.acknowledged, offset)
        self.states |= {None}
        log.truncate(offset)
        self.acknowledged = offset
        self.before = []

    def check(self, bench: Workbench, log: Log) -> None:
        assert log.start_offset in self.starts
        assert log.end_offset >= self.acknowledged
        found = bench.read_all(log)
        held = [b"".join(some[log.start_offset : log.end_offset]) for some in (self.batches, self.before)]
        assert found in held
        state: Any = log.load_state()
        assert state in self.states or (state is not None and state.offset <= log.end_offset)


def break_at(bench: Workbench, number: int) -> tuple[Workload, LossyDisk]:
    disk = bench.disk = LossyDisk(number)
    workload = Workload(bench.open)
    with suppress(DiskFailed):
        workload.run()
    return workload, disk


def all_operations(bench: Workbench) -> range:
    _, disk = break_at(bench.copy(0), 1_000_000)
    return range(1, disk.operations + 1)


@pytest.mark.parametrize(("kept", "step"), [(0, 1), (0.5, 3), (1, 3)])
def test_power_is_lost_at_any_operation(small_segments: Workbench, kept: float, step: int) -> None:
    for number in all_operations(small_segments)[::step]:
        bench = small_segments.copy(number)
        workload, disk = break_at(bench, number)
        disk.lose_power(kept)
        bench.disk = RealDisk()
        workload.check(bench, bench.open())
        log = bench.open()  # what was recovered stays
        workload.check(bench, log)
        log.append([make_batch(log.end_offset, b"payload")])
        log.close()
        assert bench.open().end_offset == log.end_offset


def test_the_disk_fails_at_any_operation(small_segments: Workbench) -> None:
    for number in all_operations(small_segments)[::2]:
        bench = small_segments.copy(number)
        workload, _ = break_at(bench, number)
        if workload.log is not None:
            with suppress(DiskFailed):
                workload.log.close()
        bench.disk = RealDisk()
        workload.check(bench, bench.open())


def test_what_an_opened_log_shows_outlives_a_loss_of_power(small_segments: Workbench) -> None:
    """The core takes what it finds for committed, even if the broker was killed before its flush."""
    disk = small_segments.disk = LossyDisk(1_000_000)
    small_segments.open().append([make_batch(offset, b"payload", size=100) for offset in range(25)])
    assert small_segments.open().end_offset == 25
    disk.lose_power(0)
    small_segments.disk = RealDisk()

    assert small_segments.open().end_offset == 25


def test_nothing_is_called_durable_after_a_failed_sync(small_segments: Workbench) -> None:
    """The kernel may have dropped the pages, and a second fsync would succeed without having written them."""
    for number in itertools.count(4):
        bench = small_segments.copy(number)
        disk = bench.disk = LossyDisk(number)
        log = bench.open()
        with suppress(DiskFailed):
            log.append([make_batch(0, b"payload")])
            log.flush()
        if disk.operations < number:
            break
        disk.operations = -1_000_000  # it works again
        log.close()
        disk.lose_power(0)
        bench.disk = RealDisk()
        assert bench.open().end_offset == 0
