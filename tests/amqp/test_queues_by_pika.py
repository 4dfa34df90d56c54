"""What queues of RabbitMQ do with their messages, as pika sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, NackError

from trunkline.testing.background import BackgroundBroker
from trunkline_amqp.naming import topic_name

WAIT_S = 20.0

Connect = Callable[..., pika.BlockingConnection]


def get(channel: Any, queue: str) -> tuple[Any, pika.BasicProperties, bytes]:
    """The next message, once it is there."""
    deadline = monotonic() + WAIT_S
    while monotonic() < deadline:
        found = channel.basic_get(queue, auto_ack=True)
        if found[0] is not None:
            return found  # type: ignore[no-any-return]  # pika is not typed
    raise AssertionError(f"nothing came to {queue}")


def read_stream(connect: Connect, queue: str, offset: Any, count: int) -> list[tuple[int, bytes]]:
    """Offset and body of so many messages of a stream."""
    channel = connect().channel()
    channel.basic_qos(prefetch_count=2)
    found: list[tuple[int, bytes]] = []
    arguments = {"x-stream-offset": offset}
    for method, properties, body in channel.consume(queue, arguments=arguments, inactivity_timeout=WAIT_S):
        assert method is not None, f"only {found} came"
        assert properties.headers is not None
        found.append((properties.headers["x-stream-offset"], body))
        channel.basic_ack(method.delivery_tag)
        if len(found) == count:
            break
    return found


def test_dead_letters_tell_their_story(channel: Any, name: str) -> None:
    channel.exchange_declare(f"{name}-dlx", "fanout")
    channel.queue_declare(f"{name}-dead")
    channel.queue_bind(f"{name}-dead", f"{name}-dlx")
    channel.queue_declare(name, durable=True, arguments={"x-dead-letter-exchange": f"{name}-dlx"})
    channel.basic_publish("", name, b"1", pika.BasicProperties(expiration="1", headers={"own": 5}))
    method, properties, body = get(channel, f"{name}-dead")
    assert (method.exchange, method.routing_key, body) == (f"{name}-dlx", name, b"1")
    headers = properties.headers
    assert headers is not None
    (death,) = headers.pop("x-death")
    assert death.pop("time") is not None
    assert death == {
        "count": 1,
        "exchange": "",
        "original-expiration": "1",
        "queue": name,
        "reason": "expired",
        "routing-keys": [name],
    }
    assert headers == {
        "own": 5,
        "x-first-death-exchange": "",
        "x-first-death-queue": name,
        "x-first-death-reason": "expired",
    }


def test_a_queue_that_refuses_and_one_that_drops(channel: Any, name: str) -> None:
    channel.queue_declare(name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_declare(f"{name}-2", arguments={"x-max-length": 1})
    for queue in (name, f"{name}-2"):
        channel.basic_publish("", queue, b"1")
    with pytest.raises(NackError):
        channel.basic_publish("", name, b"2")
    channel.basic_publish("", f"{name}-2", b"2")
    assert (get(channel, name)[2], get(channel, f"{name}-2")[2]) == (b"1", b"2")


def test_higher_priorities_come_first(channel: Any, name: str) -> None:
    channel.queue_declare(name, arguments={"x-max-priority": 3})
    for priority in (0, 9, 2, 3):
        channel.basic_publish("", name, b"%d" % priority, pika.BasicProperties(priority=priority))
    channel.basic_publish("", name, b"none")
    assert [get(channel, name)[2] for _ in range(5)] == [b"9", b"3", b"2", b"0", b"none"]


def test_a_message_that_fails_too_often_leaves(channel: Any, name: str) -> None:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": ""}
    channel.queue_declare(f"{name}-dead")
    channel.queue_declare(name, durable=True, arguments={**arguments, "x-dead-letter-routing-key": f"{name}-dead"})
    channel.basic_publish("", name, b"1")
    for _ in range(3):
        method, _, _ = channel.basic_get(name)
        channel.basic_nack(method.delivery_tag, requeue=True)
    _, properties, _ = get(channel, f"{name}-dead")
    assert properties.headers is not None
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_streams_are_read_again_and_again(channel: Any, connect: Connect, name: str) -> None:
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(f"{name}-s", durable=True, arguments={"x-queue-type": "stream"})
    channel.queue_bind(f"{name}-s", name, "a.#")
    for number in range(4):
        channel.basic_publish(name, "a.b", b"%d" % number)
    everything = read_stream(connect, f"{name}-s", "first", 4)
    assert everything == [(number, b"%d" % number) for number in range(4)]
    assert read_stream(connect, f"{name}-s", 2, 2) == everything[2:]
    assert channel.queue_declare(f"{name}-s", passive=True).method.message_count == 4
    with pytest.raises(ChannelClosedByBroker, match="prefetch count is not set"):
        connect().channel().basic_consume(f"{name}-s", lambda *_: None)
    with pytest.raises(ConnectionClosedByBroker, match="not supported by stream queues"):
        connect().channel().queue_purge(f"{name}-s")


@pytest.mark.parametrize("kind", ["stream", "classic", "quorum"])
def test_any_log_is_read_from_any_position(
    channel: Any, connect: Connect, amqp_broker: BackgroundBroker, name: str, kind: str
) -> None:
    """All six kinds of ``x-stream-offset``; what another door wrote, and one message that is published meanwhile."""
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
    topic, now = topic_name("/", name), datetime.now(UTC)
    for hours in (5, 3, 1):
        written = now - timedelta(hours=hours)
        amqp_broker.publish(topic, b"%d h ago" % hours, timestamp=int(written.timestamp() * 1000))
    old = [(0, b"5 h ago"), (1, b"3 h ago"), (2, b"1 h ago")]
    positions = {"first": 0, "last": 2, 1: 1, now - timedelta(hours=4): 1, "2h": 2}
    for position, first in positions.items():
        assert read_stream(connect, name, position, 3 - first) == old[first:], position
    reader = connect().channel()
    reader.basic_qos(prefetch_count=2)
    found: list[bytes] = []
    reader.basic_consume(
        name, lambda *message: found.append(message[3]), auto_ack=True, arguments={"x-stream-offset": "next"}
    )
    channel.basic_publish("", name, b"now")
    deadline = monotonic() + WAIT_S
    while not found and monotonic() < deadline:
        reader.connection.process_data_events(0.1)
    assert found == [b"now"]
    assert channel.queue_declare(name, passive=True).method.message_count == 4  # nobody has taken anything


def test_messages_can_be_delayed(channel: Any, name: str) -> None:
    channel.exchange_declare(name, "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
    channel.queue_declare(name)
    channel.queue_bind(name, name, "k")
    channel.basic_publish(name, "k", b"late", pika.BasicProperties(headers={"x-delay": 3_600_000}))
    channel.basic_publish(name, "k", b"soon", pika.BasicProperties(headers={"x-delay": 10}))
    assert get(channel, name)[2] == b"soon"
    assert channel.queue_declare(name, passive=True).method.message_count == 0


def test_one_consumer_at_a_time_is_active(channel: Any, connect: Connect, name: str) -> None:
    channel.queue_declare(name, arguments={"x-single-active-consumer": True})
    first, second = connect().channel(), connect().channel()
    got: list[tuple[str, bytes]] = []
    for which, consuming in (("first", first), ("second", second)):
        consuming.basic_consume(name, lambda _c, _m, _p, body, which=which: got.append((which, body)), auto_ack=True)
    for number in range(2):
        channel.basic_publish("", name, b"%d" % number)
        deadline = monotonic() + WAIT_S
        while len(got) == number and monotonic() < deadline:
            for consuming in (first, second):
                if consuming.is_open:
                    consuming.connection.process_data_events(0)
        if number == 0:
            first.close()
    assert got == [("first", b"0"), ("second", b"1")]


def test_the_command_line_sees_the_queue(channel: Any, amqp_broker: BackgroundBroker, name: str) -> None:
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(f"{name} q", durable=True)
    channel.queue_bind(f"{name} q", name, "a.*")
    channel.basic_publish(name, "a.b", b"hello")
    host, port = amqp_broker.addresses["native"]
    core_name = topic_name("/", f"{name} q")

    def command(verb: str, *options: str) -> str:
        words = ["queue", verb, core_name, *options, "--server", f"trunkline://{host}:{port}"]
        return subprocess.run(
            [sys.executable, "-m", "trunkline.cli", *words], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    shown = command("describe")
    assert f"AMQP's classic queue '{name} q' in virtual host '/'" in shown
    assert "key a.* (amqp)" in shown
    assert "hello" in command("peek")
    assert get(channel, f"{name} q")[2] == b"hello"
    command("reset", "--to", "earliest", "--yes")
    assert get(channel, f"{name} q")[2] == b"hello"
