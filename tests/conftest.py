"""For all tests: slow ones run in CI, or when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings

os.environ.pop("PYTEST_ADDOPTS", None)  # it was for this run, not for those that tests begin

if not os.environ.get("CI"):  # there hypothesis has such a profile of its own, with the same examples each time
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Skip slow tests, unless ``CI`` is set, or ``-m slow`` or the test's own file is on the command line."""
    if os.environ.get("CI") or config.getoption("-m") or any(".py" in argument for argument in config.args):
        return
    skip = pytest.mark.skip(reason="slow: runs with CI=true, with -m slow, or when its file is named")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)
