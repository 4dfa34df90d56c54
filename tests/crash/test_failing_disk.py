"""A broker whose disk fails, or turns read-only and back, in the middle of its work."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import CorruptLog, LogStopped, StoreFull
from trunkline.testing import SimulatedDisk

pytestmark = pytest.mark.trio

WAIT_S = 20.0  # for what should take milliseconds
Open = Callable[[], AbstractAsyncContextManager[Broker]]


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def open_on_disk(disk: SimulatedDisk, tmp_path: Path) -> Open:
    return lambda: open_broker(tmp_path, config=BrokerConfig(listen={}, plugins=[]), disk=disk)


async def values(broker: Broker, partition: int) -> list[bytes | None]:
    return [record.value async for record in broker.read("orders", partitions=[partition], follow=False)]


async def test_a_failed_fsync_stops_its_log_and_no_other_until_a_restart(
    disk: SimulatedDisk, open_on_disk: Open
) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders", partitions=2)
            for partition in (0, 1):
                await broker.publish("orders", b"before", partition=partition)
            disk.fail("sync", errno.EIO, name=".log")

            with pytest.raises(LogStopped, match="Input/output error"):
                await broker.publish("orders", b"lost", partition=0)

            for _ in range(3):  # the next fsync would succeed
                with pytest.raises(LogStopped):
                    await broker.publish("orders", b"refused", partition=0)
            await broker.publish("orders", b"after", partition=1)
            assert await values(broker, 0) == [b"before"]
            assert await values(broker, 1) == [b"before", b"after"]
        disk.crash()
        async with open_on_disk() as broker:
            assert (await values(broker, 0))[:1] == [b"before"]
            assert b"refused" not in await values(broker, 0)
            assert await values(broker, 1) == [b"before", b"after"]
            await broker.publish("orders", b"again", partition=0)


async def test_nothing_is_acknowledged_by_the_fsync_after_a_failed_one(disk: SimulatedDisk, open_on_disk: Open) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders")
            disk.fail("sync", errno.EIO, name=".log")
            with pytest.raises(LogStopped):
                await broker.publish("orders", b"lost")
            syncs = disk.operations
            with pytest.raises(LogStopped):
                await broker.publish("orders", b"refused")
            assert disk.operations == syncs
        assert disk.operations == syncs, "not at closing either"


async def test_a_failed_write_stops_the_log(disk: SimulatedDisk, open_on_disk: Open) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders")
            await broker.publish("orders", b"before")
            disk.fail("append", errno.EIO, name=".log")
            for value in (b"torn", b"refused"):
                with pytest.raises(LogStopped):
                    await broker.publish("orders", value)
            assert await values(broker, 0) == [b"before"]
        async with open_on_disk() as broker:
            assert await values(broker, 0) == [b"before"]


@pytest.mark.parametrize("message", ["the disk is full", "the file system is read-only"])
async def test_without_room_records_are_refused_until_there_is(
    disk: SimulatedDisk, open_on_disk: Open, message: str
) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders")
            await broker.publish("orders", b"before")
            disk.capacity_bytes = disk.used_bytes
            disk.is_read_only = "read-only" in message

            for _ in range(2):
                with pytest.raises(StoreFull, match=message):
                    await broker.publish("orders", bytes(1000))

            assert await values(broker, 0) == [b"before"]
            disk.capacity_bytes, disk.is_read_only = None, False
            assert (await broker.publish("orders", b"after")).offset == 1
        async with open_on_disk() as broker:
            assert await values(broker, 0) == [b"before", b"after"]


async def test_a_broker_closes_on_a_full_disk_and_loses_nothing(disk: SimulatedDisk, open_on_disk: Open) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders")
            await broker.publish("orders", b"before")
            disk.capacity_bytes = disk.used_bytes
        disk.crash()
        async with open_on_disk() as broker:
            assert await values(broker, 0) == [b"before"]


async def test_damage_to_what_was_acknowledged_keeps_the_broker_from_starting(
    disk: SimulatedDisk, open_on_disk: Open, tmp_path: Path
) -> None:
    with trio.fail_after(WAIT_S):
        async with open_on_disk() as broker:
            await broker.create_topic("orders")
            for _ in range(3):
                await broker.publish("orders", bytes(range(256)))
            disk.cut_power()
        disk.crash()
        file = tmp_path / "segments" / "orders-0" / f"{0:020d}.log"
        disk.flip(file, 100)
        with pytest.raises(CorruptLog) as raised:
            async with open_on_disk():
                pass
        assert (raised.value.file, raised.value.position) == (str(file), 0)
