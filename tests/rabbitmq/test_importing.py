"""The topology of a RabbitMQ, declared somewhere else: what to declare is decided from its definitions."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pika
import pytest
import trio
from click.testing import CliRunner, Result
from tests.rabbitmq.world import Users

from trunkline.cli.root import cli
from trunkline_rabbitmq.importing import Definitions, inbound_links, plan

DEFINITIONS: dict[str, Any] = {
    "exchanges": [
        {"name": "events", "vhost": "/", "type": "topic", "durable": True, "auto_delete": False, "arguments": {}},
        {"name": "copy", "vhost": "/", "type": "fanout", "arguments": {"alternate-exchange": "gone"}},
        {"name": "amq.direct", "vhost": "/", "type": "direct"},
        {"name": "other", "vhost": "shop", "type": "direct"},
    ],
    "queues": [
        {"name": "orders", "vhost": "/", "durable": True, "arguments": {"x-max-length": 10}},
        {"name": "amq.gen-x", "vhost": "/"},
        {"name": "shop only", "vhost": "shop"},
    ],
    "bindings": [
        {"source": "events", "vhost": "/", "destination": "orders", "destination_type": "queue", "routing_key": "a.#"},
        {"source": "events", "vhost": "/", "destination": "copy", "destination_type": "exchange", "routing_key": "b"},
        {"source": "", "vhost": "/", "destination": "orders", "destination_type": "queue", "routing_key": "orders"},
        {"source": "events", "vhost": "/", "destination": "amq.gen-x", "destination_type": "queue", "routing_key": ""},
    ],
    "policies": [{"name": "lazy", "vhost": "/", "pattern": ".*", "definition": {}}],
    "users": [{"name": "guest"}],
}


def read(definitions: object) -> Definitions:
    return Definitions.decode(json.dumps(definitions).encode())


def test_what_others_have_too_is_left_out_and_what_is_missed_is_remarked() -> None:
    steps, remarks = plan(read(DEFINITIONS), "/")
    assert [step.what for step in steps] == [
        "exchange events (topic)",
        "exchange copy (fanout)",
        "queue orders",
        "binding events -> queue orders (a.#)",
        "binding events -> exchange copy (b)",
    ]
    assert [remark.partition(":")[0] for remark in remarks] == [
        "exchange copy",
        "queue amq.gen-x has a name that its server made up; it is left out",
        "a binding of events to queue amq.gen-x is left out with it",
        "policies are not imported",
    ]


def test_definitions_of_one_vhost_name_none() -> None:
    (step,) = plan(read({"queues": [{"name": "q"}]}), "anything").steps
    assert step.what == "queue q"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"queues": [{}]}', b'{"exchanges": 1}'])
def test_what_are_no_definitions_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no definitions of a RabbitMQ"):
        Definitions.decode(data)


def test_links_bring_each_queue_into_the_home_topic_of_its_name() -> None:
    queues: list[dict[str, Any]] = [
        {"name": name} for name in ("orders", "celery@host", "celery host", 'say "no"', "amq.gen-1")
    ]
    queues.append({"name": "a stream", "arguments": {"x-queue-type": "stream"}})
    exchanges = [{"name": "orders", "type": "topic"}]
    text = inbound_links(read({"queues": queues, "exchanges": exchanges}), "/", "main")
    assert '# No link for "a stream"' in text
    links = tomllib.loads(text)["bridge"]["rabbitmq"]["inbound"]
    assert {name: (link["queue"], link["topic"]) for name, link in links.items()} == {
        "orders": ("orders", "orders_q"),
        "celery-host": ("celery@host", "celery_x40_host"),
        "celery-host-2": ("celery host", "celery_x20_host"),
        "say-no": ('say "no"', "say_x2022_no_x22_"),
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rabbitmq", "import", *arguments])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://127.0.0.1:1", "cannot be asked"),
        ("ftp://x", "no URL of a management API"),
        ("no-such-file.json", "cannot be read: No such file"),
    ],
)
def test_a_source_that_gives_nothing_is_named(source: str, message: str) -> None:
    result = run("--from", source)
    assert result.exit_code == 1
    assert message in result.output


@pytest.fixture
async def vhost(users: Users, unique: str) -> str:
    """An empty one."""
    await trio.to_thread.run_sync(users.server.control, "add_vhost", unique)
    await trio.to_thread.run_sync(users.server.control, "set_permissions", "-p", unique, "guest", ".*", ".*", ".*")
    return unique


@pytest.mark.trio
async def test_what_one_broker_has_is_declared_in_another(users: Users, vhost: str, tmp_path: Path) -> None:
    def declare(channel: Any) -> None:
        channel.exchange_declare(f"{vhost}-events", "topic", durable=True)
        channel.exchange_declare(f"{vhost}-copy", "headers", durable=True)
        channel.queue_declare(f"{vhost}-orders", durable=True, arguments={"x-max-priority": 5, "x-message-ttl": 60000})
        channel.queue_bind(f"{vhost}-orders", f"{vhost}-events", "order.#")
        channel.exchange_bind(f"{vhost}-copy", f"{vhost}-events", "#", {"x": 1})

    await users.do(declare)
    api = f"http://guest:guest@127.0.0.1:{users.server.management_port}"
    target = f"{users.url}{vhost}"

    def transfer(*options: str) -> Result:
        return run("--from", api, "--to", target, "--json", *options)

    dry = await trio.to_thread.run_sync(transfer, "--dry-run")
    first = await trio.to_thread.run_sync(transfer)
    again = await trio.to_thread.run_sync(transfer)
    assert (dry.exit_code, first.exit_code, again.exit_code) == (0, 0, 0), first.output
    made = {json.loads(line)["what"] for line in first.stdout.splitlines()}
    assert {f"queue {vhost}-orders", f"binding {vhost}-events -> exchange {vhost}-copy (#)"} <= made

    def publish() -> Any:
        with pika.BlockingConnection(pika.URLParameters(target)) as connection:
            channel = connection.channel()
            channel.basic_publish(f"{vhost}-events", "order.new", b"1", pika.BasicProperties(priority=3))
            return channel.basic_get(f"{vhost}-orders", auto_ack=True)

    method, _, body = await trio.to_thread.run_sync(publish)
    assert (method.routing_key, body) == ("order.new", b"1")


@pytest.mark.trio
async def test_what_cannot_be_declared_is_named_and_the_rest_is_declared(
    users: Users, vhost: str, tmp_path: Path
) -> None:
    def definitions(limit: int) -> str:
        file = tmp_path / "definitions.json"
        queues = [{"name": "first"}, {"name": "second", "arguments": {"x-max-length": limit}}, {"name": "third"}]
        file.write_text(json.dumps({"queues": queues}))
        return str(file)

    for limit in (10, 20):
        arguments = ("--from", definitions(limit), "--to", f"{users.url}{vhost}", "--json")
        result = await trio.to_thread.run_sync(run, *arguments)
    assert result.exit_code == 1
    errors = [json.loads(line)["error"] for line in result.stdout.splitlines()]
    assert (errors[0], errors[2]) == (None, None)
    assert "406 PRECONDITION_FAILED - inequivalent arg 'x-max-length'" in errors[1]
