"""Brokers that can be stopped and started again, and clients of them on asyncio and on trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup, TaskStatus

from trunkline.config import BrokerConfig
from trunkline.errors import TrunklineError
from trunkline.testing.background import BackgroundBroker
from trunkline_native.client import Bus, ConsumerRecord, GroupReader, connect

WAIT_S = 30.0  # for what should take milliseconds, on a machine that is busy with something else


class RestartableBroker:
    """A broker in a thread of its own, which may be stopped and started on the same data and port."""

    def __init__(self, data: Path, config: BrokerConfig | None, store: str) -> None:
        self._data = data
        self._config = config
        self._store = store
        self._port = 0
        self.background = self._open()

    def _open(self) -> BackgroundBroker:
        listen = {"native": f"127.0.0.1:{self._port}"}
        opened = BackgroundBroker(self._data, store=self._store, listen=listen, config=self._config)
        self._port = opened.addresses["native"][1]
        return opened

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"trunkline://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        await anyio.to_thread.run_sync(self.background.close)

    async def start(self) -> None:
        self.background = await anyio.to_thread.run_sync(self._open)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def run_broker(tmp_path: Path) -> Iterator[Callable[..., RestartableBroker]]:
    """Starts brokers; they are stopped at the end."""
    running: list[RestartableBroker] = []

    def run(config: BrokerConfig | None = None, store: str = "memory") -> RestartableBroker:
        data = tmp_path / f"data{len(running)}"
        data.mkdir()
        running.append(RestartableBroker(data, config, store))
        return running[-1]

    yield run
    for broker in running:
        broker.background.close()


@pytest.fixture
def broker(run_broker: Callable[..., RestartableBroker]) -> RestartableBroker:
    """A broker with default settings, in memory."""
    return run_broker()


@pytest.fixture
async def bus(broker: RestartableBroker) -> AsyncIterator[Bus]:
    """A client of ``broker``."""
    async with connect(broker.url) as connected:
        yield connected


class Consumer:
    """A member of a group that keeps what it is given.

    Attributes:
      reader: set once it is in the group.
      hold: while set, it stays at work on the record that it was given last.
      events: ("+" or "-", partitions) in the order of the callbacks.
    """

    def __init__(self, watch: Watch) -> None:
        self.records: list[ConsumerRecord] = []
        self.events: list[tuple[str, list[tuple[str, int]]]] = []
        self.error: Exception | None = None
        self.hold: anyio.Event | None = None
        self.reader: GroupReader
        self._watch = watch
        self._scope = anyio.CancelScope()

    async def run(self, bus: Bus, group: str, topics: Any, *, task_status: TaskStatus[None], **options: Any) -> None:
        """Be in the group until ``stop``."""
        callbacks = {"on_assigned": self._assigned, "on_revoked": self._revoked}
        with self._scope:
            async with bus.group(group).subscribe(topics, **{**callbacks, **options}) as self.reader:
                task_status.started()
                try:
                    async for record in self.reader:
                        self.records.append(record)
                        self._watch.poke()
                        if self.hold is not None:
                            await self.hold.wait()
                except TrunklineError as error:
                    self.error = error
                    self._watch.poke()
                    await anyio.sleep_forever()

    def _assigned(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.events.append(("+", list(partitions)))
        self._watch.poke()

    def _revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.events.append(("-", list(partitions)))
        self._watch.poke()

    @property
    def revoked(self) -> set[tuple[str, int]]:
        """All that it ever had to give up."""
        return {name for sign, names in self.events if sign == "-" for name in names}

    def stop(self) -> None:
        """Leave the group."""
        self._scope.cancel()


class Watch:
    """Runs consumers, and waits until something is true of them."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._changed = anyio.Event()

    async def consume(self, bus: Bus, group: str = "billing", topics: Any = "orders", **options: Any) -> Consumer:
        """Start one; it is in the group when this returns."""
        consumer = Consumer(self)
        with anyio.fail_after(WAIT_S):
            await self._tasks.start(partial(consumer.run, bus, group, topics, **options))
        return consumer

    def poke(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; looks each time that a consumer was given a record or partitions."""
        with anyio.fail_after(WAIT_S):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """For tests of groups."""
    async with anyio.create_task_group() as tasks:
        yield Watch(tasks)
        tasks.cancel_scope.cancel()
