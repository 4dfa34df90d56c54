"""The demo from start to end: broker, devices and readers, the kill, and the count.

The kill happens while devices publish: in a run of a given length at half time, in a run of a given number
of readings right at the acknowledgement that makes half of them, in the thread that got it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from trunkline.demo.away import TOPIC as AWAY_TOPIC
from trunkline.demo.away import AwayDevice
from trunkline.demo.broker_process import BrokerProcess, BrokerProcessFailed
from trunkline.demo.devices import Device, run_device
from trunkline.demo.readers import LiveReader, end_offsets, replay
from trunkline.demo.readings import Series, load_series, shares
from trunkline.demo.tally import Interruption, Result, tally
from trunkline.errors import TrunklineError

__all__ = ["DemoStalled", "Narrator", "Plan", "run_demo"]

TOPIC: Final = "mqtt"
"""The log topic in which the MQTT door keeps all messages."""

LIVE_READERS: Final = ("live reader 1", "live reader 2")
REPLAY: Final = "read again from the log"

_TICK_S: Final = 0.1
_STALL_TIMEOUT_S: Final = 30.0


class DemoStalled(TrunklineError):
    """Nothing was acknowledged or read for a long time."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
      data: an existing directory for the broker's data.
      devices: MQTT clients; no more than there are series.
      records: how many readings to publish in all; None: as many as go in ``seconds``.
      has_kill: whether the broker is killed midway.
    """

    data: Path
    store: str | None = None
    devices: int = 8
    records: int | None = None
    seconds: float = 10.0
    has_kill: bool = True


class Narrator:
    """Is told how the demo goes; this one says nothing."""

    def event(self, text: str) -> None:
        """Something happened."""

    def progress(self, published: int, acknowledged: int, read: int) -> None:
        """How far it is; called many times a second."""


class _Ledger:
    """Acknowledgements of all devices together. Devices count in their threads, the demo looks from its own."""

    def __init__(self, kill_at: int | None, kill: Callable[[], None]) -> None:
        self.acknowledged = 0
        self.acknowledged_before = 0
        self.killed_at = 0.0
        self.ready_at = 0.0
        self.resumed_at = 0.0
        self._kill_at = kill_at
        self._kill = kill
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            self.acknowledged += 1
            if self.ready_at and not self.resumed_at:
                self.resumed_at = time.monotonic()
            if self.acknowledged == self._kill_at:
                self._kill_now()

    def kill(self) -> None:
        with self._lock:
            self._kill_now()

    def _kill_now(self) -> None:
        self.acknowledged_before = self.acknowledged
        self.killed_at = time.monotonic()
        self._kill()

    def broker_is_back(self) -> None:
        with self._lock:
            self.ready_at = time.monotonic()

    def interruption(self) -> Interruption | None:
        if not self.resumed_at:
            return None
        return Interruption(self.acknowledged_before, self.ready_at - self.killed_at, self.resumed_at - self.killed_at)


async def run_demo(plan: Plan, narrator: Narrator) -> Result:
    """Do it all; the broker and the devices are gone when it returns or raises.

    Raises:
      BrokerProcessFailed: the broker did not start.
      DemoStalled: the devices or readers did not get on for half a minute.
    """
    async with BrokerProcess.open(plan.data, plan.store) as broker:
        host, port = broker.address("mqtt")
        narrator.event(f"broker {broker.pid} is ready: MQTT at {host}:{port}, native at {broker.url}")
        measured = await _measure(plan, broker, narrator)
    return _with_disk_usage(measured, plan.data)  # after the broker has closed its files


async def _measure(plan: Plan, broker: BrokerProcess, narrator: Narrator) -> Result:
    from trunkline import connect

    async with connect(broker.url) as bus, trio.open_nursery() as nursery:
        start = await end_offsets(bus, TOPIC)
        readers = {name: LiveReader(TOPIC, start) for name in LIVE_READERS}
        for reader in readers.values():
            nursery.start_soon(reader.run, broker.url)

        away, address = AwayDevice(), broker.address("mqtt")
        await trio.to_thread.run_sync(away.leave, address)
        narrator.event(f"a device has subscribed to {AWAY_TOPIC} with QoS 1, and is offline now")
        kill_at = plan.records // 2 if plan.has_kill and plan.records is not None else None
        ledger = _Ledger(kill_at, broker.kill)
        devices = _make_devices(plan, load_series(), ledger.count)
        names = f"{len(devices)} MQTT devices publish, {len(readers)} native readers follow"
        narrator.event(names if plan.records is None else f"{names}; {plan.records:,} readings")
        nursery.start_soon(_watch, devices, readers, narrator)
        nursery.start_soon(_mind, broker, ledger, narrator)
        began = time.monotonic()
        async with trio.open_nursery() as publishing:
            for device in devices:
                publishing.start_soon(run_device, device, address)
            if plan.records is None:
                await _publish_for(plan.seconds, ledger if plan.has_kill else None)
                for device in devices:
                    device.finish()
        ended = time.monotonic()

        ends = await end_offsets(bus, TOPIC)
        narrator.event("all is acknowledged; the readers catch up, then the log is read again from the start")
        with trio.move_on_after(_STALL_TIMEOUT_S):
            for reader in readers.values():
                await reader.wait_reached(ends)
        notes = {name: reader.notes for name, reader in readers.items()}
        notes[REPLAY] = await replay(bus, TOPIC, start)
        acknowledged = set().union(*(device.acknowledged for device in devices))
        returned = await trio.to_thread.run_sync(away.come_back, address, acknowledged)
        narrator.event(f"the device is back: {returned.received:,} messages had waited, in {returned.seconds:.2f} s")
        nursery.cancel_scope.cancel()

    interruption = ledger.interruption()
    away_s = interruption.acknowledging_again_s if interruption else 0.0
    return Result(
        tally=tally(sum(device.published for device in devices), acknowledged, notes),
        returned=returned,
        interruption=interruption,
        publishing_s=ended - began,
        records_per_s=len(acknowledged) / (ended - began - away_s),
        data=str(plan.data),
        bytes_on_disk=0,
        files=0,
        segments=0,
    )


def _make_devices(plan: Plan, series: list[Series], on_acknowledged: Callable[[], None]) -> list[Device]:
    counts = [None] * len(series) if plan.records is None else shares(plan.records, len(series))
    dealt = list(zip(series, counts, strict=True))
    return [
        Device(f"demo-device-{number}", dealt[number :: plan.devices], on_acknowledged)
        for number in range(plan.devices)
    ]


async def _publish_for(seconds: float, killing: _Ledger | None) -> None:
    await trio.sleep(seconds / 2)
    if killing is not None:
        killing.kill()
    await trio.sleep(seconds / 2)


async def _mind(broker: BrokerProcess, ledger: _Ledger, narrator: Narrator) -> None:
    """Once the broker has been killed, start it again on the same data, at the same addresses."""
    pid, code = broker.pid, await broker.wait_ended()
    if not ledger.killed_at:
        raise BrokerProcessFailed(f"the broker ended by itself with {code}; {broker.last_words()}")
    narrator.event(f"broker {pid} was killed (SIGKILL) after {ledger.acknowledged_before:,} acknowledgements")
    await broker.start()
    ledger.broker_is_back()
    narrator.event(f"broker {broker.pid} is ready on the same data; devices and readers come back by themselves")
    code = await broker.wait_ended()
    raise BrokerProcessFailed(f"the broker that was started again ended with {code}; {broker.last_words()}")


async def _watch(devices: list[Device], readers: dict[str, LiveReader], narrator: Narrator) -> None:
    """Tell the narrator how it goes, and end the demo if it goes no further."""
    last, since = -1, trio.current_time()
    while True:
        published = sum(device.published for device in devices)
        acknowledged = sum(len(device.acknowledged) for device in devices)
        read = min(reader.notes.records for reader in readers.values())
        narrator.progress(published, acknowledged, read)
        if published + acknowledged + read != last:
            last, since = published + acknowledged + read, trio.current_time()
        elif trio.current_time() - since > 2 * _STALL_TIMEOUT_S:
            raise DemoStalled(
                f"nothing moves: {published:,} readings published, {acknowledged:,} acknowledged, {read:,} read"
            )
        await trio.sleep(_TICK_S)


def _with_disk_usage(result: Result, data: Path) -> Result:
    sizes = {path: path.stat().st_size for path in data.rglob("*") if path.is_file()}
    return msgspec.structs.replace(
        result,
        bytes_on_disk=sum(sizes.values()),
        files=len(sizes),
        segments=sum(path.suffix == ".log" for path in sizes),
    )
