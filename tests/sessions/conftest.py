"""A simulated machine, and a broker on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sessions.world import Machine

from trunkline.broker import Broker


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
async def broker(machine: Machine) -> AsyncIterator[Broker]:
    """With a topic ``mqtt`` of one partition."""
    async with machine.broker() as broker:
        await broker.create_topic("mqtt")
        yield broker
