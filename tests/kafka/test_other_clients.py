"""Clients of another make, unmodified: kafkajs on Node.js, and Faust on aiokafka."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import admin
from tests.npm import installed, program

from trunkline.testing.background import BackgroundBroker

WAIT_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with BackgroundBroker(store="segments", listen={"kafka": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["kafka"]
        yield f"{host}:{port}"


@pytest.fixture(scope="session")
def kafkajs(pytestconfig: pytest.Config) -> Path:
    """A directory with kafkajs in its node_modules."""
    return installed(pytestconfig, "kafkajs", "kafkajs@2", "kafkajs-snappy@1")


def test_kafkajs_produces_consumes_transacts_and_administrates(kafkajs: Path, server: str) -> None:
    script = Path(__file__).with_name("kafkajs_client.mjs")
    done = subprocess.run(
        [program("node"), str(script), str(kafkajs), server],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "retention": "9000000",
        "partitions": 4,
        "compressions": {name: f"a 500 {name},b 500 {name},c 500 {name}" for name in ("None", "GZIP", "Snappy")},
        "tooLarge": "MESSAGE_TOO_LARGE",
        "decided": "a0,b0,a2,b2",
        "moved": "2",
        "shared": "0,1,2,3",
        "reset": 100,
        "start": "1",
        "isGone": True,
    }


def test_faust_counts_words_exactly_once(server: str, tmp_path: Path) -> None:
    client = admin.AdminClient({"bootstrap.servers": server})
    for made in client.create_topics([admin.NewTopic(name, 2, 1) for name in ("words", "counted")]).values():
        made.result(WAIT_S)
    producer = confluent_kafka.Producer({"bootstrap.servers": server})
    words = [b"w%d" % (number % 7) for number in range(100)]
    for word in words:
        producer.produce("words", word, key=word)
    assert producer.flush(WAIT_S) == 0
    script = Path(__file__).with_name("faust_words.py")
    command = [sys.executable, str(script), server, "worker", "--without-web", "-l", "warn"]
    log = tmp_path / "worker.log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path) as worker:
        try:
            found = read_committed(server, "counted", len(words), worker)
        except AssertionError as error:
            error.add_note(log.read_text())
            raise
        finally:
            worker.terminate()
    assert {word: max(counts) for word, counts in found.items()} == Counter(words)
    assert all(counts == list(range(1, len(counts) + 1)) for counts in found.values())


def read_committed(server: str, topic: str, count: int, worker: subprocess.Popen[bytes]) -> dict[bytes, list[int]]:
    """So many records that are committed: the values of each key, in order. Given up if the worker ends."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": server,
            "group.id": "check",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found: dict[bytes, list[int]] = {}
    end = time.monotonic() + WAIT_S
    while sum(map(len, found.values())) < count:
        assert worker.poll() is None, "the worker has ended"
        assert time.monotonic() < end, f"only {found} came"
        for message in consumer.consume(count, 0.2):
            assert message.error() is None
            found.setdefault(message.key(), []).append(int(message.value()))
    consumer.close()
    return found
