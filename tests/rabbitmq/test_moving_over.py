"""A team moves over from RabbitMQ: topology first, then messages, as the documentation has it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from tests.rabbitmq.test_importing import run
from tests.rabbitmq.world import WAIT_S, Users, until

from trunkline.config import BrokerConfig
from trunkline.testing.background import BackgroundBroker

QUEUES: dict[str, dict[str, Any]] = {
    "celery": {"x-max-priority": 10},
    "orders": {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": "dead"},
    "refunds": {"x-message-ttl": 3_600_000, "x-max-length": 1000, "x-overflow": "reject-publish"},
    "reports@head office": {"x-single-active-consumer": True, "x-expires": 3_600_000, "x-queue-mode": "lazy"},
    "graves": {},
    "rest": {},
    "history": {"x-queue-type": "stream", "x-max-age": "7D"},
}
EXCHANGES: dict[str, dict[str, Any]] = {
    "celery": {"exchange_type": "direct"},
    "rest-of-events": {"exchange_type": "fanout", "internal": True},
    "events": {"exchange_type": "topic", "arguments": {"alternate-exchange": "rest-of-events"}},
    "by-header": {"exchange_type": "headers"},
    "dead": {"exchange_type": "fanout"},
}
BINDINGS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("celery", "celery", "celery", {}),
    ("events", "orders", "order.#", {}),
    ("events", "history", "order.#", {}),
    ("events", "refunds", "*.refund", {}),
    ("rest-of-events", "rest", "", {}),
    ("by-header", "reports@head office", "", {"x-match": "any", "kind": "report", "urgent": "yes"}),
    ("dead", "graves", "", {}),
]
MESSAGES: list[tuple[str, str, dict[str, Any]]] = [
    ("celery", "celery", {"priority": 7, "headers": {"task": "mail"}}),
    ("events", "order.new", {"delivery_mode": 2}),
    ("events", "order.refund", {"message_id": "3"}),
    ("events", "by-header.x", {"headers": {"urgent": "yes"}}),
    ("events", "by-header.x", {"headers": {"urgent": "no"}}),
    ("by-header", "", {"headers": {"kind": "report"}}),
    ("", "reports@head office", {"content_type": "text/plain"}),
    ("events", "unbound", {}),
    ("dead", "", {}),
]
TAKEN = [queue for queue in QUEUES if queue != "history"]


def declare(channel: BlockingChannel) -> None:
    for name, exchange in EXCHANGES.items():
        channel.exchange_declare(name, durable=True, **exchange)
    for name, arguments in QUEUES.items():
        channel.queue_declare(name, durable=True, arguments=arguments)
    for source, queue, key, arguments in BINDINGS:
        channel.queue_bind(queue, source, key, arguments)
    channel.exchange_bind("by-header", "events", "by-header.*")


def publish(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    for number, (exchange, key, properties) in enumerate(MESSAGES):
        channel.basic_publish(exchange, key, b"%d" % number, pika.BasicProperties(**properties))


def take_all(channel: BlockingChannel) -> dict[str, list[tuple[Any, ...]]]:
    """What is in each queue, as its consumers see it; given back afterwards."""
    found: dict[str, list[tuple[Any, ...]]] = {queue: [] for queue in TAKEN}
    for queue, messages in found.items():
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                break
            properties.headers = {
                name: value for name, value in (properties.headers or {}).items() if name != "x-delivery-count"
            } or None
            messages.append((method.exchange, method.routing_key, body, vars(properties)))
    return found


def do(url: str, function: Callable[[BlockingChannel], Any]) -> Any:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return function(connection.channel())


def door(broker: BackgroundBroker) -> str:
    return f"amqp://guest:guest@127.0.0.1:{broker.addresses['amqp'][1]}/"


def test_exchanges_queues_bindings_and_then_the_messages_come_over(users: Users, unique: str, tmp_path: Path) -> None:
    users.server.control("add_vhost", unique)
    users.server.control("set_permissions", "-p", unique, "guest", ".*", ".*", ".*")
    theirs = f"{users.url}{unique}"
    do(theirs, declare)
    do(theirs, publish)
    wanted = do(theirs, take_all)
    assert {queue: len(messages) for queue, messages in wanted.items()} == {
        "celery": 1, "orders": 2, "refunds": 1, "reports@head office": 3, "graves": 1, "rest": 1,
    }  # fmt: skip

    api = ("--from", f"http://guest:guest@127.0.0.1:{users.server.management_port}", "--vhost", unique)
    with BackgroundBroker(tmp_path, store="segments") as broker:
        for _ in range(2):  # again, nothing is in the way
            result = run(*api, "--to", door(broker), "--json")
            assert result.exit_code == 0, result.output
        steps = [json.loads(line)["what"] for line in result.stdout.splitlines()]
        assert len(steps) == len(QUEUES) + len(EXCHANGES) + len(BINDINGS) + 1
        do(door(broker), publish)
        assert do(door(broker), take_all) == wanted  # whoever publishes here now reaches the same queues
        for queue in TAKEN:
            do(door(broker), partial(BlockingChannel.queue_purge, queue=queue))

    links = tomllib.loads(run(*api, "--links").stdout)["bridge"]["rabbitmq"]
    bridge = {"rabbitmq": {**links, "servers": {"main": {"url": theirs}}}}
    with BackgroundBroker(tmp_path, store="segments", config=BrokerConfig(bridge=bridge)) as broker:

        def moved() -> int:
            (status,) = broker.broker.bridges.statuses()
            return sum(link.counters["messages"] for link in status.links)

        broker.run(until, lambda: moved() == sum(map(len, wanted.values())), timeout_s=WAIT_S)
        assert do(door(broker), take_all) == wanted
    assert set(map(len, do(theirs, take_all).values())) == {0}
