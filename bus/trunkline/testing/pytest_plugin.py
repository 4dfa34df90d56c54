"""Fixtures for programs that talk to a broker: a real one, in memory, on ports that are free.

``trunkline_broker`` is one broker; ``trunkline_broker_factory`` makes several, or the same one again on its
data. Both are ordinary functions' fixtures and work in tests that run on asyncio, trio, or nothing: the
broker is in a thread of its own (:class:`trunkline.testing.background.BackgroundBroker`).

pytest loads this module in every project where Trunkline is installed, so it imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trunkline.testing.background import BackgroundBroker

__all__ = ["pytest_configure", "trunkline_broker", "trunkline_broker_factory"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "trunkline(**options): options of the fixture trunkline_broker: data, store, listen, config, plugins"
    )


@pytest.fixture
def trunkline_broker_factory() -> Iterator[Callable[..., BackgroundBroker]]:
    """Call it for a running broker; all are closed when the test is over.

    Takes the arguments of :class:`trunkline.testing.background.BackgroundBroker`: ``data``, ``store``,
    ``listen``, ``config``, ``plugins``.
    """
    from trunkline.testing.background import BackgroundBroker

    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(BackgroundBroker(*args, **options))


@pytest.fixture
def trunkline_broker(
    request: pytest.FixtureRequest, trunkline_broker_factory: Callable[..., BackgroundBroker]
) -> BackgroundBroker:
    """A running broker with records in memory; the marker ``trunkline`` gives it options."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("trunkline"))):  # the closest last: it wins
        options |= marker.kwargs
    return trunkline_broker_factory(**options)
