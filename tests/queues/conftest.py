"""A consumer that remembers what it was given, and a broker to give it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import trio

from trunkline import Broker
from trunkline.errors import TrunklineError
from trunkline.filters import RecordFilter
from trunkline.queues import Block, Consumption, Queue, QueueConfig, QueueConsumer, QueueSource
from trunkline.records import ConsumerRecord, decode_all, encode
from trunkline.testing import SimulatedDisk


class Taker(QueueConsumer):
    """Takes what it is given, and does nothing by itself.

    Attributes:
      blocks: all that it was given.
      got: sequence, value and number of earlier deliveries of each record.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.got: list[tuple[int, bytes | None, int]] = []
        self.error: TrunklineError | None = None
        self.failure: Exception | None = None
        self.consumption: Consumption | None = None
        self._changed = trio.Event()

    def deliver(self, blocks: list[Block]) -> None:
        if self.failure is not None:
            raise self.failure
        for block in blocks:
            self.blocks.append(block)
            for number, record in enumerate(block.records()):
                assert record.offset == block.offset + number
                self.got.append((block.sequence + number, record.value, block.deliveries))
        self._changed.set()

    def cancelled(self, error: TrunklineError) -> None:
        self.error = error
        self._changed.set()

    def attach(self, queue: Queue, **options: Any) -> Taker:
        self.consumption = queue.consume(self, **options)
        return self

    @property
    def hold(self) -> Consumption:
        assert self.consumption is not None
        return self.consumption

    @property
    def values(self) -> list[bytes | None]:
        return [value for _, value, _ in self.got]

    async def wait(self, number: int) -> Taker:
        """Wait until it was given so many records in all."""
        with trio.fail_after(30):
            while len(self.got) < number:
                self._changed = trio.Event()
                await self._changed.wait()
        return self

    def settle(self, *sequences: int) -> int:
        return self.hold.settle([(sequence, sequence + 1) for sequence in sequences])


class Told:
    """An append receiver."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.error: TrunklineError | None = None

    def append_done(self, token: object, offset: int) -> None:
        self.event.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.event.set()

    async def wait(self) -> None:
        with trio.fail_after(30):
            await self.event.wait()
        assert self.error is None


class QueueBench:
    """What tests of queues do with a broker."""

    def taker(self, queue: Queue, **options: Any) -> Taker:
        """A consumer of the queue."""
        return Taker().attach(queue, **options)

    def detached(self, queue: Queue) -> Taker:
        """One that gets records only when it asks."""
        taker = Taker()
        taker.consumption = queue.taker(taker)
        return taker

    def config(
        self,
        topic: str,
        pattern: str = "#",
        syntax: Literal["amqp", "mqtt"] = "amqp",
        *,
        headers: dict[str, str] | None = None,
        start: Any = "latest",
        **settings: Any,
    ) -> QueueConfig:
        """Of a queue that takes from one topic."""
        filter = RecordFilter(pattern, syntax, headers or {})
        return QueueConfig(sources=(QueueSource(topic, filter, start),), **settings)

    def decoded(self, batch: bytes) -> list[tuple[int, bytes | None]]:
        """Offsets and values."""
        return [(record.offset, record.value) for record in decode_all(batch)]

    @contextmanager
    def power_failure(self, disk: SimulatedDisk) -> Iterator[None]:
        """The block ends with the broker cut off; whatever it raises then is no matter."""
        try:
            yield
        except OSError:
            disk.forget_failures()

    async def all_of(self, broker: Broker, topic: str) -> list[ConsumerRecord]:
        """What a topic holds now."""
        return [record async for record in broker.read(topic, follow=False)]

    async def rounds(self, broker: Broker) -> None:
        """Let everything happen that is to happen soon."""
        for _ in range(4):
            done = trio.Event()
            broker.views.rounds.call_soon(done.set)
            await done.wait()

    async def settle_all(self, taker: Taker, number: int) -> None:
        """Settle each record until there were so many."""
        settled = 0
        while settled < number:
            await taker.wait(settled + 1)
            for sequence, _, _ in taker.got[settled:]:
                settled += taker.settle(sequence)

    async def durable(self, taker: Taker) -> None:
        """Wait until what it has settled is durable."""
        told = Told()
        taker.hold.when_durable(told, None)
        await told.wait()

    async def publish(self, broker: Broker, topic: str, values: Iterable[bytes], **options: Any) -> None:
        """Append one opaque batch to the first partition."""
        told = Told()
        batch = encode([(1000, None, value, ()) for value in values], **options)
        (await broker.ensure_topic(topic)).partitions[0].stage_batch(batch, told)
        await told.wait()


@pytest.fixture(scope="session")
def bench() -> QueueBench:
    return QueueBench()
