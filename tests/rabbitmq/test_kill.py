"""kill -9 of either side under load, again and again: every message arrives.

``TRUNKLINE_KILL_ROUNDS=20 pytest tests/rabbitmq/test_kill.py`` makes twenty rounds of it; RabbitMQ takes some seconds
to start again each time. A program publishes to a queue of RabbitMQ, with confirms; a link moves that into a topic,
another one from the topic into a second queue. In the end both have all that was confirmed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
import trio
from tests.rabbitmq.world import WAIT_S, Users

import trunkline
from rabbitmq_server import RabbitmqServer

pytestmark = [pytest.mark.trio, pytest.mark.slow]

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "2"))
STEP = 2000
"""Messages that are confirmed between two kills, at most."""
SYNC = "mnesia:dump_log(), [ok = disk_log:sync(Log) || Log <- disk_log:all()]."
"""When it has just rewritten its log, RabbitMQ's database of queues writes up to 2 s late: after a kill in that time a
queue that was declared may be no more (two of some 150 first kills)."""


class Trunkline:
    """``trunkline serve`` with the two links, killed and started again on the same data."""

    def __init__(self, directory: Path, users: Users, queue: str) -> None:
        self._directory = directory
        (directory / "trunkline.toml").write_text(
            f"""
            [bridge.rabbitmq.servers.main]
            url = "{users.url}"
            first_pause_s = 0.05
            last_pause_s = 0.5
            [bridge.rabbitmq.inbound.in]
            queue = "{queue}"
            topic = "orders"
            [bridge.rabbitmq.outbound.out]
            topics = ["orders"]
            exchange = ""
            routing_key = "{queue}-back"
            echo = true
            """
        )
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "trunkline.cli", "serve", "--json", "--log-level", "error"]
        command += ["--config", str(self._directory / "trunkline.toml"), "--data", str(self._directory / "data")]
        command += ["--listen", "native=127.0.0.1:0"]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ours)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "trunkline serve ended before it was ready"
        self.url = f"trunkline://{json.loads(line)['addresses']['native']}"

    def kill(self) -> None:
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.kill()
            self.process.wait()  # before all else that may go wrong
            self.process.stdout.close()


class Publisher:
    """Publishes numbers to a queue and waits for each confirm; reconnects, and repeats what was not confirmed."""

    def __init__(self, users: Users, queue: str) -> None:
        self._users = users
        self._queue = queue
        self.confirmed = 0
        self._is_ending = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_ending:
            try:
                with self._users.channel() as channel:
                    channel.confirm_delivery()
                    while not self._is_ending:
                        body = b"%d" % self.confirmed
                        channel.basic_publish("", self._queue, body, pika.BasicProperties(delivery_mode=2))
                        self.confirmed += 1
            except Exception as error:  # pika's own, the system's, or what pika meets in a half-open connection
                print(f"after {self.confirmed} confirmed: {error!r}")
                threading.Event().wait(0.1)  # as a program does before it tries again

    def end(self) -> None:
        self._is_ending = True
        self._thread.join(WAIT_S)


@pytest.fixture
def broker(tmp_path: Path, users: Users, unique: str) -> Iterator[Trunkline]:
    found = Trunkline(tmp_path, users, unique)
    try:
        found.start()
        yield found
    finally:
        found.kill()


async def wait_for(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in a thread
            await trio.sleep(0.01)


async def test_no_message_is_lost_when_either_side_is_killed(
    rabbitmq: RabbitmqServer, users: Users, unique: str, broker: Trunkline
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    await users.declare(unique, f"{unique}-back")
    await trio.to_thread.run_sync(rabbitmq.control, "eval", SYNC)
    publisher = Publisher(users, unique)
    try:
        for number in range(ROUNDS):
            goal = publisher.confirmed + rng.randrange(100, STEP)
            await wait_for(lambda goal=goal: publisher.confirmed >= goal)  # type: ignore[misc]
            if (number + seed) % 2:
                broker.kill()
                await trio.to_thread.run_sync(broker.start)
            else:
                rabbitmq.kill()
                await trio.to_thread.run_sync(rabbitmq.start)
        goal = publisher.confirmed + 100
        await wait_for(lambda: publisher.confirmed >= goal)
    finally:
        publisher.end()
    wanted = set(range(publisher.confirmed))
    back, back_count = await received(users, f"{unique}-back", wanted)
    stored, stored_count = await read(broker.url)
    print(f"{ROUNDS} kills, {len(wanted)} confirmed; {stored_count} records, {back_count} came back")
    assert wanted <= stored
    assert wanted <= back


async def received(users: Users, queue: str, wanted: set[int]) -> tuple[set[int], int]:
    """Numbers from a queue, until all that are wanted were there; and how many messages that were."""
    found: set[int] = set()
    count = 0
    with trio.fail_after(WAIT_S):
        while not wanted <= found:
            waiting = await users.count(queue)
            if not waiting:
                await trio.sleep(0.05)
                continue
            messages = await users.take(queue, waiting)
            count += len(messages)
            found.update(int(body) for _, body, _ in messages)
    return found, count


async def read(url: str) -> tuple[set[int], int]:
    """Numbers from the topic."""
    async with trunkline.connect(url) as bus:
        values = [int(record.value or b"") async for record in bus.read("orders")]
    return set(values), len(values)
