"""``trunkline serve``: run a broker until a signal ends it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.failures import FAILED, INTERRUPTED
from trunkline.cli.options import config_option, debug_option, json_option

if TYPE_CHECKING:
    from trunkline.config import BrokerConfig

__all__ = ["serve"]

_logger = logging.getLogger("trunkline.serve")

SWITCH_INTERVAL_S = 0.0005
"""How long a worker thread (compaction) may keep the interpreter while the reactor wants it back; Python's default
is 5 ms, for each system call of the reactor. With 0.5 ms, p99 of publishing beside a compaction was about half."""

GC_THRESHOLDS = (50_000, 20, 100)
"""New containers before the garbage collector looks at them, and so on. A broker makes few cycles and keeps millions of
objects; by Python's default (700, 10, 10) it spent a fifth to two fifths of its time here with 10,000 queues."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@click.command()
@click.option("--data", metavar="DIR", help="Data directory, made if missing.  [default: ./trunkline-data]")
@config_option
@click.option("--store", metavar="NAME", help="Store of topics that name none.  [default: segments]")
@click.option(
    "--listen",
    "listen",
    metavar="DOOR=HOST:PORT",
    multiple=True,
    help="Open only the doors named so (repeatable; port 0: any free one).  [default: all, on loopback]",
)
@click.option("--insecure", is_flag=True, default=None, help="Allow other machines in without authentication.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
@json_option
@debug_option
def serve(
    data: str | None,
    config_file: Path | None,
    store: str | None,
    listen: tuple[str, ...],
    insecure: bool | None,
    log_level: str | None,
    as_json: bool,
) -> None:
    """Run a broker.

    When it is ready, one line on stdout names the addresses. SIGTERM or SIGINT ends it: it stops taking
    connections, acknowledges what it has taken, makes it durable and exits with 0. A second signal ends it at once.
    """
    from trunkline.config_sources import load_config

    flags: dict[str, tuple[str, object]] = {
        key: (flag, value)
        for key, flag, value in (
            ("data", "--data", data),
            ("storage", "--store", store),
            ("insecure", "--insecure", insecure),
            ("log_level", "--log-level", log_level),
            ("listen", "--listen", _parse_listen(listen)),
        )
        if value is not None
    }
    config = load_config(config_file, environ=os.environ, flags=flags)
    _allow_connections(config.limits.max_connections)
    _keep_freed_memory()

    from trunkline.cli.logs import logging_to_stderr

    with logging_to_stderr(config.log_level, as_json=as_json):
        import trio

        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(*GC_THRESHOLDS)
        trio.run(_serve, config, as_json)


async def _serve(config: BrokerConfig, as_json: bool) -> None:
    import trio

    from trunkline.broker import open_broker

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_broker(config=config) as broker:
            _print_ready(config, broker.addresses, as_json=as_json)
            number = await anext(aiter(signals))
            for again in (signal.SIGTERM, signal.SIGINT):
                signal.signal(again, _exit_now)
            _logger.info("%s: closing; a second signal ends it at once", signal.Signals(number).name)
    _logger.info("closed")


def _exit_now(number: int, frame: FrameType | None) -> None:
    """The second signal: somebody is in a hurry. What was acknowledged is durable anyway."""
    os._exit(INTERRUPTED if number == signal.SIGINT else FAILED)


def _parse_listen(values: Iterable[str]) -> dict[str, list[str]] | None:
    listen: dict[str, list[str]] = {}
    for value in values:
        door, equals, address = value.partition("=")
        if not (door and equals and address):
            raise click.BadParameter(
                f"{value!r} is not DOOR=HOST:PORT, as in mqtt=127.0.0.1:1883", param_hint="--listen"
            )
        listen.setdefault(door, []).append(address)
    return listen or None


def _allow_connections(connections: int) -> None:
    """Raise the limit on open files as far as we may: many systems start programs with 1024."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024  # files of the store, and some air
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def _keep_freed_memory() -> None:
    """Let glibc keep what it frees instead of giving it back and asking again.

    A request of 100 KB otherwise costs six to eight page faults, more than all the rest of it. Other systems'
    allocators have no such call and need none.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 64 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 256 * 1024 * 1024)


def _print_ready(config: BrokerConfig, bound: Mapping[str, Any], *, as_json: bool) -> None:
    from trunkline.addresses import format_address

    addresses = {door: format_address(*address) for door, address in bound.items()}
    data = str(config.data.absolute())
    if as_json:
        from trunkline.cli.output import print_json

        ready = {"event": "ready", "addresses": addresses, "data": data, "store": config.storage, "pid": os.getpid()}
        print_json(ready)
    else:
        places = " ".join(f"{door}={address}" for door, address in addresses.items())
        click.echo(f"ready {places} data={data} store={config.storage} pid={os.getpid()}")
