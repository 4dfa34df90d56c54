"""Bridges are run beside the broker, started again when they fail, and never take it down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

import trunkline
from trunkline.bridge import DRAIN_LIMIT_S, Bridge, BridgeContext, LinkStatus
from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import ConfigurationError, PluginError
from trunkline.hookspecs import RegisterBridge, hookimpl
from trunkline.plugins import PluginHost

pytestmark = pytest.mark.trio

WAIT_S = 20.0


class FerrySettings(msgspec.Struct, forbid_unknown_fields=True):
    """``[bridge.ferry]``."""

    berth: str = "north"
    refuse: bool = False


class Ferry(Bridge):
    """Does what a test tells it to."""

    def __init__(self, plugin: FerryPlugin, context: BridgeContext) -> None:
        self.plugin = plugin
        self.context = context

    async def run(self) -> None:
        self.plugin.runs += 1
        self.plugin.log.append("run")
        try:
            await self.plugin.journey(self)
        finally:
            self.plugin.log.append("ended")

    async def drain(self) -> None:
        self.plugin.log.append("drain")
        await self.plugin.last_journey(self)

    def links(self) -> list[LinkStatus]:
        link = LinkStatus(
            name="crossing",
            direction="out",
            source="north",
            destination="south",
            state="running",
            lag=3,
            counters={"messages": 7},
        )
        return [link]


async def stay(ferry: Ferry) -> None:
    await trio.sleep_forever()


async def nothing(ferry: Ferry) -> None:
    await trio.lowlevel.checkpoint()


class FerryPlugin:
    """A plugin with one bridge."""

    def __init__(self) -> None:
        self.runs = 0
        self.log: list[str] = []
        self.contexts: list[BridgeContext] = []
        self.journey: Callable[[Ferry], Awaitable[None]] = stay
        self.last_journey: Callable[[Ferry], Awaitable[None]] = nothing

    def make(self, context: BridgeContext) -> Bridge:
        self.contexts.append(context)
        if context.settings.refuse:
            raise ConfigurationError("bridge.ferry.refuse: it does", keys=["bridge.ferry.refuse"])
        return Ferry(self, context)

    @hookimpl
    def register_bridges(self, register: RegisterBridge) -> None:
        register("ferry", self.make, settings=FerrySettings)


Open = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def plugin() -> FerryPlugin:
    return FerryPlugin()


@pytest.fixture
def opened(plugin: FerryPlugin, tmp_path: Path) -> Open:
    """Opens a broker with ``[bridge.ferry]``."""

    @asynccontextmanager
    async def open_one(listen: Mapping[str, str] | None = None, **table: object) -> AsyncIterator[Broker]:
        host = PluginHost()
        host.add("ferry", plugin)
        config = BrokerConfig(listen=dict(listen or {}), bridge={"ferry": table})
        async with open_broker(tmp_path, store="memory", config=config, plugins=host) as broker:
            yield broker

    return open_one


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.01)


async def test_a_bridge_with_a_table_is_run_with_its_settings(opened: Open, plugin: FerryPlugin) -> None:
    async with opened(berth="south") as broker:
        await eventually(lambda: plugin.runs == 1)
        assert plugin.contexts[0].settings == FerrySettings(berth="south")
        (status,) = broker.statistics().bridges
        assert (status.name, status.is_running, status.failures) == ("ferry", True, 0)
        assert [link.name for link in status.links] == ["crossing"]


async def test_a_broker_keeps_its_name_over_restarts(opened: Open, plugin: FerryPlugin) -> None:
    for _ in range(2):
        async with opened():
            pass
    first, second = (context.node for context in plugin.contexts)
    assert first == second
    assert len(first) == 16


async def test_a_bridge_that_fails_is_run_again_and_harms_nobody(opened: Open, plugin: FerryPlugin) -> None:
    async def founder(ferry: Ferry) -> None:
        if plugin.runs == 1:
            raise ValueError("an iceberg")
        await trio.sleep_forever()

    plugin.journey = founder
    async with opened() as broker:
        await eventually(lambda: plugin.runs == 2)
        assert (await broker.publish("orders", b"still here")).offset == 0
        (status,) = broker.statistics().bridges
        assert (status.is_running, status.failures, status.error) == (True, 1, "ValueError: an iceberg")


async def test_a_bridge_finishes_before_the_logs_are_closed(opened: Open, plugin: FerryPlugin) -> None:
    async def unload(ferry: Ferry) -> None:
        await ferry.context.broker.publish("orders", b"the last one")

    plugin.last_journey = unload
    async with opened() as broker:
        await eventually(lambda: plugin.runs == 1)
        orders = await broker.create_topic("orders")
    assert plugin.log == ["run", "drain", "ended"]
    assert orders.partition(0).high_watermark == 1


async def test_a_bridge_that_does_not_finish_is_ended(
    opened: Open, plugin: FerryPlugin, autojump_clock: trio.testing.MockClock
) -> None:
    plugin.last_journey = stay
    async with opened():
        await eventually(lambda: plugin.runs == 1)
        closing = trio.current_time()
    assert trio.current_time() - closing >= DRAIN_LIMIT_S
    assert plugin.log == ["run", "drain", "ended"]


async def test_settings_that_a_bridge_refuses_stop_the_start(opened: Open) -> None:
    with pytest.raises(ConfigurationError, match="refuse"):
        async with opened(refuse=True):
            pass


async def test_an_unknown_key_stops_the_start(opened: Open) -> None:
    with pytest.raises(ConfigurationError, match="bert"):
        async with opened(bert="south"):
            pass


async def test_a_table_for_a_bridge_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    config = BrokerConfig(listen={}, bridge={"tunnel": {}})
    with pytest.raises(PluginError, match="unknown bridge 'tunnel'"):
        async with open_broker(tmp_path, store="memory", config=config):
            pass


async def test_clients_can_ask_how_bridges_go(opened: Open, plugin: FerryPlugin) -> None:
    async with opened(listen={"native": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["native"]
        async with trunkline.connect(f"trunkline://{host}:{port}") as bus:
            assert await bus.list_bridges() == broker.bridges.statuses()
