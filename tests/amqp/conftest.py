"""One broker with the AMQP door for all tests here, and real clients of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from trunkline.config import BrokerConfig
from trunkline.testing.background import BackgroundBroker

WAIT_S = 20.0  # for what should take milliseconds, on a machine that is busy with something else


@pytest.fixture(scope="session")
def amqp_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundBroker]:
    """A broker with segments on the disk, for all tests: each uses names of its own."""
    amqp = {"vhosts": ["/", "other"], "max_transaction_bytes": 1_000_000}
    config = BrokerConfig(plugins=[], door={"amqp": amqp})
    doors = dict.fromkeys(("native", "mqtt", "amqp", "kafka"), "127.0.0.1:0")
    with BackgroundBroker(tmp_path_factory.mktemp("amqp"), store="segments", listen=doors, config=config) as broker:
        yield broker


@pytest.fixture
def address(amqp_broker: BackgroundBroker) -> tuple[str, int]:
    """Where the AMQP door listens."""
    return amqp_broker.addresses["amqp"]


@pytest.fixture
def url(address: tuple[str, int]) -> str:
    """The same as clients like it."""
    return f"amqp://guest:guest@{address[0]}:{address[1]}/"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """For a queue or an exchange: another one in each test."""
    return re.sub(r"[^\w.-]", "-", request.node.name)[:80]


Connect = Callable[..., pika.BlockingConnection]


@pytest.fixture
def connect(address: tuple[str, int]) -> Iterator[Connect]:
    """Makes connections of pika, which are closed in the end."""
    connections: list[pika.BlockingConnection] = []

    def connect(**parameters: Any) -> pika.BlockingConnection:
        parameters = {"blocked_connection_timeout": WAIT_S, **parameters}
        connections.append(pika.BlockingConnection(pika.ConnectionParameters(*address, **parameters)))
        return connections[-1]

    yield connect
    for connection in connections:
        if connection.is_open:
            connection.close()


@pytest.fixture
def channel(connect: Connect) -> Any:
    """A channel of pika's blocking connection, with confirms."""
    channel = connect().channel()
    channel.confirm_delivery()
    return channel
