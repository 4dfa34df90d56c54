"""The example of a store, on the real LMDB, keeps the promises of every store."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from trunkline.disk import RealDisk
from trunkline.errors import StoreFull
from trunkline.log import Log, Store, StoreContext, TopicPartition
from trunkline.records import decode_all
from trunkline.settings import TopicSettings
from trunkline.testing import StoreCompliance, make_batch

EXAMPLE = Path(__file__).parents[1] / "examples" / "lmdb_store.py"
NAME = TopicPartition("orders", 0)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lmdb_store", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


lmdb_store = load()


def make_store(directory: Path, **settings: int) -> Store:
    store: Store = lmdb_store.LmdbStore(StoreContext(directory, RealDisk(), lmdb_store.LmdbSettings(**settings)))
    return store


class TestLmdbStore(StoreCompliance):
    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        return make_store


def fill(log: Log) -> None:
    while True:
        log.append([make_batch(log.end_offset, size=20_000)])


def test_a_full_store_refuses_and_takes_records_again_once_there_is_room(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=1024 * 1024)
    log = store.open(NAME, TopicSettings())
    with pytest.raises(StoreFull):
        fill(log)
    end = log.end_offset
    assert end > 20
    assert [record.offset for record in decode_all(log.read(0, 1 << 20, end))] == list(range(end))

    log.trim(end // 2)
    log.append([make_batch(end, size=20_000)])
    assert (log.start_offset, log.end_offset) == (end // 2, end + 1)
    log.close()
    store.close()


def test_what_was_appended_needs_no_close(tmp_path: Path) -> None:
    directories = [tmp_path / "before", tmp_path / "after"]
    directories[0].mkdir()
    store = make_store(directories[0])
    store.open(NAME, TopicSettings()).append([make_batch(0, b"kept")])
    directories[1].mkdir()
    (directories[1] / "data.mdb").write_bytes((directories[0] / "data.mdb").read_bytes())  # as a kill leaves it

    found = make_store(directories[1])
    assert [record.value for record in decode_all(found.open(NAME, TopicSettings()).read(0, 1000, 1))] == [b"kept"]
    found.close()
    store.close()
