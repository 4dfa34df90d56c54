"""The reactor: one task that waits for all sockets and works in rounds."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from trunkline.changes import Changes
from trunkline.config import Limits
from trunkline.door import Door
from trunkline.errors import RemoteProtocolError
from trunkline.net.listener import Listener, bind
from trunkline.net.pollers import Poller, open_poller
from trunkline.net.receiving import BEHIND_BYTES, ROUND_BYTES
from trunkline.net.transport import SocketTransport
from trunkline.rounds import Rounds, wall_clock_ms

__all__ = ["Reactor", "ReactorStatistics"]

_ROUNDS_PER_WAKE: Final = 16
"""Rounds in a row before other tasks get their turn: a wake-up of the task costs three times a round."""

CHECK_BYTES: Final = 64 * 1024 * 1024
"""After so many bytes from peers that send much it is looked at what all of them hold."""

_SWEEP_S: Final = 1.0


class ReactorStatistics(msgspec.Struct, frozen=True):
    """A snapshot; ``unacknowledged_bytes`` are staged or not yet durable."""

    connections: int
    refused_connections: int
    rounds: int
    unacknowledged_bytes: int


class Reactor:
    """Owns all sockets of a broker. Open it with :meth:`open`; ``rounds`` is where partitions stage."""

    def __init__(self, poller: Poller, limits: Limits, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self.poller = poller
        self.limits = limits
        self.rounds = Rounds(poller.wake, limits.max_unacknowledged_bytes, clock_ms)
        self.now = time.monotonic()
        self.touched: list[SocketTransport] = []
        self.behind = memoryview(bytearray(BEHIND_BYTES))  # for one read of a transport
        self.is_in_round = False
        self.is_running = False
        self._transports: set[SocketTransport] = set()
        self._listeners: list[Listener] = []
        self._round_count = 0
        self._looked_at = self.now  # at what they hold
        self._holding: set[SocketTransport] = set()  # something, then
        self._unchecked_bytes = 0  # at most so many more are held than at the last look
        self._round_over = Changes()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, limits: Limits, *, clock_ms: Callable[[], int] = wall_clock_ms, poller: str = "auto"
    ) -> AsyncIterator[Reactor]:
        """Run the reactor and its commit thread inside the block; on leaving it, drop whatever is still connected."""
        async with open_poller(poller) as chosen, trio.open_nursery() as nursery:
            reactor = cls(chosen, limits, clock_ms)
            async with trio.open_nursery() as commit_nursery:
                # A limiter of its own: the thread lives as long as the broker and must not use up a worker's place.
                commit_nursery.start_soon(
                    lambda: trio.to_thread.run_sync(reactor.rounds.committer.run, limiter=trio.CapacityLimiter(1))
                )
                nursery.start_soon(reactor._run)
                nursery.start_soon(reactor._sweep)
                try:
                    yield reactor
                finally:
                    reactor.stop_listening()
                    reactor.drop_connections()
                    reactor.rounds.committer.stop()
            nursery.cancel_scope.cancel()

    def listen(self, door: Door, door_name: str, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """Accept connections for ``door``; returns the bound address. Raises ListenFailed."""
        listener = Listener(self, door, door_name, bind(host, port, door_name), tls)
        listener.start()
        self._listeners.append(listener)
        return listener.address

    def stop_listening(self) -> None:
        """Accept nobody from now on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _run(self) -> None:
        self.is_running = True
        try:
            await self._work()
        finally:
            self.is_running = False

    async def _work(self) -> None:
        poller, rounds = self.poller, self.rounds
        while True:
            # While too much waits for the disk, the sockets wait too: peers feel TCP's back-pressure.
            if rounds.is_saturated:
                await poller.wait_woken()
            else:
                await poller.wait()
            for _ in range(_ROUNDS_PER_WAKE):
                if not poller.collect():
                    break
                self.now = time.monotonic()
                self.is_in_round = True
                rounds.begin()
                poller.dispatch()
                rounds.finish()
                while self.touched:  # a flush may end a connection, which may write to another
                    touched, self.touched = self.touched, []
                    for transport in touched:
                        transport.flush()
                self.is_in_round = False
                self._round_count += 1
                self._round_over.tell()
                if rounds.is_saturated:
                    break

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_S)
            self.now = time.monotonic()
            self.check_time(self.now)
            self.check_held()
            for listener in self._listeners:
                listener.resume()

    def check_time(self, now: float) -> None:
        """Enforce deadlines and idle timeouts, unless nothing is read: then the peers' silence is ours."""
        if not self.rounds.is_saturated:
            before = len(self._transports)
            for transport in tuple(self._transports):
                # Asked here first: hardly any has something to be told, and thousands of calls are most of a sweep.
                if now >= transport.deadline or now - transport.last_received >= transport.idle_timeout_s:
                    transport.check_time(now)
            if len(self._transports) < before:
                self.rounds.request()  # whoever waits for the last to leave waits for rounds

    def much_received(self) -> None:
        """A peer has sent all that a round takes; after every CHECK_BYTES of that the sweep would come too late."""
        self._unchecked_bytes += ROUND_BYTES
        if self._unchecked_bytes >= CHECK_BYTES:
            self.check_held()

    def check_held(self) -> None:
        """End who holds most of ``limits.max_unfinished_bytes``, if all together hold more."""
        self._unchecked_bytes = 0
        limit = self.limits.max_unfinished_bytes
        # Who held nothing at the last look and has sent nothing since holds nothing: that is most of them.
        since, self._looked_at = self._looked_at, self.now
        before, self._holding = self._holding, set()
        total = 0
        for transport in self._transports:
            if transport.last_received >= since or transport in before:
                held = transport.held_bytes
                if held:
                    self._holding.add(transport)
                    total += held
        if total <= limit:
            return
        for transport in sorted(self._holding, key=lambda transport: transport.held_bytes, reverse=True):
            held = transport.held_bytes
            transport.fail(
                RemoteProtocolError(
                    f"{held} bytes of what it sends are not complete, and {total} of all connections; "
                    f"limits.max_unfinished_bytes is {limit}"
                )
            )
            total -= held
            if total <= limit:
                return

    def drop_connections(self) -> None:
        """End every connection now."""
        for transport in tuple(self._transports):
            transport.drop()

    async def wait_round(self) -> None:
        """Wait until the next round is over."""
        await self._round_over.wait()

    async def wait_settled(self) -> None:
        """Wait until all that was staged is committed, and its acknowledgements are written."""
        while not self.rounds.is_idle:
            await self.wait_round()

    @property
    def connections(self) -> list[SocketTransport]:
        """Everybody connected now."""
        return list(self._transports)

    @property
    def connection_count(self) -> int:
        return len(self._transports)

    def remember(self, transport: SocketTransport) -> None:
        self._transports.add(transport)

    def forget(self, transport: SocketTransport) -> None:
        self._transports.discard(transport)
        self._holding.discard(transport)

    def statistics(self) -> ReactorStatistics:
        return ReactorStatistics(
            connections=len(self._transports),
            refused_connections=sum(listener.refused for listener in self._listeners),
            rounds=self._round_count,
            unacknowledged_bytes=self.rounds.unacknowledged_bytes,
        )
