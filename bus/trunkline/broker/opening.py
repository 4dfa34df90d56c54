"""How a broker comes to be and how it ends.

It opens in the order lock, stores, topics, views, doors, sockets, bridges, and closes in the reverse order: nobody is
accepted any more, bridges finish, what is staged is committed and acknowledged, connections are sent what they are due,
logs are closed.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import crc32c  # noqa: F401 - else trunkline.records.checksum imports it with the first batch, in the middle of a round
import msgspec
import trio

from trunkline.broker.broker import Broker
from trunkline.catalog import TopicCatalog
from trunkline.config import BrokerConfig
from trunkline.config_checks import check_config
from trunkline.disk import Disk, RealDisk
from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.lock import lock_directory
from trunkline.metadata import FileMetadata
from trunkline.net.reactor import Reactor
from trunkline.plugins import PluginHost
from trunkline.rounds import wall_clock_ms
from trunkline.stores import OpenStores

__all__ = ["open_broker"]

logger = logging.getLogger("trunkline.broker")


@asynccontextmanager
async def open_broker(
    data: Path | str | None = None,
    *,
    store: str | None = None,
    listen: Mapping[str, str] | None = None,
    config: BrokerConfig | None = None,
    plugins: PluginHost | None = None,
    disk: Disk | None = None,
    now_ms: Callable[[], int] = wall_clock_ms,
    rng: random.Random | None = None,
    poller: str = "auto",
) -> AsyncIterator[Broker]:
    """Run a broker inside the block.

    Args:
      data: the data directory. None: the configuration's if there is one, else a temporary one that is
        removed at the end.
      store: the store for topics that name none; None: the configuration's, which is ``segments`` by default.
      listen: door names and ``HOST:PORT`` (port 0: any free one). None: what the configuration says; without a
        configuration no door is opened.
      config: see :func:`trunkline.config_sources.load_config`.
      plugins: a host with plugins already added, for tests of plugins; None: installed ones.
      disk, now_ms, rng: the outside world, for simulations.
      poller: ``auto``, ``epoll`` or ``tasks``, see :mod:`trunkline.net.pollers`.

    Raises:
      ConfigurationError, InsecureListener, PluginError, ListenFailed, DataDirectoryLocked, CorruptLog: not opened.

    Cancellation: closes the broker as the end of the block does, in at most ``limits.shutdown_timeout_s``.
    """
    failure: Exception | None = None
    with ExitStack() as stack:
        if config is None:
            config = BrokerConfig(listen={})
            if data is None:
                data = stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-"))
        changes: dict[str, Any] = {"data": Path(data)} if data is not None else {}
        if store is not None:
            changes["storage"] = store
        if listen is not None:
            changes["listen"] = dict(listen)
        config = msgspec.structs.replace(config, **changes)
        host, disk, rng = plugins or PluginHost(), disk or RealDisk(), rng or random.Random()
        closing = trio.Event()
        async with _nursery_without_groups() as nursery:
            broker = await nursery.start(_run_broker, config, host, disk, now_ms, rng, poller, closing)
            try:
                yield broker
            except Exception as error:
                failure = error  # raised below, as it is: the caller may have raised a group
            finally:
                closing.set()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _nursery_without_groups() -> AsyncIterator[trio.Nursery]:
    """A nursery; a single exception, however deep in groups, comes out as itself."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        only: BaseException = group
        while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
            only = only.exceptions[0]
        raise only from only.__cause__


async def _run_broker(
    config: BrokerConfig,
    host: PluginHost,
    disk: Disk,
    now_ms: Callable[[], int],
    rng: random.Random,
    poller: str,
    closing: trio.Event,
    *,
    task_status: trio.TaskStatus[Broker],
) -> None:
    """Open a broker, run it until ``closing``, close it.

    It is a task of its own and shielded once it is open: if it ran in the caller's scope, cancelling the caller
    would end the reactor first, and nothing could be committed or sent any more.
    """
    _load_plugins(config, host)
    listeners = config.listeners({name: door.default_port for name, door in host.doors.items()})
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_directory(config.data))
        stores = OpenStores(config, host, disk)
        stack.callback(stores.close)
        running = stack.enter_context(trio.CancelScope())
        reactor = await stack.enter_async_context(Reactor.open(config.limits, clock_ms=now_ms, poller=poller))
        nursery = await stack.enter_async_context(trio.open_nursery())

        def spawn(function: Callable[..., Awaitable[Any]], *args: Any) -> None:
            if not nursery.cancel_scope.cancel_called:  # a store that answers too late begins nothing any more
                nursery.start_soon(_guarded, function, *args)

        metadata = FileMetadata(config.data / "metadata.json", disk)
        catalog = TopicCatalog(
            metadata, stores, config.storage, rounds=reactor.rounds, now_ms=reactor.rounds.now_ms, spawn=spawn, rng=rng
        )
        broker = Broker(config, reactor, metadata, catalog, now_ms=reactor.rounds.now_ms, spawn=spawn, rng=rng)
        try:
            await catalog.open()
            for view in (broker.groups, broker.transactions, broker.queues, broker.sessions):
                await view.open()
            nursery.start_soon(broker.housekeeping.run)
            await broker.doors.open(host, listeners)
            await broker.bridges.open(host)
            running.shield = True
            task_status.started(broker)
            await closing.wait()
        finally:
            with trio.CancelScope(shield=True):  # bounded by shutdown_timeout_s; then logs are closed, which is quick
                await _close(broker, reactor, catalog, in_order=reactor.is_running)
                nursery.cancel_scope.cancel()
                await catalog.close()


def _load_plugins(config: BrokerConfig, host: PluginHost) -> None:
    """Load them, and refuse a configuration that asks for what there is not."""
    host.load_all(config.plugins)
    host.store(config.storage)
    for name in config.listen or ():
        host.listener(name)
    for name in config.bridge:
        host.bridge(name)
    check_config(config, host)


async def _close(broker: Broker, reactor: Reactor, catalog: TopicCatalog, *, in_order: bool) -> None:
    """Stop accepting; in order: commit what is staged, let connections take what they are due."""
    broker.is_closing = True
    timeout_s = broker.config.limits.shutdown_timeout_s
    reactor.stop_listening()
    if in_order:
        for transport in reactor.connections:
            transport.shutting_down()
    await broker.housekeeping.stop()
    await broker.bridges.close(in_order=in_order)
    closing = BrokerClosing("the broker is shutting down; try again when it is back")
    with trio.move_on_after(timeout_s if in_order else 0) as scope:
        await catalog.refuse(closing)
        await reactor.wait_settled()
        for transport in reactor.connections:
            transport.end()
        while reactor.connection_count:
            await reactor.wait_round()
        await _close_views(broker)  # they have heard the last of their clients
        catalog.refuse_internal(closing)
        await reactor.wait_settled()
    catalog.refuse_internal(closing)
    if scope.cancelled_caught and in_order:
        logger.warning(
            "closing was not done in %g s (%d connections are left): the next start has more to read",
            timeout_s, reactor.connection_count,
        )  # fmt: skip
    reactor.drop_connections()
    await broker.doors.close()


async def _close_views(broker: Broker) -> None:
    for view in (broker.transactions, broker.groups, broker.queues, broker.sessions):
        try:
            await view.close()
        except (OSError, TrunklineError):  # what it could not write is as after a crash
            logger.exception("%s could not be closed cleanly", type(view).__name__)


async def _guarded(function: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Run a door's or partition's own task; its failure is logged and ends nothing else."""
    try:
        await function(*args)
    except Exception:  # the boundary for background work
        logger.exception("background task %s failed", getattr(function, "__qualname__", function))
