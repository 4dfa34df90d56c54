"""Runs the bridges of a broker, and keeps their failures away from it."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from trunkline.bridge import (
    DRAIN_LIMIT_S,
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    Bridge,
    BridgeContext,
    BridgeFactory,
    BridgeStatus,
    LinkStatus,
)
from trunkline.errors import ConfigurationError
from trunkline.metadata import MetadataStore

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.plugins import PluginHost

__all__ = ["Bridges"]

logger = logging.getLogger("trunkline.bridge")

_NODE_KEY = "node"


class Bridges:
    """Made by the broker; belongs to its thread."""

    def __init__(self, broker: Broker, metadata: MetadataStore, spawn: Callable[..., None], rng: random.Random) -> None:
        self._broker = broker
        self._metadata = metadata
        self._spawn = spawn
        self._rng = rng
        self._running: dict[str, _Running] = {}

    def statuses(self) -> list[BridgeStatus]:
        """How each goes, by name."""
        return [self._running[name].status() for name in sorted(self._running)]

    async def open(self, host: PluginHost) -> None:
        """Make and start those that the configuration has a table for. Raises ConfigurationError, PluginError."""
        config = self._broker.config
        if not config.bridge:
            return
        node = await self._node()
        for name in config.bridge:
            registered = host.bridge(name)
            settings = config.plugin_settings("bridge", name, registered.settings_type)
            running = _Running(name, registered.factory, BridgeContext(self._broker, settings, node), self._rng)
            running.make()
            self._running[name] = running
            self._spawn(running.run)

    async def _node(self) -> str:
        found = await self._metadata.get(_NODE_KEY)
        if found is not None:
            return str(found.value["id"])
        node = f"{self._rng.getrandbits(64):016x}"
        await self._metadata.compare_and_set(_NODE_KEY, {"id": node}, 0)
        return node

    async def close(self, *, in_order: bool) -> None:
        """End them; in order: when they have finished what is under way."""
        async with trio.open_nursery() as nursery:
            for running in self._running.values():
                nursery.start_soon(running.close, in_order)


class _Running:
    """One bridge, and how it fares."""

    def __init__(self, name: str, factory: BridgeFactory, context: BridgeContext, rng: random.Random) -> None:
        self.name = name
        self._factory = factory
        self._context = context
        self._rng = rng
        self._bridge: Bridge | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._is_begun = False
        self._is_running = False
        self._failures = 0
        self._error = ""

    def make(self) -> None:
        """Raises ConfigurationError; whatever else goes wrong is tried again later."""
        try:
            self._bridge = self._factory(self._context)
        except ConfigurationError:
            raise
        except Exception as error:  # the boundary: a bridge that cannot be made must not keep the broker from running
            self._failed(error)

    async def run(self) -> None:
        """Run it, again and again, until ``close``."""
        self._is_begun = True
        try:
            with self._scope:
                pause = FIRST_PAUSE_S
                while True:
                    began = trio.current_time()
                    await self._run_once()
                    if trio.current_time() - began > LAST_PAUSE_S:
                        pause = FIRST_PAUSE_S
                    await trio.sleep(pause * (1 + self._rng.random() / 4))
                    pause = min(2 * pause, LAST_PAUSE_S)
        finally:
            self._ended.set()

    async def _run_once(self) -> None:
        if self._bridge is None:
            self.make()
        if self._bridge is None:
            return
        self._is_running = True
        try:
            await self._bridge.run()
            self._failed(RuntimeError("it ended without being told to"))
        except Exception as error:  # the boundary: see the module's docstring
            self._failed(error)
        finally:
            self._is_running = False

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        self._error = f"{type(error).__name__}: {error}"
        logger.error("bridge %s failed and is started again: %s", self.name, self._error, exc_info=error)

    async def close(self, in_order: bool) -> None:
        """End it, in at most ``DRAIN_LIMIT_S`` and whatever it does when it is cancelled."""
        bridge = self._bridge
        if in_order and bridge is not None and self._is_running:
            with trio.move_on_after(DRAIN_LIMIT_S) as scope:
                await self._guarded(bridge.drain)
            if scope.cancelled_caught:
                logger.warning(
                    "bridge %s did not finish in %g s; it goes on with the next start", self.name, DRAIN_LIMIT_S
                )
        self._scope.cancel()
        if self._is_begun:
            await self._ended.wait()

    async def _guarded(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Exception:  # the boundary: a bridge's failure must not keep the logs from being closed
            logger.exception("bridge %s could not finish what was under way", self.name)

    def status(self) -> BridgeStatus:
        """How it goes now."""
        links: list[LinkStatus] = []
        error = self._error
        try:
            links = [] if self._bridge is None else self._bridge.links()
        except Exception as failure:  # the boundary: who asks wants to hear of the others too
            logger.exception("bridge %s cannot say how it goes", self.name)
            error = f"it cannot say how it goes: {failure!r}"
        return BridgeStatus(
            name=self.name, is_running=self._is_running, failures=self._failures, error=error, links=tuple(links)
        )
