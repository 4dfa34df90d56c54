"""A broker in a process of its own: started, killed, started again at the same addresses, stopped.

It is exactly ``trunkline serve``, on loopback, at ports that are free when it starts. The process is gone when
the block ends, however it ends.

The ports are not left to the system (port 0): it would pick them from the range that outgoing connections get theirs
from, and while the broker is down, a client that tries again could be given the very port it is calling. Then it
is connected to itself, and the broker cannot have its address back.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from trunkline.errors import TrunklineError

__all__ = ["BrokerProcess", "BrokerProcessFailed", "free_addresses"]

DOORS: Final = ("mqtt", "native")
PORTS: Final = range(20_000, 30_000)
"""Below what Linux (32768) and IANA (49152) give to outgoing connections."""

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 15.0
_KILL_TIMEOUT_S: Final = 5.0
_KEPT_LOG_LINES: Final = 200


class BrokerProcessFailed(TrunklineError):
    """The broker process ended when it should not have, or did not get ready."""


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback where nobody listens now."""
    found: list[str] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(f"127.0.0.1:{port}")
        if len(found) == count:
            return found
    raise BrokerProcessFailed(f"no {count} ports of 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1} are free")


class BrokerProcess:
    """Open it with :meth:`open`.

    Attributes:
      data: its data directory.
      log: its last log lines, for whoever wants to know what went wrong.
    """

    def __init__(self, data: Path, store: str | None, nursery: trio.Nursery) -> None:
        self.data = data
        self.log: deque[str] = deque(maxlen=_KEPT_LOG_LINES)
        self._store = store
        self._nursery = nursery
        self._addresses = dict(zip(DOORS, free_addresses(len(DOORS)), strict=True))
        self._process: trio.Process | None = None
        self._has_logged_all = trio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, data: Path, store: str | None = None) -> AsyncIterator[BrokerProcess]:
        """Run a broker on ``data`` inside the block; ready when entered. Raises BrokerProcessFailed."""
        async with trio.open_nursery() as nursery:
            broker = cls(data, store, nursery)
            try:
                await broker.start()
                yield broker
                await broker._stop()
            finally:
                await broker._end()
                nursery.cancel_scope.cancel()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def address(self, door: str) -> tuple[str, int]:
        """Where a door listens; stays the same over a restart."""
        host, _, port = self._addresses[door].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        """What the native client connects to."""
        return f"trunkline://{self._addresses['native']}"

    async def start(self) -> None:
        """Start the process, or start it again after it has ended, and wait until it is ready.

        Raises BrokerProcessFailed. Cancellation: the process may run; the end of the block ends it.
        """
        command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(self.data)]
        command += [f"--listen={door}={address}" for door, address in self._addresses.items()]
        if self._store is not None:
            command.append(f"--store={self._store}")
        # The settings of a broker that the user runs otherwise are none of this one's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        # Not in the terminal's process group: control-C is the demo's to handle, and it ends the broker itself.
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._process = process
        self._has_logged_all = trio.Event()
        self._nursery.start_soon(self._read_log, process, self._has_logged_all)
        with trio.move_on_after(_START_TIMEOUT_S):
            await self._wait_ready(process)
            return
        raise BrokerProcessFailed(f"the broker was not ready within {_START_TIMEOUT_S:g} s; {self.last_words()}")

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to write or say anything. May be called from any thread."""
        assert self._process is not None
        self._process.kill()

    async def wait_ended(self) -> int:
        """Wait until the process is gone and its log read; returns its exit code, negative: the signal."""
        assert self._process is not None
        code = await self._process.wait()
        await self._has_logged_all.wait()
        return code

    async def _wait_ready(self, process: trio.Process) -> None:
        """It says so in one line on stdout, and before that nothing."""
        assert process.stdout is not None
        if not await process.stdout.receive_some():
            code = await self.wait_ended()
            raise BrokerProcessFailed(f"the broker ended with {code} before it was ready; {self.last_words()}")

    async def _read_log(self, process: trio.Process, is_done: trio.Event) -> None:
        assert process.stderr is not None
        rest = b""
        async for received in process.stderr:
            *lines, rest = (rest + received).split(b"\n")
            self.log.extend(line.decode(errors="replace") for line in lines)
        is_done.set()

    async def _stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        with trio.move_on_after(_STOP_TIMEOUT_S):
            await self._process.wait()

    async def _end(self) -> None:
        """Whatever happened: leave no process behind."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            with trio.move_on_after(_KILL_TIMEOUT_S, shield=True):
                await self._process.wait()

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        return "its log ends with:\n" + "\n".join(list(self.log)[-20:]) if self.log else "it logged nothing"
