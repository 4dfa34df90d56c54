"""Transactions through crash after crash: a consume-transform-produce job on a simulated disk, in process.

Workers share a job: each takes the next inputs past the group's committed offset, writes for each of them a record to
both partitions of another topic, and commits the new offset, all in one transaction. Some abort, some leave their
transaction open and go on as if they were alone, others come back under the same transactional id meanwhile, and the
power goes at any change of the disk. Whenever nothing is undecided, both partitions show each input below the committed
offset exactly once, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import ConcurrentTransactions, ProducerFenced, TrunklineError
from trunkline.groups import OffsetAndMetadata
from trunkline.log import TopicPartition
from trunkline.pending import WaitForAppends
from trunkline.records import ConsumerRecord, encode
from trunkline.testing import SimulatedDisk
from trunkline.transactions.state import ProducerIdentity

T = TypeVar("T")

WAIT_S = 60.0
INPUT = TopicPartition("in", 0)
OUTPUTS = (TopicPartition("out", 0), TopicPartition("out", 1))
TIMEOUT_MS = 60_000
PATIENCE = 100
SHARE = 4  # one in so many of the rounds of crashes: each has several transactions in it


class Worker:
    """One life of a transactional producer, from its initialisation to its end or its fencing."""

    def __init__(self, broker: Broker, name: str, random: Random) -> None:
        self.broker = broker
        self.name = name
        self.random = random
        self.producer = ProducerIdentity(-1, -1)
        self._sequences = dict.fromkeys(OUTPUTS, 0)

    async def begin(self) -> None:
        self.producer = await self._patiently(lambda: self.broker.transactions.initialise(self.name, TIMEOUT_MS))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """As clients do while the last transaction is being ended; a log that has stopped may keep it from ending."""
        for _ in range(PATIENCE):
            with suppress(ConcurrentTransactions):
                return await call()
            await trio.sleep(0.01)
        return await call()

    async def work(self, outcome: str) -> None:
        """One transaction: ``commit``, ``abort``, or ``leave`` it open."""
        transactions = self.broker.transactions
        inputs = await self._next_inputs()
        if not inputs:
            return
        where = OUTPUTS if self.random.random() < 0.5 else OUTPUTS[::-1]
        for place in where:
            await self._patiently(partial(transactions.add_partitions, self.name, self.producer, [place]))
            await self._write(place, inputs)
        await self._patiently(lambda: transactions.add_group(self.name, self.producer, "job"))
        waiting = WaitForAppends()
        offsets = {INPUT: OffsetAndMetadata(inputs[-1].offset + 1)}
        transactions.stage_offsets(self.name, self.producer, "job", offsets, receiver=waiting.one_more())
        await waiting.wait()
        if outcome != "leave":
            await self._patiently(lambda: transactions.end(self.name, self.producer, is_commit=outcome == "commit"))

    async def _next_inputs(self) -> list[ConsumerRecord]:
        if self.broker.groups.unstable("job"):
            raise ConcurrentTransactions("where the job stands is not decided; a client would ask again")
        committed = self.broker.groups.committed("job").get(INPUT)
        start = 0 if committed is None else committed.offset
        most = self.random.randint(1, 4)
        records: list[ConsumerRecord] = []
        async for record in self.broker.read("in", start=start, follow=False):
            records.append(record)
            if len(records) == most:
                break
        return records

    async def _write(self, place: TopicPartition, inputs: list[ConsumerRecord]) -> None:
        batch = encode(
            [(1, None, record.value, ()) for record in inputs],
            producer_id=self.producer.producer_id,
            producer_epoch=self.producer.epoch,
            base_sequence=self._sequences[place],
            is_transactional=True,
        )
        self._sequences[place] += len(inputs)
        waiting = WaitForAppends()
        self.broker.transactions.check_append(self.name, self.producer, *place)
        self.broker.partition(*place).stage_batch(batch, waiting.one_more(), in_transaction=True)
        await waiting.wait()


class Simulation:
    """One disk, and the job on it."""

    def __init__(self, directory: Path, seed: int, store: str) -> None:
        self.random = Random(seed)
        self.disk = SimulatedDisk(seed, nowait_misses=0.2)
        self._directory = directory
        self._store = store
        self._clock = count(1_000_000)
        self._is_made = False
        self._values = count()
        self._published = 0
        self._lock = trio.Lock()  # the job's inputs belong to one worker at a time, as a group's partitions do

    async def run(self, crashes: int) -> None:
        for _ in range(crashes):
            await self._live(will_crash=True)
            self.disk.crash()
        await self._live(will_crash=False)

    async def _live(self, *, will_crash: bool) -> None:
        with suppress(OSError):
            async with self._open() as broker:
                await self._make(broker)
                if self._is_made:
                    await self._check(broker)
                    if will_crash:
                        self.disk.crash_after(self.random.randint(1, 150))
                    try:
                        with trio.fail_after(WAIT_S):
                            await self._work(broker, will_crash=will_crash)
                    finally:
                        if will_crash:
                            self.disk.cut_power()
            return
        assert will_crash

    def _open(self) -> AbstractAsyncContextManager[Broker]:
        return open_broker(
            self._directory,
            store=self._store,
            config=BrokerConfig(listen={}, plugins=[]),
            disk=self.disk,
            now_ms=lambda: next(self._clock),
            rng=Random(self.random.random()),
        )

    async def _make(self, broker: Broker) -> None:
        if "out" not in broker.topics:
            for name, partitions in (("in", 1), ("out", 2)):
                await broker.ensure_topic(name, partitions=partitions, settings={"segment.bytes": "4096"})
        self._is_made = True
        for _ in range(self.random.randint(2, 8)):
            await broker.publish("in", b"%d" % next(self._values))
            self._published += 1

    async def _work(self, broker: Broker, *, will_crash: bool) -> None:
        if not will_crash:
            worker = Worker(broker, "w0", self.random)
            await worker.begin()
            while (broker.groups.committed("job").get(INPUT) or OffsetAndMetadata(0)).offset < self._end(broker):
                await worker.work("commit")
            await self._check(broker, is_all=True)
            return
        async with trio.open_nursery() as nursery:
            for name in ("w0", "w1", "w0"):
                nursery.start_soon(self._job, broker, name)

    @staticmethod
    def _end(broker: Broker) -> int:
        return broker.partition(*INPUT).high_watermark

    async def _job(self, broker: Broker, name: str) -> None:
        with suppress(OSError, TrunklineError):
            worker = Worker(broker, name, self.random)
            await worker.begin()
            for _ in range(self.random.randint(1, 6)):
                outcome = self.random.choice(["commit", "commit", "commit", "abort", "leave"])
                async with self._lock:
                    try:
                        await worker.work(outcome)
                    except ProducerFenced:
                        await worker.begin()
                    else:
                        if outcome == "leave":
                            await worker.begin()

    async def _check(self, broker: Broker, *, is_all: bool = False) -> None:
        """Wait until nothing is being ended, abort what was left open, and look."""
        for each in broker.transactions.list():
            await Worker(broker, each.transactional_id, self.random).begin()
        committed = broker.groups.committed("job").get(INPUT)
        end = 0 if committed is None else committed.offset
        expected = [record.value async for record in broker.read("in", follow=False) if record.offset < end]
        for place in OUTPUTS:
            partition = broker.partition(*place)
            with trio.fail_after(WAIT_S):
                await partition.wait_past(partition.acknowledged_offset - 1)
            found = [record.value async for record in broker.read("out", partitions=[place.partition], follow=False)]
            assert found == expected, f"{place}: each input below the committed offset {end} exactly once"
        if is_all:
            assert end == self._end(broker)
            assert len(set(expected)) == len(expected) >= self._published


@pytest.mark.slow
@pytest.mark.parametrize("store", ["segments"])
def test_every_input_has_its_effect_once_through_crashes(
    run_crashes: Callable[[Callable[[int, int], None]], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    store: str,
) -> None:
    caplog.set_level("CRITICAL", logger="trunkline")  # thousands of crashes have much to say
    seen = 0

    def run(seed: int, crashes: int) -> None:
        nonlocal seen
        seen += 1
        if seen % SHARE != 1:
            return
        directory = tmp_path / str(seen)
        directory.mkdir()
        trio.run(Simulation(directory, seed, store).run, crashes)

    run_crashes(run)
