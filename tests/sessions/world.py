"""A connection that uses a session, and a broker to be closed or killed and opened again on the same disk."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from trunkline.broker import Broker, open_broker
from trunkline.errors import SessionFenced, TrunklineError
from trunkline.live import Delivery
from trunkline.partition import Partition
from trunkline.sessions import Session, SessionOwner, Unfinished
from trunkline.testing import PowerLost, SimulatedDisk


class Peer(SessionOwner):
    """Remembers what it is given, by offset, and tracks each with the next id, unless told not to."""

    def __init__(self, *, window: int = 1 << 30, tracks: bool = True) -> None:
        self.window = window
        self.tracks = tracks
        self.session: Session
        self.got: list[int] = []
        self.values: list[bytes | None] = []
        self.options: list[list[bytes]] = []
        self.again: list[tuple[int, int, int]] = []  # id, state, offset
        self.gone: list[int] = []
        self.lost: list[int] = []
        self.errors: list[TrunklineError] = []

    def attach(self, broker: Broker, name: str = "dev1", **options: Any) -> Peer:
        self.session = broker.sessions.attach(name, self, **options)
        return self

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        assert self.window > 0, "nothing is given after a stop"
        self.window -= 1
        offset = delivery.record.offset
        self.got.append(offset)
        self.values.append(delivery.record.value)
        self.options.append(sorted(options))
        if self.tracks:
            used = {entry.id for entry in self.session.unfinished}
            id = next(number for number in range(1, 1 << 16) if number not in used)
            self.session.track(id, delivery.partition, offset)
        return self.window > 0

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        self.window -= 1
        if delivery is None:
            self.gone.append(entry.id)
        else:
            assert delivery.record.offset == entry.offset
            self.values.append(delivery.record.value)
            self.again.append((entry.id, entry.state, entry.offset))
        return self.window > 0

    def missed(self, partition: Partition, records: int) -> None:
        self.lost.append(records)

    def fenced(self, error: SessionFenced) -> None:
        self.errors.append(error)

    def failed(self, error: TrunklineError) -> None:
        self.errors.append(error)


class Machine:
    """Opens brokers on one simulated disk, one after the other."""

    def __init__(self, directory: Path, seed: int = 1) -> None:
        self.directory = directory
        self.disk = SimulatedDisk(seed)
        self.now_ms = 1_000_000
        self._random = random.Random(seed)

    @asynccontextmanager
    async def broker(self, *, kill: bool = False, **options: Any) -> AsyncIterator[Broker]:
        """A broker; at the end of the block it is closed, or with ``kill`` the machine loses its power."""
        self.disk.make_directory(self.directory)
        with suppress(PowerLost) if kill else nullcontext():
            async with open_broker(
                self.directory, disk=self.disk, now_ms=lambda: self.now_ms, rng=self._random, **options
            ) as broker:
                yield broker
                if kill:
                    self.disk.cut_power()
        if kill:
            self.disk.crash()


def is_busy(broker: Broker) -> bool:
    """Something is still under way that rounds will bring to its end."""
    sessions = broker.sessions
    members = [member for tail in broker._live.values() for member in tail._members.values()]
    return (
        any(member.is_reading for member in members)
        or any(state.serving is not None and state.serving._is_busy for state in sessions._known.in_use.values())
        or bool(sessions._checkpoints.is_asked or sessions.rounds._soon or sessions._topic._waiting)
        or not sessions.rounds.is_idle
    )


async def settle(broker: Broker) -> None:
    """Let rounds pass until nothing is under way."""
    rounds = 0
    while rounds < 2:
        broker.sessions.rounds.request()
        await broker._reactor.wait_round()
        rounds = 0 if is_busy(broker) else rounds + 1


async def stored(broker: Broker) -> None:
    """Have what is dirty stored, as it is when a second has gone."""
    broker.sessions._checkpoints.ask_for_dirty()
    await settle(broker)


async def publish(broker: Broker, *keys: str | None, topic: str = "mqtt", partition: int | None = None) -> None:
    """One record for each key, in this order; returns once they are committed, and what is live is delivered."""
    target = (await broker.ensure_topic(topic)).partitions[partition or 0]
    before = target.next_offset
    for key in keys:
        target.stage_record(1, None if key is None else key.encode(), b"value")
    await target.wait_past(before + len(keys) - 1)
