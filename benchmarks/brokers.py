"""Brokers to measure: each is a process of its own, on free ports of the loopback interface, with its own directory.

They are context managers that give a running broker and end it, by the process they started. Trunkline runs
with its defaults: store ``segments``, and nothing acknowledged before ``fdatasync``. Mosquitto (Debian's
package) keeps messages in memory only, and drops none for want of room in its queues.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["KAFKA", "Running", "environment", "mosquitto", "mosquitto_path", "trunkline"]

KAFKA = ("--listen", "kafka=127.0.0.1:0")
"""An option of Trunkline."""

START_LIMIT_S = 20.0
STOP_LIMIT_S = 20.0


def environment() -> dict[str, str]:
    """That of a program under measurement: without settings for a broker, and it may keep its bytecode.

    What pip installs comes with bytecode. Where a checkout may not keep any, each start compiles all that it imports.
    """
    left_out = {name for name in os.environ if name.startswith("TRUNKLINE_")} | {"PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


@dataclass(frozen=True)
class Running:
    """``ready_s``: from starting the process until it said, or showed, that it takes connections.

    ``amqp_port``, ``kafka_port``: where the options asked for that door.
    """

    pid: int
    mqtt_port: int
    native_port: int | None
    ready_s: float
    amqp_port: int | None = None
    kafka_port: int | None = None


@contextmanager
def trunkline(directory: Path, options: Sequence[str] = (), start_limit_s: float = START_LIMIT_S) -> Iterator[Running]:
    """``trunkline serve`` on the data in ``directory``; it may end, or be killed, before the block does."""
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--json", "--log-level", "warning", *options]
    command += ["--data", str(directory), "--listen", "mqtt=127.0.0.1:0", "--listen", "native=127.0.0.1:0"]
    start = time.perf_counter()
    with _process(command) as process:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], start_limit_s)[0]:
            raise TimeoutError(f"trunkline was not ready after {start_limit_s} s")
        line = process.stdout.readline()
        ready_s = time.perf_counter() - start
        if not line:
            raise ChildProcessError(f"trunkline ended before it was ready, with exit code {process.wait()}")
        ports = {door: int(address.rpartition(":")[2]) for door, address in json.loads(line)["addresses"].items()}
        yield Running(
            process.pid, ports["mqtt"], ports["native"], ready_s, ports.get("amqp"), kafka_port=ports.get("kafka")
        )


def mosquitto_path() -> str | None:
    """The program, also where only root's PATH looks for it."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def mosquitto(directory: Path) -> Iterator[Running]:
    """Mosquitto with nothing on disk but its configuration, which goes to ``directory``."""
    program = mosquitto_path()
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    configuration = directory / "mosquitto.conf"
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n"
        "max_queued_messages 0\npersistence false\nlog_dest stderr\nlog_type error\n"
    )
    log = directory / "mosquitto.log"
    start = time.perf_counter()
    with log.open("w") as stderr, _process([program, "-c", str(configuration)], stderr) as process:
        while not _accepts(port):
            if process.poll() is not None:
                raise ChildProcessError(f"mosquitto ended with exit code {process.returncode}: {log.read_text()}")
            if time.perf_counter() - start > START_LIMIT_S:
                raise TimeoutError(f"mosquitto was not ready after {START_LIMIT_S} s")
            time.sleep(0.005)
        yield Running(process.pid, port, None, time.perf_counter() - start)


@contextmanager
def _process(command: Sequence[str], stderr: IO[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment()
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_LIMIT_S)
            finally:  # Popen itself waits only a moment for it if we are interrupted
                process.kill()
                process.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True
