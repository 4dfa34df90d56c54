"""How many crashes, from which seed, and a line that brings a failure back."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

CRASHES = int(os.environ.get("TRUNKLINE_CRASHES", "300"))
FIRST_SEED = int(os.environ.get("TRUNKLINE_CRASH_SEED", "1"))
CRASHES_PER_SEED = 10

Run = Callable[[int, int], None]


@pytest.fixture
def run_crashes(request: pytest.FixtureRequest) -> Callable[[Run], None]:
    """Calls ``run(seed, crashes)`` for one seed after another until there were TRUNKLINE_CRASHES crashes."""

    def run_all(run: Run) -> None:
        for number in range(max(1, CRASHES // CRASHES_PER_SEED)):
            seed = FIRST_SEED + number
            try:
                run(seed, CRASHES_PER_SEED)
            except BaseException as error:
                error.add_note(
                    f"seed {seed}; once more: TRUNKLINE_CRASHES={CRASHES_PER_SEED} TRUNKLINE_CRASH_SEED={seed} "
                    f"python -m pytest '{request.node.nodeid}'"
                )
                raise

    return run_all
