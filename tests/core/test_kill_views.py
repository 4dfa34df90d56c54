"""kill -9 of the broker and of consumers under load: every record is accounted for in a queue and in a group.

Consumers are processes of their own (``view_consumer.py``); they and the broker are killed in random order.
``TRUNKLINE_KILL_ROUNDS=100 pytest tests/core/test_kill_views.py`` makes a hundred rounds of it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from tests.core import view_consumer

import trunkline
from trunkline.demo.broker_process import BrokerProcess

pytestmark = [pytest.mark.trio, pytest.mark.slow]

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "6"))
CONSUMERS = 3
PARTITIONS = 4
WAIT_S = 60.0
NAME = "crew"
TOPIC = view_consumer.TOPIC

Place = tuple[int, int]
"""Partition and offset."""


class Journal:
    """What all consumers have said: when each record was last seen, and when it was first done."""

    def __init__(self) -> None:
        self.seen: dict[Place, int] = {}
        self.done: dict[Place, int] = {}
        self._grown = trio.Event()  # one of the two has

    def add(self, line: bytes) -> None:
        kind, partition, offset, when = line.split()
        place = int(partition), int(offset)
        if kind == b"seen":
            self.seen[place] = max(int(when), self.seen.get(place, 0))
        else:
            self.done.setdefault(place, int(when))
        self._grown.set()

    async def wait_done(self, count: int) -> None:
        while len(self.done) < count:
            self._grown = trio.Event()
            await self._grown.wait()

    async def wait_seen(self, places: set[Place]) -> None:
        while not places <= self.seen.keys():
            self._grown = trio.Event()
            await self._grown.wait()

    @property
    def seen_again(self) -> list[Place]:
        """Records that somebody was given after somebody had been told that they are acknowledged for good."""
        return [place for place, when in self.done.items() if self.seen[place] > when]


class Consumers:
    """Consumer processes; end them with :meth:`end`."""

    def __init__(self, view: str, url: str, directory: Path, journal: Journal, nursery: trio.Nursery) -> None:
        self._command = [sys.executable, view_consumer.__file__, view, url, NAME]
        self._log = directory / "consumers.log"
        self._journal = journal
        self._nursery = nursery
        self._running: list[trio.Process] = []

    async def start_one(self) -> None:
        with self._log.open("ab") as log:
            process = await trio.lowlevel.open_process(self._command, stdout=subprocess.PIPE, stderr=log)
        self._running.append(process)
        self._nursery.start_soon(self._listen, process)

    async def _listen(self, process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._journal.add(line)

    async def kill_one(self, rng: random.Random) -> None:
        process = self._running.pop(rng.randrange(len(self._running)))
        process.kill()
        assert await process.wait() == -9, f"a consumer had ended by itself: {self.last_words}"

    async def end(self) -> None:
        for process in self._running:
            process.kill()
            await process.wait()

    @property
    def last_words(self) -> str:
        return self._log.read_text()[-3000:]


class Publisher:
    """Publishes until told to finish; ``acknowledged``: where each record went."""

    def __init__(self) -> None:
        self.acknowledged: set[Place] = set()
        self.is_finishing = False

    async def run(self, url: str) -> None:
        async with trunkline.connect(url) as bus:
            while not self.is_finishing:
                sent = [await bus.send(TOPIC, b"x" * 50, partition=number % PARTITIONS) for number in range(100)]
                for delivery in sent:
                    where = await delivery.wait()
                    self.acknowledged.add((where.partition, where.offset))


async def wait_all_acknowledged(view: str, bus: trunkline.Bus) -> None:
    """Until the broker knows of nothing that is left to do. A consumer may be killed before it can say ``done``."""
    while True:
        if view == "queue":
            statistics = (await bus.queue(NAME).describe()).statistics
            left = statistics["ready"] + statistics["unacked"]
        else:
            left = sum((await bus.group(NAME).lag()).values())
        if not left:
            return


async def kill_and_restart(broker: BrokerProcess, consumers: Consumers, rng: random.Random) -> None:
    if rng.random() < 0.5:
        broker.kill()
        assert await broker.wait_ended() == -9
        await broker.start()
    else:
        await consumers.kill_one(rng)
        await consumers.start_one()


@pytest.mark.parametrize("store", ["segments", "sqlite"])
@pytest.mark.parametrize("view", ["queue", "group"])
async def test_every_record_is_accounted_for(tmp_path: Path, view: str, store: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    publisher, journal = Publisher(), Journal()
    rounds = ROUNDS if store == "segments" else -(-ROUNDS // 3)
    async with BrokerProcess.open(tmp_path / "data", store) as broker, trio.open_nursery() as nursery:
        async with trunkline.connect(broker.url) as bus:
            await bus.create_topic(TOPIC, partitions=PARTITIONS)
            if view == "queue":
                await bus.create_queue(NAME, sources=[TOPIC])
        consumers = Consumers(view, broker.url, tmp_path, journal, nursery)
        try:
            for _ in range(CONSUMERS):
                await consumers.start_one()
            async with trio.open_nursery() as publishing:
                publishing.start_soon(publisher.run, broker.url)
                for _ in range(rounds):
                    with trio.fail_after(WAIT_S):
                        await journal.wait_done(len(journal.done) + rng.randrange(1, 3000))
                    await kill_and_restart(broker, consumers, rng)
                publisher.is_finishing = True
            async with trunkline.connect(broker.url) as bus:
                written = {(record.partition, record.offset) async for record in bus.read(TOPIC)}
                with trio.fail_after(WAIT_S):
                    await journal.wait_seen(written)
                    await wait_all_acknowledged(view, bus)
        except* trio.TooSlowError:
            raise AssertionError(f"nobody gets on: {len(journal.done)} are done; {consumers.last_words}") from None
        finally:
            with trio.CancelScope(shield=True):
                await consumers.end()
    assert publisher.acknowledged <= written
    assert journal.done.keys() <= journal.seen.keys() == written
    assert journal.seen_again == []
    print(f"{rounds} kills, {len(publisher.acknowledged)} acknowledged, {len(written)} consumed")
