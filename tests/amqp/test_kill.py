"""The broker is killed: what was confirmed is there, what was declared too, and what was committed stays done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError


@contextmanager
def serving(data: Path) -> Iterator[pika.ConnectionParameters]:
    """A broker in a process of its own, killed in the end."""
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(data), "--log-level", "error"]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    with subprocess.Popen(
        [*command, "--listen", "amqp=127.0.0.1:0"], stdout=subprocess.PIPE, text=True, env=settings
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready "), line
            host, port = line.split("amqp=")[1].split()[0].rsplit(":", 1)
            yield pika.ConnectionParameters(host, int(port))
        finally:
            process.kill()
            process.wait()  # Popen itself waits only a moment for it if the tests are interrupted


def drain(channel: Any, queue: str) -> list[int]:
    found = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(int(got[2]))
    return found


@pytest.mark.slow
def test_nothing_that_was_confirmed_is_lost_and_nothing_committed_comes_back(tmp_path: Path) -> None:
    durable = pika.BasicProperties(delivery_mode=2)
    with serving(tmp_path) as parameters:
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        channel.exchange_declare("orders", "topic", durable=True)
        channel.queue_declare("emails", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind("emails", "orders", "order.*")
        channel.tx_select()
        for number in range(20):
            channel.basic_publish("orders", "order.new", b"%d" % number, durable)
        channel.tx_commit()
        for _ in range(10):
            method, _, _ = channel.basic_get("emails")
            channel.basic_ack(method.delivery_tag)
        channel.tx_commit()
        held = [channel.basic_get("emails")[0].delivery_tag for _ in range(3)]
        assert len(held) == 3
        confirming = connection.channel()
        confirming.confirm_delivery()
        for number in range(20, 100):
            confirming.basic_publish("orders", "order.new", b"%d" % number, durable)
        other = connection.channel()
        other.basic_publish("orders", "nobody.wants", b"-1", durable)
    with pytest.raises(AMQPError):
        connection.process_data_events(30)
    with serving(tmp_path) as parameters:
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        assert drain(channel, "emails") == list(range(10, 100))
        channel.confirm_delivery()
        channel.basic_publish("orders", "order.again", b"100", durable, mandatory=True)
        assert drain(channel, "emails") == [100]
        connection.close()
