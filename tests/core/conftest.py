"""A partition with rounds driven by hand, a broker on a scripted store, and who waits for appends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from trunkline.broker import Broker, open_broker
from trunkline.errors import TrunklineError
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.plugins import PluginHost
from trunkline.records import Record, decode_all, encode
from trunkline.rounds import Rounds
from trunkline.settings import TopicSettings
from trunkline.testing.scripted_store import ScriptedStore
from trunkline.topic import Topic

NAME = TopicPartition("orders", 0)


class Receipts:
    """An append receiver that remembers, in order, what it was told."""

    def __init__(self) -> None:
        self.done: list[tuple[object, int]] = []
        self.failed: list[tuple[object, TrunklineError]] = []

    def append_done(self, token: object, offset: int) -> None:
        self.done.append((token, offset))

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.failed.append((token, error))


class PartitionBench:
    """A partition whose rounds and commits happen when the test says so; nothing runs by itself."""

    def __init__(self, store: ScriptedStore, settings: Mapping[str, str], now_ms: Callable[[], int]) -> None:
        self.store = store
        self.wakes = 0
        self.spawned: list[tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]] = []
        self.rounds = Rounds(self._wake, 1000)
        self.topic = Topic("orders", "id", TopicSettings.parse(settings), random.Random(1))
        self.partition = Partition(
            self.topic,
            0,
            store.open(NAME, self.topic.settings),
            is_blocking=store.blocking,
            rounds=self.rounds,
            now_ms=now_ms,
            spawn=lambda function, *args: self.spawned.append((function, args)),
        )
        self.partition.recover_producers()
        self.topic.partitions = (self.partition,)
        self.receipts = Receipts()

    def _wake(self) -> None:
        self.wakes += 1

    def stage(self, value: bytes, token: object = None, *, key: bytes | None = None, timestamp: int = 1) -> None:
        self.partition.stage_record(timestamp, key, value, receiver=self.receipts, token=token)

    def stage_batch(self, *values: bytes, token: object = None, **options: Any) -> None:
        batch = encode([(1, None, value, ()) for value in values], **options)
        self.partition.stage_batch(batch, self.receipts, token)

    def round(self) -> None:
        self.rounds.begin()
        self.rounds.finish()

    def flush(self) -> None:
        """Let the commit thread do what was handed to it, here and now."""
        self.rounds.committer.stop()
        self.rounds.committer.run()

    def commit(self) -> None:
        """Write, flush, acknowledge."""
        self.round()
        self.flush()
        self.round()

    async def run_spawned(self) -> None:
        while self.spawned:
            function, args = self.spawned.pop(0)
            await function(*args)

    @property
    def stored(self) -> list[Record]:
        log = self.partition.log
        return decode_all(log.read(log.start_offset, 1 << 30, log.end_offset))


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    """What the core promises a log is checked at the end of every test that uses it."""
    store = ScriptedStore()
    yield store
    assert store.violations == []


@pytest.fixture
def clock() -> list[int]:
    """The broker's wall clock: one integer of milliseconds that a test may change."""
    return [5000]


@pytest.fixture
def make_bench(store: ScriptedStore, clock: list[int]) -> Callable[..., PartitionBench]:
    """Partitions of one log, with settings; make a second one after the first is closed to see what was kept."""
    return lambda **settings: PartitionBench(
        store, {name.replace("_", "."): value for name, value in settings.items()}, lambda: clock[0]
    )


@pytest.fixture(scope="session")
def make_bench_on() -> Callable[[ScriptedStore], PartitionBench]:
    """For hypothesis, which wants fixtures that live for all its examples."""
    return lambda store: PartitionBench(store, {}, lambda: 5000)


@pytest.fixture
def bench(make_bench: Callable[..., PartitionBench]) -> PartitionBench:
    return make_bench()


@pytest.fixture
def open_scripted(store: ScriptedStore, tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Broker]]:
    """Opens a broker on the scripted store; again to see what was kept."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Broker]:
        host = PluginHost()
        host.add("scripted", store)
        async with open_broker(tmp_path, store="scripted", plugins=host, **options) as broker:
            yield broker

    return opened


@pytest.fixture
async def broker(open_scripted: Callable[..., AbstractAsyncContextManager[Broker]]) -> AsyncIterator[Broker]:
    async with open_scripted() as broker:
        yield broker
