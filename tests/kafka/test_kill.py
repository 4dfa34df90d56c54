"""The broker is killed under Kafka clients: what was acknowledged is there, once, in order."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

WAIT_S = 60.0
RECORDS = 3000
KILLS = 2


def free_port() -> int:
    """One that the system gives to no client: else one that looks for the killed broker could take its place."""
    for port in random.Random().sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("there is no port")


@contextmanager
def serving(data: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A broker in a process of its own, from when it is ready; killed in the end."""
    command = [
        sys.executable,
        "-m",
        "trunkline.cli",
        "serve",
        "--data",
        str(data),
        "--listen",
        f"kafka=127.0.0.1:{port}",
    ]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}  # not a test's
    command += ["--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_an_idempotent_producer_loses_and_doubles_nothing_when_the_broker_is_killed(tmp_path: Path) -> None:
    port = free_port()
    options = {"bootstrap.servers": f"127.0.0.1:{port}"}
    acknowledged: list[int] = []
    failed: list[Any] = []

    def note(error: Any, message: Any) -> None:
        if error is None:
            acknowledged.append(int(message.value()))
        else:
            failed.append(error)

    producer = confluent_kafka.Producer(
        {**options, "enable.idempotence": True, "linger.ms": 0, "batch.num.messages": 20,
         "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20}
    )  # fmt: skip
    sent = 0
    for kill in range(KILLS + 1):
        with serving(tmp_path, port):
            end = RECORDS * (kill + 1) // (KILLS + 1)
            while sent < end:
                producer.produce("orders", b"%d" % sent, partition=0, on_delivery=note)
                sent += 1
            while len(acknowledged) < end - 500 * (kill < KILLS):  # then there is much under way
                assert producer.poll(WAIT_S) or len(acknowledged) >= end - 500
            if kill == KILLS:
                assert producer.flush(WAIT_S) == 0
                found = read(options)
    assert not failed
    assert acknowledged == list(range(RECORDS))
    assert found == acknowledged


def read(options: dict[str, str]) -> list[int]:
    consumer = confluent_kafka.Consumer({**options, "group.id": "check"})
    partition = confluent_kafka.TopicPartition("orders", 0, 0)
    _, end = consumer.get_watermark_offsets(partition, timeout=WAIT_S)
    consumer.assign([partition])
    found: list[int] = []
    while len(found) < end:
        for message in consumer.consume(1000, 5.0):
            assert message.error() is None
            found.append(int(message.value()))
    consumer.close()
    return found
