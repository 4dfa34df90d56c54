"""The broker is killed and stopped under clients of all doors at once: every acknowledged message is at every door.

Five publishers and seven consumers share one topic (``clients.py``). The broker is killed (SIGKILL), or every third
time stopped (SIGTERM), when all of them have got on since it was started, so each of them has come back before the
next time. In the end every consumer, or every group or queue of them, has to have all that any publisher was told is
safe.

``TRUNKLINE_KILL_ROUNDS=30 pytest tests/together/test_kill_all_doors.py`` kills it thirty times.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.together import clients
from tests.together.clients import Addresses, Client, Consumer, Publisher

import trunkline
from trunkline.demo.broker_process import free_addresses

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "3"))
WAIT_S = 60.0
DOORS = ("native", "mqtt", "kafka", "amqp")
CONFIG = """
[door.mqtt]
partitions = 3
"""


class Broker:
    """``trunkline serve`` in a process of its own, at the same addresses after each start."""

    def __init__(self, directory: Path) -> None:
        self.addresses = dict(zip(DOORS, free_addresses(len(DOORS)), strict=True))
        config = directory / "trunkline.toml"
        config.write_text(CONFIG)
        self._command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(directory / "data")]
        self._command += ["--config", str(config), "--log-level", "error"]
        self._command += [f"--listen={door}={address}" for door, address in self.addresses.items()]
        self.log = directory / "broker.log"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"ready "), self.log.read_text()

    def kill(self) -> None:
        self._process.kill()
        assert self._ended() == -9, self.log.read_text()

    def stop(self) -> None:
        """With everybody busy: in order, without a word in the log."""
        self._process.terminate()
        assert self._ended() == 0, self.log.read_text()
        assert self.log.read_text() == ""

    def _ended(self) -> int:
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait(WAIT_S)

    @property
    def places(self) -> Addresses:
        found = {}
        for door, address in self.addresses.items():
            host, _, port = address.rpartition(":")
            found[door] = host, int(port)
        return found


@contextmanager
def running(directory: Path) -> Iterator[Broker]:
    broker = Broker(directory)
    broker.start()
    try:
        yield broker
    finally:
        with suppress(AssertionError):
            broker.kill()


def wait_until(condition: Callable[[], object], everybody: Iterable[Client], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        for client in everybody:
            if client.failure is not None:
                raise client.failure
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def wait_progress(everybody: list[Client], rng: random.Random) -> None:
    """Until each of them has got on; groups of consumers share, so a member may be without a part for a while."""
    before = {client.name: client.progress for client in everybody}
    wanted = rng.randrange(1, 60)

    def are_standing() -> list[str]:
        return [client.name for client in everybody if client.progress < before[client.name] + wanted]

    wait_until(lambda: not are_standing(), everybody, lambda: f"do not get on: {are_standing()}")


def wait_received(name: str, team: list[Consumer], values: set[bytes], everybody: list[Client]) -> None:
    def lacking() -> list[bytes]:
        return sorted(values - received(team).keys())

    wait_until(lambda: not lacking(), everybody, lambda: f"{name} lacks {lacking()[:20]}")


def received(consumers: Iterable[Consumer]) -> Counter[bytes]:
    return sum((consumer.so_far() for consumer in consumers), Counter())


@pytest.fixture
def untidy_libraries(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Some clients leave sockets for the garbage collector when their broker is killed, or log them."""
    for library in ("pika", "kafka"):
        caplog.set_level(logging.CRITICAL, library)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("untidy_libraries")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_door_has_every_message_that_was_acknowledged_at_any(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with running(tmp_path) as broker:
        places = broker.places
        clients.declare(places)
        publishers: list[Publisher] = [
            clients.Device(places),
            clients.CarefulDevice(places),
            clients.AmqpPublisher(places),
            clients.KafkaPublisher(places),
            clients.NativePublisher(places),
        ]
        subscribers = [clients.Subscriber(places), clients.CarefulSubscriber(places)]
        reader = clients.NativeReader(places)
        teams: dict[str, list[Consumer]] = {
            "MQTT, QoS 1": [subscribers[0]],
            "MQTT, QoS 2": [subscribers[1]],
            "native reader": [reader],
            "Kafka group": [clients.ConfluentMember(places), clients.KafkaPythonMember(places)],
            "queue": [clients.AmqpWorker(places), clients.NativeWorker(places)],
        }
        consumers = [consumer for team in teams.values() for consumer in team]
        everybody: list[Client] = [*publishers, *consumers]
        try:
            for consumer in consumers:
                consumer.start()
            for subscriber in subscribers:
                assert subscriber.has_subscribed.wait(WAIT_S)
            for publisher in publishers:
                publisher.start()
            for number in range(ROUNDS):
                wait_progress(everybody, rng)
                if number % 3 == 1:
                    broker.stop()
                else:
                    broker.kill()
                broker.start()
            wait_progress(everybody, rng)
            for publisher in publishers:
                publisher.stop()
            acknowledged = set().union(*(publisher.acknowledged for publisher in publishers))
            for name, team in teams.items():
                wait_received(name, team, acknowledged, everybody)
            with trunkline.connect_blocking(f"trunkline://{broker.addresses['native']}") as bus:
                stored = Counter(record.value for record in bus.read(clients.TOPIC))
            wait_until(lambda: reader.so_far().total() >= stored.total(), everybody, lambda: "the reader stands")
        finally:
            for client in everybody:
                client.stop()
    assert acknowledged <= stored.keys()
    assert reader.received == stored
    for publisher in publishers:
        if publisher.is_exactly_once:
            assert [value for value in publisher.acknowledged if stored[value] != 1] == []
    careful = subscribers[1].received
    assert [value for value in careful if value.startswith(b"device-2") and careful[value] != 1] == []
    print(f"{ROUNDS} ends, {len(acknowledged)} acknowledged, {stored.total()} stored")
