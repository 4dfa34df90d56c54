"""Brokers that can be stopped and started again, and clients of them on asyncio and on trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from trunkline.config import BrokerConfig
from trunkline.testing.background import BackgroundBroker
from trunkline_native.client import Bus, connect

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
