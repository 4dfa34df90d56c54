"""A real RabbitMQ, one for all tests here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.rabbitmq.world import OpenBridge, Users

from rabbitmq_server import RabbitmqServer, rabbitmq_script
from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqServer]:
    """Debian's rabbitmq-server."""
    if rabbitmq_script() is None:
        if os.environ.get("CI"):
            pytest.fail("rabbitmq-server is not installed")
        pytest.skip("rabbitmq-server is not installed")
    with RabbitmqServer(tmp_path_factory.mktemp("rabbitmq"), management=True) as server:
        yield server


@pytest.fixture
def users(rabbitmq: RabbitmqServer) -> Users:
    return Users(rabbitmq)


_numbers = count()


@pytest.fixture
def unique() -> str:
    """A name for this test's queues and exchanges."""
    return f"t{next(_numbers)}"


@pytest.fixture
def bridged(users: Users, tmp_path: Path) -> OpenBridge:
    """Opens a broker, on the same data each time, with links to the server: ``bridged(inbound={...}, outbound={...})``.

    What a server's table is to have beside its address is given as ``server``.
    """

    @asynccontextmanager
    async def open_one(server: Mapping[str, object] | None = None, **tables: object) -> AsyncIterator[Broker]:
        main = {"url": users.url, "first_pause_s": 0.05, "last_pause_s": 0.5, **(server or {})}
        config = BrokerConfig(listen={}, bridge={"rabbitmq": {"servers": {"main": main}, **tables}})
        async with open_broker(tmp_path / "data", config=config) as broker:
            yield broker

    return open_one
