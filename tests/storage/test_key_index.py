"""The key index of segments: made when asked, bounded, and never trusted."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

import pytest

from trunkline.log import Log, StoreContext, TopicPartition
from trunkline.records import encode, read_header
from trunkline.settings import TopicSettings
from trunkline.testing import SimulatedDisk
from trunkline.testing.store_suite import beside
from trunkline_segments import keys
from trunkline_segments.names import KEYS
from trunkline_segments.store import SegmentStore

if TYPE_CHECKING:
    from tests.storage.conftest import Workbench

NAME_AND_VERSION = Struct(">4sHHqq")
NAME = TopicPartition("orders", 0)
WANTED = b"the wanted one"


def batch(offset: int, *, size: int = 60, distinct: int = 5) -> bytes:
    """Four records; the second one of every fifth batch is wanted, the others have one of few keys."""
    names = [b"key %d" % ((offset + i) % distinct) for i in range(4)]
    if offset % 20 == 0:
        names[1] = WANTED
    return encode([(offset, name, bytes(size), ()) for name in names], base_offset=offset)


def fill(log: Log, start: int, stop: int, **options: int) -> None:
    for offset in range(start, stop, 4):
        log.append([batch(offset, **options)])
    log.flush()


def find(log: Log, start: int | None = None, prefix: bytes = WANTED) -> list[int]:
    found: list[int] = []
    offset = log.start_offset if start is None else start
    while offset < log.end_offset:
        some, offset = log.find_keys(offset, log.end_offset, lambda key: key.startswith(prefix), 30)
        found += some
    return found


def blocks(path: Path) -> list[tuple[int, int, int]]:
    """Flags and ends of the blocks in a file."""
    data, found, position = path.read_bytes(), [], 0
    while position < len(data):
        magic, version, flags, base, end = NAME_AND_VERSION.unpack_from(data, position)
        assert (magic, version) == (b"TLKI", 1)
        keys_bytes, postings_bytes = Struct(">II").unpack_from(data, position + 44)
        found.append((flags, base, end))
        position += 60 + keys_bytes + postings_bytes
    return found


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "BLOCK_RECORDS", 20)


@pytest.fixture
def workbench_of_three(workbench: Workbench) -> Workbench:
    """Three segments and a bit; each holds two full blocks and the beginning of a third."""
    workbench.settings = TopicSettings(segment_bytes=4096, index_interval_bytes=200)
    return workbench


def test_an_index_is_made_when_somebody_asks(workbench_of_three: Workbench) -> None:
    log = workbench_of_three.open()
    fill(log, 0, 200)
    assert not [*workbench_of_three.directory.glob("*.keys")]

    assert find(log) == [*range(1, 200, 20)]

    path = workbench_of_three.path(0, KEYS)
    first = blocks(path)
    assert [base for _, base, _ in first] == [0, 20, 40], "a segment's blocks follow each other"
    assert [flags for flags, _, _ in first] == [0, 0, 1], "five keys in twenty records are listed, but not in eight"
    written = path.stat().st_mtime_ns
    log.close()
    assert find(workbench_of_three.open()) == [*range(1, 200, 20)]
    assert path.stat().st_mtime_ns == written, "what is there is used"


def test_the_segment_that_is_being_written_is_indexed_up_to_its_last_full_block(workbench: Workbench) -> None:
    log = workbench.open()
    fill(log, 0, 100)
    log.close()  # now all of it is below the recovery point
    log = workbench.open()
    fill(log, 100, 192)

    assert find(log) == [*range(1, 192, 20)]

    assert [end for _, _, end in blocks(workbench.path(0, KEYS))] == [20, 40, 60, 80, 100]


def test_many_different_keys_are_not_listed(workbench_of_three: Workbench) -> None:
    log = workbench_of_three.open()
    fill(log, 0, 200, distinct=1000)

    assert find(log) == [*range(1, 200, 20)]

    path = workbench_of_three.path(0, KEYS)
    assert [flags for flags, _, _ in blocks(path)] == [1, 1, 1]
    assert path.stat().st_size == 3 * 60


def test_whatever_happens_to_an_index_the_log_is_right(
    workbench_of_three: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    log = workbench_of_three.open()
    fill(log, 0, 200)
    assert find(log) == [*range(1, 200, 20)]
    log.close()
    path = workbench_of_three.path(0, KEYS)
    good = path.read_bytes()
    rng = random.Random(4)
    changed = [bytes(len(good)), b"", good + b"\0" * 40, good + good, good[60:]]
    changed += [good[:cut] for cut in range(1, len(good), 7)]
    for position in range(0, len(good), 3):
        changed.append(good[:position] + bytes([good[position] ^ 1 << rng.randrange(8)]) + good[position + 1 :])

    for contents in changed:
        path.write_bytes(contents)
        log = workbench_of_three.open()
        assert find(log) == [*range(1, 200, 20)]
        assert find(log, prefix=b"") == [*range(200)]
        log.close()
        assert path.read_bytes()[: len(good)] == good, "it is made anew"
    assert all("made anew" in record.getMessage() for record in caplog.records)


def test_a_full_disk_costs_the_index_only() -> None:
    disk = SimulatedDisk(1)
    disk.make_directory(Path("/data"))
    store = SegmentStore(StoreContext(Path("/data"), disk))
    log = store.open(NAME, TopicSettings(segment_bytes=4096))
    fill(log, 0, 200)
    disk.capacity_bytes = disk.used_bytes + 100

    assert find(log) == [*range(1, 200, 20)]

    disk.capacity_bytes = None
    assert find(log) == [*range(1, 200, 20)]
    log.close()


def test_verify_knows_a_wrong_index(workbench_of_three: Workbench) -> None:
    log = workbench_of_three.open()
    fill(log, 0, 200)
    find(log)
    log.close()
    path = workbench_of_three.path(0, KEYS)
    good = path.read_bytes()
    store = SegmentStore(StoreContext(workbench_of_three.root, workbench_of_three.disk))
    assert [*store.verify(NAME)] == []

    for position in range(0, len(good), 11):
        workbench_of_three.flip(path, position)
        (fault,) = store.verify(NAME)
        assert fault.file == str(path)
        assert "made anew" in fault.reason
        path.write_bytes(good)


def test_an_index_that_lies_is_told_by_verify(workbench_of_three: Workbench) -> None:
    """Its checksums are right: of another log, say, that was copied over this one."""
    log = workbench_of_three.open()
    fill(log, 0, 200, distinct=4)
    find(log)
    log.close()
    path = workbench_of_three.path(0, KEYS)
    lie = path.read_bytes()
    path.unlink()
    logs = workbench_of_three.path(0, ".log")
    logs.write_bytes(b"".join(batch(offset) for offset in range(0, 200, 4))[: logs.stat().st_size])
    path.write_bytes(lie)

    faults = [*SegmentStore(StoreContext(workbench_of_three.root, workbench_of_three.disk)).verify(NAME)]

    assert any(fault.file == str(path) and "not what the log says" in fault.reason for fault in faults)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR, "trunkline.segments"):
        yield


def test_searches_overlap_all_that_changes_a_log(workbench_of_three: Workbench, quiet: None) -> None:
    """Wanted records that no change touches are found by every search, and nothing else is."""
    log = workbench_of_three.open()
    fill(log, 0, 400)
    wrong: list[object] = []
    is_done = threading.Event()
    gone = {21, 61, 121}

    def search() -> None:
        try:
            while not is_done.is_set() and not wrong:
                found = find(log, max(log.start_offset, 100))
                must = {at for at in range(101, 400, 20) if at not in gone}
                if not must <= set(found) or any(at % 20 != 1 for at in found) or found != sorted(set(found)):
                    wrong.append(found)
        except BaseException as failure:
            wrong.append(failure)

    with beside(search, search, search):
        for step in range(12):
            fill(log, 400 + 40 * step, 440 + 40 * step)
            base = sorted(gone)[step % 3] - 1
            log.rewrite(log.rewritable_end_offset, lambda b, at=base: None if read_header(b).base_offset == at else b)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            log.trim(8 * step)
            log.truncate(400 + 40 * step + 20)
            fill(log, 420 + 40 * step, 440 + 40 * step)
        is_done.set()

    assert wrong == []
    assert find(log) == [at for at in range(101, 880, 20) if at not in gone]
    log.close()


def test_nothing_is_left_of_an_index_whose_segment_is_gone(workbench_of_three: Workbench, quiet: None) -> None:
    log = workbench_of_three.open()
    fill(log, 0, 200)
    find(log)
    log.trim(150)
    log.close()
    stray = workbench_of_three.path(0, KEYS)
    stray.write_bytes(b"a crash left this")

    workbench_of_three.open()

    logs = {path.stem for path in workbench_of_three.directory.glob("*.log")}
    assert {path.stem for path in workbench_of_three.directory.glob("*.keys")} <= logs
    assert not stray.exists()


def test_a_search_stops_when_its_log_is_closed(workbench_of_three: Workbench) -> None:
    """What it would write then could end up beside another log of the same name."""
    log = workbench_of_three.open()
    fill(log, 0, 200)

    def close_it(key: bytes) -> bool:
        if not is_closed:
            is_closed.append(True)
            log.close()
        return False

    is_closed: list[bool] = []
    found, following = log.find_keys(0, 200, close_it, 10)

    assert found == []
    assert following == 20, "it has looked at one block"
    assert [end for _, _, end in blocks(workbench_of_three.path(0, KEYS))] == [20]
