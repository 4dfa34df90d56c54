"""A broker on the SQLite store, alone and beside segments."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
import trio

from trunkline import open_broker
from trunkline.broker import Broker

pytestmark = pytest.mark.trio


async def values(broker: Broker, topic: str) -> list[bytes | None]:
    return [record.value async for record in broker.read(topic, follow=False)]


async def test_records_outlive_a_restart(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_broker(tmp_path, store="sqlite") as broker:
            await broker.create_topic("sensors", partitions=3)
            for number in range(10):
                await broker.publish("sensors", b"%d" % number, key=b"device-%d" % number, headers=[("n", b"1")])
        async with open_broker(tmp_path, store="sqlite") as broker:
            found = [record async for record in broker.read("sensors", follow=False)]
            last = await broker.publish("sensors", b"10", partition=0)
            assert last.offset == sum(record.partition == 0 for record in found)
    assert sorted((record.value, record.key) for record in found) == [
        (b"%d" % number, b"device-%d" % number) for number in range(10)
    ]
    assert {record.headers for record in found} == {(("n", b"1"),)}


async def test_one_broker_uses_both_stores(tmp_path: Path) -> None:
    for _ in range(2):
        with trio.fail_after(30):
            async with open_broker(tmp_path) as broker:
                await broker.ensure_topic("fast")
                await broker.ensure_topic("queryable", settings={"storage": "sqlite"})
                for topic in ("fast", "queryable"):
                    await broker.publish(topic, topic.encode())
    async with open_broker(tmp_path) as broker:
        assert await values(broker, "fast") == [b"fast"] * 2
        assert await values(broker, "queryable") == [b"queryable"] * 2
        assert topics_in(tmp_path) == {"queryable"}
    assert (tmp_path / "segments" / "fast-0").is_dir()


def topics_in(data: Path) -> set[str]:
    """As another program sees it while the broker runs."""
    connection = sqlite3.connect(data / "sqlite" / "trunkline.db")
    found = {topic for (topic,) in connection.execute("SELECT DISTINCT topic FROM records")}
    connection.close()
    return found


async def test_a_deleted_topic_leaves_nothing_behind(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_broker(tmp_path, store="sqlite") as broker:
            await broker.publish("orders", b"1")
            await broker.publish("kept", b"1")
            await broker.delete_topic("orders")
            assert topics_in(tmp_path) == {"kept"}
            await broker.publish("orders", b"again")
            assert await values(broker, "orders") == [b"again"]


async def test_many_partitions_are_written_at_once(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_broker(tmp_path, store="sqlite") as broker:
            await broker.create_topic("orders", partitions=20)
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(_publish, broker, number)
            found = [record async for record in broker.read("orders", follow=False)]
    assert sorted(int(record.value or b"") for record in found) == [*range(200)]


async def _publish(broker: Broker, number: int) -> None:
    await broker.publish("orders", b"%d" % number, partition=number % 20)


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_records_can_be_removed_up_to_any_offset(tmp_path: Path, durability: str) -> None:
    with trio.fail_after(30):
        async with open_broker(tmp_path, store="sqlite") as broker:
            await broker.create_topic("orders", settings={"durability": durability})
            for number in range(5):
                await broker.publish("orders", b"%d" % number)
            await broker.partition("orders", 0).trim(3)
            assert await values(broker, "orders") == [b"3", b"4"]


@pytest.mark.slow
async def test_the_demo_runs_on_it_and_its_result_can_be_queried(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-m", "trunkline.cli", "demo", "--store", "sqlite", "--records", "2000"]
    with trio.fail_after(120):
        done = await trio.run_process([*command, "--data", str(data)], capture_stdout=True)
    assert b"Every acknowledged reading is there" in done.stdout
    connection = sqlite3.connect(data / "sqlite" / "trunkline.db")
    query = "SELECT count(DISTINCT key) FROM records WHERE topic = 'mqtt' AND value ->> 'date' = '2012-01-02'"
    (series,) = connection.execute(query).fetchone()
    connection.close()
    assert series == 8
