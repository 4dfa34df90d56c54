"""A coordinator without a broker round it, so that thousands of steps take seconds.

Everything it uses is here in memory and under the test's control: the clock, the rounds, the topics, and the internal
topic, whose writes become durable when the test says so, fail, or are lost in a crash. ``MemoryStateTopic`` passes the
tests of the real one (test_world.py).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, TypeVar

import trio

from trunkline.config import GroupsConfig
from trunkline.errors import StoreFull, TrunklineError, UnknownTopic
from trunkline.groups import GroupCoordinator
from trunkline.log import TopicPartition
from trunkline.pending import AppendReceiver
from trunkline.topic import Topic

T = TypeVar("T")

Write = tuple[bytes, bytes | None, AppendReceiver | None, object]


class MemoryDisk:
    """What is durable of an internal topic, and what is not yet."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None]] = []
        self.staged: list[Write] = []
        self.changed = trio.Event()

    def commit(self, count: int | None = None) -> None:
        """Make the first ``count`` of the staged writes durable; None: all."""
        taken, self.staged = self.staged[:count], ([] if count is None else self.staged[count:])
        for key, value, receiver, token in taken:
            self.records.append((key, value))
            if receiver is not None:
                receiver.append_done(token, len(self.records) - 1)

    def refuse(self) -> None:
        """Have all that is staged fail."""
        taken, self.staged = self.staged, []
        for _, _, receiver, token in taken:
            if receiver is not None:
                receiver.append_failed(token, StoreFull("no room"))


class MemoryStateTopic:
    """As :class:`trunkline.state_topic.StateTopic`, over a MemoryDisk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    @property
    def is_made(self) -> bool:
        return bool(self._disk.records)

    async def replay(self, apply: Callable[[bytes, bytes | None, int], None]) -> None:
        for offset, (key, value) in enumerate(self._disk.records):
            apply(key, value, offset)

    def write(
        self, key: bytes, value: bytes | None, receiver: AppendReceiver | None = None, token: object = None
    ) -> None:
        self._disk.staged.append((key, value, receiver, token))

    async def write_durable(self, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        waiting = _Waiting()
        for key, value in entries:
            waiting.left += 1
            self.write(key, value, waiting)
        while waiting.left:
            await waiting.changed.wait()
        if waiting.error is not None:
            raise waiting.error


class _Waiting:
    def __init__(self) -> None:
        self.left = 0
        self.error: TrunklineError | None = None
        self.changed = trio.Event()

    def append_done(self, token: object, offset: int) -> None:
        self.left -= 1
        if not self.left:
            self.changed.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.error = error
        self.append_done(token, 0)


class MemoryCatalog:
    """Topics whose partitions are numbers only."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.made = 0
        self.listeners: list[Callable[[str, Topic | None], None]] = []
        self.growth_listeners: list[Callable[[Topic, int], None]] = []

    def get(self, name: str) -> Topic:
        if name not in self.topics:
            raise UnknownTopic(f"no topic {name}", topic=name)
        return self.topics[name]

    def on_change(self, listener: Callable[[str, Topic | None], None]) -> None:
        self.listeners.append(listener)

    def on_growth(self, listener: Callable[[Topic, int], None]) -> None:
        self.growth_listeners.append(listener)

    def create(self, name: str, partitions: int) -> None:
        self.made += 1
        no_settings: Any = None  # groups do not ask for them
        topic = Topic(name, f"00000000-0000-0000-0000-{self.made:012d}", no_settings, random.Random(0))
        self._add_partitions(topic, partitions)
        self.topics[name] = topic
        self.tell(name, topic)

    def grow(self, name: str, partitions: int) -> None:
        topic = self.topics[name]
        before = len(topic.partitions)
        self._add_partitions(topic, partitions)
        for listener in self.growth_listeners:
            listener(topic, before)

    def _add_partitions(self, topic: Topic, partitions: int) -> None:
        found: Any = [
            SimpleNamespace(
                topic=topic, index=index, readers={}, removed_unread={}, log_start_offset=0, high_watermark=9
            )
            for index in range(len(topic.partitions), partitions)
        ]
        topic.partitions += tuple(found)

    def delete(self, name: str) -> None:
        del self.topics[name]
        self.tell(name, None)

    def tell(self, name: str, topic: Topic | None) -> None:
        for listener in self.listeners:
            listener(name, topic)


class MemoryRounds:
    """Calls what is to be called soon, when it is told to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.soon: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        return round(self._world.now * 1000) + 1_700_000_000_000

    def call_soon(self, function: Callable[[], None]) -> None:
        self.soon.append(function)


class World:
    """A coordinator and all it needs. ``now``: seconds of its clock."""

    def __init__(self, config: GroupsConfig | None = None) -> None:
        self.config = config or GroupsConfig()
        self.now = 0.0
        self.disk = MemoryDisk()
        self.catalog = MemoryCatalog()
        self.rounds = MemoryRounds(self)
        self.random = random.Random(0)
        self.coordinator = self._open()

    def _open(self) -> GroupCoordinator:
        services: Any = SimpleNamespace(
            config=SimpleNamespace(groups=self.config),
            catalog=self.catalog,
            rounds=self.rounds,
            spawn=lambda function: None,
            state_topic=lambda name: MemoryStateTopic(self.disk),
            rng=self.random,
        )
        coordinator = GroupCoordinator(services, clock=lambda: self.now)
        run_at_once(coordinator.open())
        return coordinator

    def crash(self, durable: int = 0) -> None:
        """The broker dies; the first ``durable`` of the writes under way reached the disk. It is started again."""
        self.disk.records += [(key, value) for key, value, _, _ in self.disk.staged[:durable]]
        self.disk.staged.clear()
        self.rounds.soon.clear()
        self.catalog.listeners.clear()
        for topic in self.catalog.topics.values():
            for partition in topic.partitions:
                partition.readers.clear()
        self.coordinator = self._open()

    def run_round(self) -> None:
        soon, self.rounds.soon = self.rounds.soon, []
        for function in soon:
            function()

    def settle(self) -> None:
        """Run rounds, with a disk that works, until nothing happens any more."""
        for _ in range(100):
            if not self.rounds.soon and not self.disk.staged:
                return
            self.run_round()
            self.disk.commit()
        raise AssertionError("it does not come to rest")

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.run_timers()

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call an async function of the coordinator, with a disk that works meanwhile."""

        async def main() -> T:
            result: list[T] = []

            async def call() -> None:
                result.append(await function(*args))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                while not result and nursery.child_tasks:
                    await trio.testing.wait_all_tasks_blocked()
                    self.settle()
                    await trio.lowlevel.checkpoint()
            return result[0]

        try:
            return trio.run(main)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def run_at_once(coroutine: Awaitable[None]) -> None:
    """Run a coroutine that has nothing to wait for."""
    steps = coroutine.__await__()
    try:
        next(iter(steps))
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def tp(text: str) -> TopicPartition:
    topic, _, index = text.partition("/")
    return TopicPartition(topic, int(index))
