"""Links over TLS with a RabbitMQ that asks for a certificate itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.rabbitmq.test_importing import run
from tests.rabbitmq.world import OpenBridge, Users, link, until, values

from rabbitmq_server import RabbitmqServer
from trunkline.config import BrokerConfig, TlsConfig
from trunkline.testing.background import BackgroundBroker

pytestmark = pytest.mark.trio

Server = Callable[..., dict[str, str]]


@pytest.fixture
def server(rabbitmq: RabbitmqServer, certificates: Path) -> Server:
    """A server's table, as it is right, but for what is given."""

    def table(**changes: str) -> dict[str, str]:
        files = {"ca_file": "ca.pem", "certificate": "client.pem"} | changes
        name = files.pop("server_name", "localhost")
        url = f"amqps://guest:guest@127.0.0.1:{rabbitmq.tls_port}/"
        return {"url": url, "server_name": name} | {
            key: str(certificates / file) for key, file in files.items() if file
        }

    return table


async def test_messages_go_both_ways_over_tls(users: Users, bridged: OpenBridge, unique: str, server: Server) -> None:
    await users.declare(unique, f"{unique}-back")
    body = bytes(100_000)  # several records of TLS
    await users.publish((unique, body), (unique, b"2"))
    inbound = {"queue": unique, "topic": "orders"}
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": f"{unique}-back", "echo": True}
    async with bridged(server(), inbound={"in": inbound}, outbound={"out": outbound}) as broker:
        assert [message[1] for message in await users.take(f"{unique}-back", 2)] == [body, b"2"]
        assert await values(broker, "orders") == [body, b"2"]
        await until(lambda: link(broker, "in").counters["messages"] == link(broker, "out").counters["messages"] == 2)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"ca_file": "strangers.pem"}, "certificate verify failed"),
        ({"server_name": ""}, "127.0.0.1"),
        ({"certificate": ""}, "it may want a certificate of this side"),
        ({"ca_file": "nowhere.pem"}, "No such file"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
async def test_without_trust_on_both_sides_nothing_moves_and_the_link_says_why(
    users: Users, bridged: OpenBridge, unique: str, server: Server, wrong: dict[str, str], problem: str
) -> None:
    await users.declare(unique)
    await users.publish((unique, b"1"))
    async with bridged(server(**wrong), inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").counters["failures"])
        assert problem in link(broker, "in").error
        assert link(broker, "in").counters["messages"] == 0
    assert await users.count(unique) == 1


async def test_a_topology_is_read_and_declared_over_tls(
    rabbitmq: RabbitmqServer, users: Users, unique: str, certificates: Path
) -> None:
    await users.declare(unique)
    pem = (certificates / "server.key").read_text() + (certificates / "server.pem").read_text()
    (certificates / "ours.pem").write_text(pem)
    tls = TlsConfig(certificate=str(certificates / "ours.pem"))
    listen = {"amqp": "127.0.0.1:0"}
    with BackgroundBroker(listen=listen, config=BrokerConfig(plugins=[], tls=tls)) as broker:
        source = f"https://guest:guest@localhost:{rabbitmq.management_tls_port}"
        target = f"amqps://guest:guest@localhost:{broker.addresses['amqp'][1]}/"
        results = [
            await trio.to_thread.run_sync(run, "--from", source, "--to", target, "--ca-file", str(certificates / file))
            for file in ("ca.pem", "strangers.pem")
        ]
    assert f"ok\tqueue {unique}" in results[0].stdout.splitlines()
    assert "certificate verify failed" in results[1].output
