"""The SQLite store through crash after crash, with a list as the model.

It opens its files itself, so the crash is made of copies: the database, and of the -wal file what was synced for
certain and any part of what follows, with anything behind it. The logs stay small, so that SQLite moves nothing from
the -wal file to the database meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from trunkline.disk import RealDisk
from trunkline.errors import LogStopped
from trunkline.log import Store, StoreContext
from trunkline.settings import TopicSettings
from trunkline.testing.crash_model import CrashModel, Machine
from trunkline_sqlite.store import DATABASE, SqliteStore

WAL = f"{DATABASE}-wal"
SYNCED_WHEN_ASKED = TopicSettings(durability="os")  # so that appends alone sync nothing


class CopiedMachine(Machine):
    """After each crash the store goes on in a new directory."""

    lost = (LogStopped,)

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lives = 0
        self._synced_bytes = 0
        self._store: Store | None = None
        self._here.mkdir(parents=True)

    @property
    def _here(self) -> Path:
        return self._directory / str(self._lives)

    def open(self) -> Store:
        self._store = SqliteStore(StoreContext(self._here, RealDisk()))
        self.synced()
        return self._store

    def arm(self, random: Random) -> None:
        pass

    def synced(self) -> None:
        wal = self._here / WAL
        self._synced_bytes = wal.stat().st_size if wal.exists() else 0

    def crash(self, random: Random) -> None:
        assert self._store is not None
        before = self._here
        self._lives += 1
        self._here.mkdir()
        shutil.copy(before / DATABASE, self._here)
        if (before / WAL).exists():
            wal = (before / WAL).read_bytes()
            kept = wal[: random.randint(min(self._synced_bytes, len(wal)), len(wal))]
            (self._here / WAL).write_bytes(kept + random.randbytes(random.choice((0, 100, 5000))))
        self._store.close()
        shutil.rmtree(before)


@pytest.mark.slow
def test_the_sqlite_store_survives_crashes(
    run_crashes: Callable[[Callable[[int, int], None]], None], tmp_path: Path
) -> None:
    def run(seed: int, crashes: int) -> None:
        CrashModel(CopiedMachine(tmp_path / str(seed)), seed, settings=SYNCED_WHEN_ASKED).run(crashes)

    run_crashes(run)
