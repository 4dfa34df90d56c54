"""Runs the real command in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 30.0


def environment() -> dict[str, str]:
    """Ours without the variables that the command would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}


class Server:
    """A running ``trunkline serve --json``; ``ready`` is what it printed."""

    def __init__(self, *args: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trunkline.cli", "serve", "--json", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | variables,
        )
        watchdog = threading.Timer(TIMEOUT_S, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        watchdog.cancel()
        assert line, f"serve ended before it was ready: {self.close()}"
        self.ready: dict[str, Any] = json.loads(line)

    @property
    def url(self) -> str:
        return f"trunkline://{self.ready['addresses']['native']}"

    def close(self) -> str:
        """Kill it if it still runs; return what is left of its stderr."""
        if self.process.poll() is None:
            self.process.kill()
        return self.process.communicate(timeout=TIMEOUT_S)[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a broker on a free port of loopback, by default in ``tmp_path / "data"``."""
    servers: list[Server] = []

    def start_one(*args: str, listen: str = "native=127.0.0.1:0", **variables: str) -> Server:
        data = () if "--data" in args else ("--data", str(tmp_path / "data"))
        servers.append(Server(*data, "--listen", listen, *args, **variables))
        return servers[-1]

    yield start_one
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One broker for the tests of a module, which use topics of their own."""
    running = Server("--data", str(tmp_path_factory.mktemp("data")), "--listen", "native=127.0.0.1:0")
    yield running
    running.close()


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def run_command(*args: str, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``trunkline ARGS`` to its end, with the given environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "trunkline.cli", *args],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment() | variables,
        check=False,
    )


@pytest.fixture
def run() -> Run:
    """Runs ``trunkline ARGS``."""
    return run_command
