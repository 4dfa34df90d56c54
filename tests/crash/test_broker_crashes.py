"""A whole broker in process, without sockets, through crash after crash on a simulated disk.

Idempotent producers send batches and send them again until they are acknowledged, others publish single records once,
somebody makes, alters and deletes topics; the power goes at any change of the disk. After each start everything
acknowledged is there at its offset, no record is there twice, and producers find their order kept.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import StoreFull, TrunklineError
from trunkline.records import ConsumerRecord, encode
from trunkline.testing import SimulatedDisk

PARTITIONS = 2
WAIT_S = 30.0
MADE_AND_DELETED = ("a", "b", "c")


class Answers:
    """An append receiver that counts down to its last answer."""

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.errors: list[TrunklineError] = []
        self._expected = 0
        self._done = trio.Event()

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, int)
        self.offsets[token] = offset
        self._count()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.errors.append(error)
        self._count()

    def _count(self) -> None:
        self._expected -= 1
        if not self._expected:
            self._done.set()

    async def wait(self, number: int) -> None:
        self._expected += number
        if self._expected > 0:
            await self._done.wait()


class Producer:
    """An idempotent producer of one partition. ``batches`` are its values, by sequence; it outlives the broker."""

    def __init__(self, number: int, partition: int) -> None:
        self.number = number
        self.partition = partition
        self.sent: list[list[bytes]] = []
        self.acknowledged = 0

    def batch(self, index: int, timestamp: int) -> bytes:
        return encode(
            [(timestamp, None, value, ()) for value in self.sent[index]],
            producer_id=self.number,
            producer_epoch=0,
            base_sequence=sum(map(len, self.sent[:index])),
        )


class Simulation:
    """One disk and what is known of it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = Random(seed)
        self.disk = SimulatedDisk(seed, nowait_misses=0.2)
        self._directory = directory
        self._clock = count(1_000_000)
        self._values = count()
        self._producers = [Producer(number, number % PARTITIONS) for number in range(3)]
        self._acknowledged: dict[tuple[int, int], bytes] = {}
        self._published: set[bytes] = set()
        self._is_made = False
        self._topics: dict[str, set[str]] = {name: {"gone"} for name in MADE_AND_DELETED}  # what each may be

    async def run(self, crashes: int) -> None:
        for _ in range(crashes):
            await self._live(will_crash=True)
            self.disk.capacity_bytes = None
            self.disk.crash()
        await self._live(will_crash=False)
        for producer in self._producers:
            assert producer.acknowledged == len(producer.sent), "without a crash everything is acknowledged"

    # -- one life of a broker ----------------------------------------------------------------------

    async def _live(self, *, will_crash: bool) -> None:
        if will_crash and self.random.random() < 0.1:
            self.disk.crash_after(self.random.randint(1, 30))  # while it starts
        with suppress(OSError):
            async with self._open() as broker:
                await self._check(broker)
                if will_crash:
                    self.disk.crash_after(self.random.randint(1, 100))
                    if self.random.random() < 0.15:
                        self.disk.fail("sync", errno.EIO, after=self.random.randint(0, 8), name=".log")
                try:
                    await self._work(broker)
                finally:
                    if will_crash and self.random.random() < 0.9:
                        self.disk.cut_power()
            return
        assert will_crash

    def _open(self) -> AbstractAsyncContextManager[Broker]:
        return open_broker(
            self._directory,
            config=BrokerConfig(listen={}, plugins=[]),
            disk=self.disk,
            now_ms=lambda: next(self._clock),
            rng=Random(self.random.random()),
        )

    async def _work(self, broker: Broker) -> None:
        if not self._is_made:
            try:
                await broker.create_topic("orders", partitions=PARTITIONS, settings={"segment.bytes": "2048"})
            except (OSError, TrunklineError):
                return
            self._is_made = True
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for producer in self._producers:
                    nursery.start_soon(self._produce, broker, producer)
                nursery.start_soon(self._publish, broker)
                nursery.start_soon(self._administrate, broker)

    async def _produce(self, broker: Broker, producer: Producer) -> None:
        for _ in range(self.random.randint(0, 3)):
            producer.sent += [self._some_values(producer) for _ in range(self.random.randint(1, 3))]
        partition = broker.partition("orders", producer.partition)
        while producer.acknowledged < len(producer.sent):
            first = producer.acknowledged
            answers = Answers()
            staged = 0
            try:
                for index in range(first, min(first + 3, len(producer.sent))):
                    partition.stage_batch(producer.batch(index, next(self._clock)), answers, index)
                    staged += 1
            except TrunklineError:
                if not staged:
                    return
            await answers.wait(staged)
            for index, offset in sorted(answers.offsets.items()):
                assert index == producer.acknowledged, "acknowledged in order"
                producer.acknowledged += 1
                for number, value in enumerate(producer.sent[producer.acknowledged - 1]):
                    self._acknowledge(producer.partition, offset + number, value)
            if any(not isinstance(error, StoreFull) for error in answers.errors):
                return
            if answers.errors:
                self.disk.capacity_bytes = None

    def _some_values(self, producer: Producer) -> list[bytes]:
        size = self.random.randint(0, 300)
        return [
            b"%d:%d:" % (producer.number, next(self._values)) + bytes(size) for _ in range(self.random.randint(1, 3))
        ]

    async def _publish(self, broker: Broker) -> None:
        for _ in range(self.random.randint(0, 8)):
            value = b"x:%d:" % next(self._values)
            self._published.add(value)
            partition = self.random.randrange(PARTITIONS)
            if self.random.random() < 0.2:
                self.disk.capacity_bytes = self.disk.used_bytes + self.random.randint(0, 2000)
            try:
                placed = await broker.publish("orders", value, partition=partition)
            except StoreFull:
                self._published.remove(value)
                self.disk.capacity_bytes = None
            except TrunklineError:
                return
            else:
                self._acknowledge(partition, placed.offset, value)

    def _acknowledge(self, partition: int, offset: int, value: bytes) -> None:
        assert self._acknowledged.setdefault((partition, offset), value) == value

    async def _administrate(self, broker: Broker) -> None:
        for _ in range(self.random.randint(0, 3)):
            name = self.random.choice(MADE_AND_DELETED)
            size = str(self.random.randint(1000, 9999))
            topic = broker.topics.get(name)
            step: Callable[[], Awaitable[object]]
            if topic is None:
                step, after = partial(broker.create_topic, name, settings={"max.message.bytes": size}), f"{size}/1"
            elif (choice := self.random.random()) < 0.5:
                step, after = partial(broker.delete_topic, name), "gone"
            elif choice < 0.75:
                count = len(topic.partitions)
                step, after = partial(broker.alter_topic, name, {"max.message.bytes": size}), f"{size}/{count}"
            else:
                count = len(topic.partitions) + 1
                after = f"{topic.settings.max_message_bytes}/{count}"
                step = partial(broker.alter_topic, name, partitions=count)
            self._topics[name].add(after)
            try:
                await step()
            except (OSError, TrunklineError):
                return
            self._topics[name] = {after}

    # -- after each start --------------------------------------------------------------------------

    async def _check(self, broker: Broker) -> None:
        for name, allowed in self._topics.items():
            topic = broker.topics.get(name)
            found = "gone" if topic is None else f"{topic.settings.max_message_bytes}/{len(topic.partitions)}"
            assert found in allowed, f"topic {name} is {found}, not {allowed}"
            self._topics[name] = {found}
        assert "orders" in broker.topics or not self._is_made, "a topic that was made is there"
        self._is_made = "orders" in broker.topics
        if self._is_made:
            records = [record async for record in broker.read("orders", follow=False)]
            self._check_records(records)

    def _check_records(self, records: list[ConsumerRecord]) -> None:
        found = {(record.partition, record.offset): record.value or b"" for record in records}
        assert len(found) == len(records)
        lost = {place: value for place, value in self._acknowledged.items() if found.get(place) != value}
        assert not lost, "everything acknowledged is there"
        for partition in range(PARTITIONS):
            offsets = [record.offset for record in records if record.partition == partition]
            assert offsets == list(range(len(offsets))), "offsets are dense"
        values = list(found.values())
        assert len(set(values)) == len(values), "nothing is there twice"
        for producer in self._producers:
            own = [record.value for record in records if (record.value or b"").startswith(b"%d:" % producer.number)]
            assert own == list(self._flat(producer))[: len(own)], "a producer's records are in order, without a gap"
        produced = {value for producer in self._producers for value in self._flat(producer)}
        assert set(values) <= produced | self._published, "nothing is invented"

    def _flat(self, producer: Producer) -> Iterator[bytes]:
        return (value for values in producer.sent for value in values)


@pytest.mark.slow
def test_a_broker_survives_crashes(
    run_crashes: Callable[[Callable[[int, int], None]], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trunkline")  # thousands of crashes have much to say

    def run(seed: int, crashes: int) -> None:
        trio.run(Simulation(tmp_path / str(seed), seed).run, crashes)

    run_crashes(run)
