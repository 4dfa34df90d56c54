"""The segment store keeps the promises of every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trunkline.disk import RealDisk
from trunkline.log import Store, StoreContext
from trunkline.testing import StoreCompliance
from trunkline_segments.store import SegmentStore


class TestSegmentStore(StoreCompliance):
    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        return lambda directory: SegmentStore(StoreContext(directory, RealDisk()))
