"""Other brokers to measure views against, where Debian's packages are installed: Redis, NATS JetStream, RabbitMQ.

As in :mod:`brokers`, each is a process of its own on free ports of the loopback interface, with its data in a
directory of its own, and is ended by the process that was started here. What each has done when it acknowledges:

    redis          in memory; its log is synced once a second (``appendfsync everysec``)
    redis-fsync    its log is synced (``appendfsync always``)
    nats           JetStream with file storage: written to the page cache
    rabbitmq       classic and quorum queues, durable, persistent messages: synced, in groups
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rabbitmq_server import RabbitmqServer, free_port, process, program, rabbitmq_script, wait_for_port

__all__ = ["PEERS", "Peer", "installed", "versions"]


class Peer(NamedTuple):
    """A running broker."""

    pid: int
    port: int


@contextmanager
def redis(directory: Path, fsync: str) -> Iterator[Peer]:
    port, log = free_port(), directory / "log"
    command = [program("redis-server") or "", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--auto-aof-rewrite-percentage", "0"]
    with process(command, log) as running:
        wait_for_port(port, running, log)
        yield Peer(running.pid, port)


@contextmanager
def nats(directory: Path) -> Iterator[Peer]:
    port, log = free_port(), directory / "log"
    command = [program("nats-server") or "", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory)]
    with process(command, log) as running:
        wait_for_port(port, running, log)
        yield Peer(running.pid, port)


@contextmanager
def rabbitmq(directory: Path) -> Iterator[Peer]:
    with RabbitmqServer(directory) as server:
        yield Peer(server.pid, server.port)


PEERS: Mapping[str, Callable[[Path], AbstractContextManager[Peer]]] = {
    "redis": partial(redis, fsync="everysec"),
    "redis-fsync": partial(redis, fsync="always"),
    "nats": nats,
    "rabbitmq": rabbitmq,
}


def versions() -> str:
    """Of those that are installed."""
    found = [
        subprocess.run([path, "-v"], capture_output=True, text=True).stdout.split(" sha=")[0].strip()
        for path in (program("redis-server"), program("nats-server"))
        if path
    ]
    script = rabbitmq_script()
    return ", ".join([*found, *([Path(script).parts[-3]] if script else [])])


def installed() -> list[str]:
    """Those of PEERS that can be started here."""
    found = {
        "redis": program("redis-server"),
        "redis-fsync": program("redis-server"),
        "nats": program("nats-server"),
        "rabbitmq": rabbitmq_script(),
    }
    return [name for name, path in found.items() if path]
