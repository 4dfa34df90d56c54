"""The segment store through crash after crash on a simulated disk, with a list as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from trunkline.errors import LogStopped
from trunkline.log import Store, StoreContext
from trunkline.testing import PowerLost, SimulatedDisk
from trunkline.testing.crash_model import CrashModel, Machine
from trunkline_segments import keys
from trunkline_segments.store import SegmentStore

DIRECTORY = Path("/data/segments")


@pytest.fixture(scope="module", autouse=True)
def _small_key_blocks() -> Iterator[None]:
    """So that the segment that is being written has an index too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "BLOCK_RECORDS", 10)
        yield


class SimulatedMachine(Machine):
    """The segment store on a disk that loses power, also while it recovers, and fills up."""

    lost = (PowerLost, LogStopped)

    def __init__(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed, nowait_misses=0.3)

    def open(self) -> Store:
        self.disk.make_directory(DIRECTORY)
        return SegmentStore(StoreContext(DIRECTORY, self.disk))

    def arm(self, random: Random) -> None:
        self.disk.crash_after(random.randint(1, 60))

    def crash(self, random: Random) -> None:
        self.disk.capacity_bytes = None
        self.disk.crash()
        if random.random() < 0.1:
            self.disk.crash_after(random.randint(1, 20))  # while it recovers

    def fill_up(self, random: Random) -> None:
        self.disk.capacity_bytes = self.disk.used_bytes + random.randint(0, 4000)

    def make_room(self) -> None:
        self.disk.capacity_bytes = None


@pytest.mark.slow
def test_the_segment_store_survives_crashes(run_crashes: Callable[[Callable[[int, int], None]], None]) -> None:
    run_crashes(lambda seed, crashes: CrashModel(SimulatedMachine(seed), seed).run(crashes))


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_segment_store_survives_what_hypothesis_comes_up_with(seed: int, random: Random) -> None:
    CrashModel(SimulatedMachine(seed), random).run(2)
