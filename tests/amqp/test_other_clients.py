"""kombu, amqplib on Node.js and the command line tools of rabbitmq-c, unmodified."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import kombu
import pytest
from tests.npm import installed, missing, program

from trunkline.testing.background import BackgroundBroker

WAIT_S = 30.0


# -- kombu -----------------------------------------------------------------------------------------


def test_kombu_sends_and_drains(url: str, name: str) -> None:
    exchange = kombu.Exchange(name, "topic", durable=True)
    queue = kombu.Queue(name, exchange, routing_key="mail.#", max_priority=5)
    found: list[Any] = []
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        producer.publish({"late": 1}, exchange=exchange, routing_key="mail.a", declare=[queue], priority=1)
        producer.publish({"soon": 2}, exchange=exchange, routing_key="mail.b", priority=5, compression="zlib")
        producer.publish({"other": 3}, exchange=exchange, routing_key="chat.c")

        def received(body: Any, message: Any) -> None:
            found.append(body)
            message.ack()

        with connection.Consumer(queue, callbacks=[received], accept=["json"]):
            while len(found) < 2:
                connection.drain_events(timeout=WAIT_S)
    assert found == [{"soon": 2}, {"late": 1}]


def test_kombus_simple_queue_works_as_one(url: str, name: str) -> None:
    with kombu.Connection(url) as connection:
        queue = connection.SimpleQueue(name)
        queue.put({"number": 1})
        assert queue.qsize() == 1
        queue.get(timeout=WAIT_S).requeue()
        again = queue.get(timeout=WAIT_S)
        assert (again.payload, again.delivery_info["redelivered"]) == ({"number": 1}, True)
        again.ack()
        with pytest.raises(queue.Empty):
            queue.get(timeout=0.2)
        queue.close()


def test_kombu_broadcasts(url: str, name: str) -> None:
    found: list[tuple[str, Any]] = []
    with kombu.Connection(url) as connection:
        queues = [kombu.common.Broadcast(name, queue=f"{name}-{letter}") for letter in "ab"]
        consumers = []
        for queue in queues:
            consumer = connection.Consumer(queue, no_ack=True)
            consumer.register_callback(lambda body, message, queue=queue: found.append((queue.name, body)))
            consumer.consume()
            consumers.append(consumer)
        connection.Producer().publish("to all", exchange=queues[0].exchange)
        while len(found) < 2:
            connection.drain_events(timeout=WAIT_S)
    assert sorted(found) == [(f"{name}-a", "to all"), (f"{name}-b", "to all")]


# -- amqp-tools ------------------------------------------------------------------------------------


def tool(program: str, address: tuple[str, int], *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    path = shutil.which(program) or missing(f"{program} is not installed: apt-get install amqp-tools")
    command = [path, f"--server={address[0]}", f"--port={address[1]}", *arguments]
    return subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False, **options)


def test_the_command_line_tools_publish_get_and_consume(address: tuple[str, int], name: str) -> None:
    assert tool("amqp-declare-queue", address, "-q", name, "-d").stdout.strip() == name.encode()
    for body in ("one", "two"):
        assert tool("amqp-publish", address, "-r", name, "-p", "-b", body).returncode == 0
    assert tool("amqp-get", address, "-q", name).stdout == b"one"
    consumed = tool("amqp-consume", address, "-q", name, "-c", "1", "cat")
    assert (consumed.returncode, consumed.stdout) == (0, b"two")
    assert tool("amqp-get", address, "-q", name).returncode == 2  # it is empty
    assert tool("amqp-delete-queue", address, "-q", name).returncode == 0
    refused = tool("amqp-get", address, "-q", name)
    assert b"server channel error 404" in refused.stderr


# -- amqplib ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def amqplib(pytestconfig: pytest.Config) -> Path:
    """A directory with amqplib in its node_modules."""
    return installed(pytestconfig, "amqplib", "amqplib@0.10")


def test_amqplib_confirms_routes_calls_and_recovers(amqplib: Path, url: str, name: str) -> None:
    script = Path(__file__).with_name("amqplib_client.mjs")
    done = subprocess.run(
        [program("node"), str(script), str(amqplib), url, name],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "confirmed": 100,
        "got": [["kern.info", "a", 1], ["kern.warn", "b", 2]],
        "returned": "NO_ROUTE",
        "answer": "42",
        "count": 100,
        "error": 404,
    }


# -- the socket itself -----------------------------------------------------------------------------


def test_who_speaks_something_else_is_told_what_would_be_understood(amqp_broker: BackgroundBroker) -> None:
    """AMQP 0-9-1, 4.2.2."""
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"AMQP\x01\x01\x00\x0a"):
        with socket.create_connection(amqp_broker.addresses["amqp"], timeout=WAIT_S) as sock:
            sock.sendall(greeting)
            answer = b""
            while data := sock.recv(100):
                answer += data
        assert answer == b"AMQP\x00\x00\x09\x01"
