"""The SQLite store keeps the promises of every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.log import Store, StoreContext
from trunkline.testing import StoreCompliance
from trunkline_sqlite.store import SqliteStore


class TestSqliteStore(StoreCompliance):
    keeps_batches_verbatim = False

    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        return lambda directory: SqliteStore(StoreContext(directory, RealDisk()))
