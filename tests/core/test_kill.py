"""kill -9 of a real broker under load, again and again: nothing acknowledged is lost, nothing is written twice.

``TRUNKLINE_KILL_ROUNDS=100 pytest tests/core/test_kill.py`` makes a hundred rounds of it, in three minutes. Killing
a process leaves the page cache intact; what a power failure takes is tested with simulated disks, in ``tests/storage``.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import trunkline
from trunkline.demo.broker_process import BrokerProcess
from trunkline.records import ConsumerRecord

pytestmark = [pytest.mark.trio, pytest.mark.slow]

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "5"))
WAIT_S = 60.0  # for anything at all to happen
PARTITIONS = 3


class NativePublisher:
    """One idempotent client. ``acknowledged``: where each number went."""

    def __init__(self, name: str, on_acknowledged: Callable[[], None]) -> None:
        self.name = name
        self.acknowledged: dict[int, tuple[int, int]] = {}
        self.is_finishing = False
        self._on_acknowledged = on_acknowledged

    async def run(self, url: str) -> None:
        async with trunkline.connect(url, client_name=self.name) as bus, trio.open_nursery() as nursery:
            window = trio.CapacityLimiter(500)

            async def settle(number: int, delivery: trunkline.Delivery) -> None:
                where = await delivery
                self.acknowledged[number] = (where.partition, where.offset)
                self._on_acknowledged()
                window.release_on_behalf_of(number)

            for number in itertools.count():
                if self.is_finishing:
                    return
                await window.acquire_on_behalf_of(number)
                delivery = await bus.send("numbers", f"{self.name} {number}", partition=number % PARTITIONS)
                nursery.start_soon(settle, number, delivery)


class MqttPublisher:
    """One MQTT 3.1.1 client that publishes at QoS 1 and, when it is cut off, repeats what was not acknowledged."""

    WINDOW = 50

    def __init__(self, name: str, on_acknowledged: Callable[[], None]) -> None:
        self.name = name
        self.acknowledged: set[int] = set()
        self.is_finishing = False
        self._unacknowledged: dict[int, int] = {}  # packet id -> number
        self._next = 0
        self._on_acknowledged = on_acknowledged

    async def run(self, address: tuple[str, int]) -> None:
        while not (self.is_finishing and not self._unacknowledged):
            try:
                async with await trio.open_tcp_stream(*address) as stream:
                    await self._converse(stream)
            except (OSError, trio.BrokenResourceError, EOFError):
                await trio.sleep(0.02)  # as a client does before it tries again

    async def _converse(self, stream: trio.SocketStream) -> None:
        client_id = self.name.encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(client_id)) + client_id
        await stream.send_all(bytes((0x10, len(body))) + body)
        assert await self._receive(stream, 4) == b"\x20\x02\x00\x00"
        await stream.send_all(b"".join(self._publish(identifier) for identifier in self._unacknowledged))
        while self._unacknowledged or not self.is_finishing:
            new = []
            while len(self._unacknowledged) < self.WINDOW and not self.is_finishing:
                identifier = self._next % 65_535 + 1
                self._unacknowledged[identifier] = self._next
                self._next += 1
                new.append(self._publish(identifier))
            await stream.send_all(b"".join(new))
            kind, length, identifier = struct.unpack(">BBH", await self._receive(stream, 4))
            assert (kind, length) == (0x40, 2)
            self.acknowledged.add(self._unacknowledged.pop(identifier))
            self._on_acknowledged()

    def _publish(self, identifier: int) -> bytes:
        topic = f"load/{self.name}".encode()
        body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", identifier)
        body += b"%d" % self._unacknowledged[identifier]
        assert len(body) < 128
        return bytes((0x32, len(body))) + body

    async def _receive(self, stream: trio.SocketStream, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await stream.receive_some(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class Acknowledgements:
    """Counts them, and lets the killer wait for the next so many."""

    def __init__(self) -> None:
        self.count = 0
        self._due = 0
        self._reached = trio.Event()

    def add(self) -> None:
        self.count += 1
        if self.count >= self._due:
            self._reached.set()

    async def wait_more(self, number: int) -> None:
        self._due = self.count + number
        self._reached = trio.Event()
        with trio.fail_after(WAIT_S):
            await self._reached.wait()


@pytest.mark.parametrize("store", ["segments"])
async def test_a_killed_broker_loses_nothing_it_has_acknowledged(tmp_path: Path, store: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    acknowledgements = Acknowledgements()
    native = [NativePublisher(f"native-{number}", acknowledgements.add) for number in range(2)]
    devices = [MqttPublisher(f"device-{number}", acknowledgements.add) for number in range(2)]

    async with BrokerProcess.open(tmp_path / "data", store) as broker:
        async with trunkline.connect(broker.url) as bus:
            await bus.create_topic("numbers", partitions=PARTITIONS)
        async with trio.open_nursery() as nursery:
            for publisher in native:
                nursery.start_soon(publisher.run, broker.url)
            for device in devices:
                nursery.start_soon(device.run, broker.address("mqtt"))
            for _ in range(ROUNDS):
                await acknowledgements.wait_more(rng.randrange(1, 3000))
                broker.kill()
                assert await broker.wait_ended() == -9
                await broker.start()
            await acknowledgements.wait_more(100)
            for publisher in native:
                publisher.is_finishing = True
            for device in devices:
                device.is_finishing = True
        async with trunkline.connect(broker.url) as bus:
            numbers = [record async for record in bus.read("numbers")]
            messages = [record async for record in bus.read("mqtt")]

    print(f"{ROUNDS} kills, {acknowledgements.count} acknowledged, {len(numbers)} + {len(messages)} records")
    check_native(native, numbers)
    check_mqtt(devices, messages)


def check_native(publishers: list[NativePublisher], records: list[ConsumerRecord]) -> None:
    """Everything exactly once, at the place that was acknowledged, and in order."""
    places: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    last: dict[tuple[str, int], int] = {}
    for record in records:
        assert record.value is not None
        name, text = record.value.decode().split()
        number = int(text)
        assert number not in places[name], f"{name} {number} was written twice"
        places[name][number] = (record.partition, record.offset)
        assert last.get((name, record.partition), -1) < number, f"{name} {number} is out of order"
        last[name, record.partition] = number
    assert places == {publisher.name: publisher.acknowledged for publisher in publishers}


def check_mqtt(devices: list[MqttPublisher], records: list[ConsumerRecord]) -> None:
    """Everything at least once, and what comes first in order."""
    first: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, int]] = set()
    for record in records:
        assert record.key is not None
        assert record.value is not None
        name, number = record.key.decode().removeprefix("load/"), int(record.value)
        if (name, number) not in seen:
            seen.add((name, number))
            first[name].append(number)
    for device in devices:
        assert set(first[device.name]) == device.acknowledged
        assert first[device.name] == sorted(first[device.name])
