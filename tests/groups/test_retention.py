"""Retention waits for a group that a topic names, and counts what it takes from others."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from trunkline import open_broker
from trunkline.broker import Broker
from trunkline.errors import TrunklineError
from trunkline.groups import OffsetAndMetadata
from trunkline.log import TopicPartition

pytestmark = pytest.mark.trio

HOUR_MS = 3_600_000
HOLD = {"retention.ms": str(HOUR_MS), "retention.hold": "billing", "retention.hold.ms": str(5 * HOUR_MS)}


class Done:
    def __init__(self) -> None:
        self.told = trio.Event()

    def append_done(self, token: object, offset: int) -> None:
        self.told.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        raise error


async def commit(broker: Broker, group: str, offset: int) -> None:
    done = Done()
    broker.groups.commit(group, {TopicPartition("orders", 0): OffsetAndMetadata(offset)}, receiver=done, token=None)
    await done.told.wait()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_retention_waits_for_the_group_that_the_topic_names(tmp_path: Path, store: str) -> None:
    clock = [1_700_000_000_000]
    async with open_broker(tmp_path, store=store, now_ms=lambda: clock[0]) as broker:
        await broker.create_topic("orders", settings=HOLD)
        for _ in range(10):
            await broker.publish("orders", b"an order")
        partition = broker.partition("orders", 0)
        await commit(broker, "billing", 4)
        await commit(broker, "audit", 2)
        clock[0] += 2 * HOUR_MS
        await broker.housekeeping.run_once()
        assert partition.log_start_offset == 4
        assert partition.removed_unread == {"group:audit": 2}, "it had not asked to be waited for"
        await commit(broker, "billing", 7)
        await broker.housekeeping.run_once()
        assert partition.log_start_offset == 7
        clock[0] += 5 * HOUR_MS
        await broker.housekeeping.run_once()
        assert partition.log_start_offset == 10, "the cap is passed"
        assert partition.removed_unread["group:billing"] == 3


async def test_retention_still_knows_the_group_after_a_restart(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("orders", settings=HOLD)
        await broker.publish("orders", b"an order")
        await commit(broker, "billing", 1)
    async with open_broker(tmp_path) as broker:
        assert broker.partition("orders", 0).readers == {"group:billing": 1}
