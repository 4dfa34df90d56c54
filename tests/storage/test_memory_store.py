"""The memory store keeps the promises of every store, but for outliving itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.log import Store
from trunkline.testing import MemoryStore, StoreCompliance


class TestMemoryStore(StoreCompliance):
    is_durable = False

    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        return lambda directory: MemoryStore()
