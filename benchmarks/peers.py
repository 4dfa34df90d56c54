"""Other brokers to measure views against, where Debian's packages are installed: Redis, NATS JetStream, RabbitMQ.

As in :mod:`brokers`, each is a process of its own on free ports of the loopback interface, with its data in a
directory of its own, and is ended by the process that was started here. What each has done when it acknowledges:

    redis          in memory; its log is synced once a second (``appendfsync everysec``)
    redis-fsync    its log is synced (``appendfsync always``)
    nats           JetStream with file storage: written to the page cache
    rabbitmq       classic and quorum queues, durable, persistent messages: synced, in groups
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

__all__ = ["PEERS", "Peer", "installed", "versions"]

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


class Peer(NamedTuple):
    """A running broker."""

    pid: int
    port: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def program(name: str) -> str | None:
    """Where it is, also where only root's PATH looks for it."""
    return shutil.which(name, path=_PATH)


def rabbitmq_script() -> str | None:
    """The script that runs the server as whoever calls it; the one in PATH changes to a user of its own."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(found[-1]) if found and program("epmd") else None


@contextmanager
def process(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it inside the block."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            cwd=log.parent,
        ) as running,
    ):
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                running.kill()


def wait_for_port(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes connections."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            if running.poll() is not None or time.monotonic() > deadline:
                raise ChildProcessError(f"{running.args!r} is not ready: {log.read_text()[-800:]}") from None
        time.sleep(0.02)


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
    port, names_port, between_port, log = free_port(), free_port(), free_port(), directory / "log"
    (directory / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users = none\nlog.console.level = error\n"
        "log.file = false\ndisk_free_limit.absolute = 1GB\n"
    )
    (directory / "enabled_plugins").write_text("[].\n")
    environment = {
        "HOME": str(directory),  # its cookie goes there
        "RUNNING_UNDER_SYSTEMD": "true",  # makes the script become the server, so that its process id is the server's
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(directory / "feature_flags"),
        "RABBITMQ_DIST_PORT": str(between_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    for name in ("MNESIA_BASE", "LOG_BASE", "GENERATED_CONFIG_DIR", "QUORUM_DIR", "STREAM_DIR", "SCHEMA_DIR"):
        environment[f"RABBITMQ_{name}"] = str(directory / name.lower())
    # Erlang would start its name server for good; one that is there already is ended here.
    names = [program("epmd") or "", "-port", str(names_port), "-address", "127.0.0.1"]
    with process(names, directory / "names") as name_server:
        wait_for_port(names_port, name_server, directory / "names")
        with process([rabbitmq_script() or ""], log, **environment) as running:
            wait_for_port(port, running, log)
            yield Peer(running.pid, port)


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
