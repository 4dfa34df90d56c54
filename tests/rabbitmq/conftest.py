"""A real RabbitMQ, one for all tests here."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import trustme
from tests.rabbitmq.world import OpenBridge, Users

from rabbitmq_server import RabbitmqServer, rabbitmq_script
from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig


@pytest.fixture(autouse=True, scope="session")
def quiet_pika() -> None:
    """It logs each error that it raises with five lines, under which the report of a failed test is not to be found."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``; the server's, for localhost only; ``client.pem`` with its key; ``strangers.pem`` of another CA."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("bridge@example.org")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server.cert_chain_pems[0].write_to_path(directory / "server.pem")
    server.private_key_pem.write_to_path(directory / "server.key")
    client.private_key_and_cert_chain_pem.write_to_path(directory / "client.pem")
    trustme.CA().cert_pem.write_to_path(directory / "strangers.pem")
    return directory


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[RabbitmqServer]:
    """Debian's rabbitmq-server."""
    if rabbitmq_script() is None:
        if os.environ.get("CI"):
            pytest.fail("rabbitmq-server is not installed")
        pytest.skip("rabbitmq-server is not installed")
    tls = {
        "cacertfile": certificates / "ca.pem",
        "certfile": certificates / "server.pem",
        "keyfile": certificates / "server.key",
        "verify": "verify_peer",
        "fail_if_no_peer_cert": "true",
    }
    with RabbitmqServer(tmp_path_factory.mktemp("rabbitmq"), management=True, tls=tls) as server:
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

    What a server's table is to have beside its address is given as ``server``; without ``listen`` it has no doors.
    """

    @asynccontextmanager
    async def open_one(
        server: Mapping[str, object] | None = None, listen: Mapping[str, str] | None = None, **tables: object
    ) -> AsyncIterator[Broker]:
        main = {"url": users.url, "first_pause_s": 0.05, "last_pause_s": 0.5, **(server or {})}
        config = BrokerConfig(listen=dict(listen or {}), bridge={"rabbitmq": {"servers": {"main": main}, **tables}})
        async with open_broker(tmp_path / "data", config=config) as broker:
            yield broker

    return open_one
