"""The coordinator in a broker: on real logs, with real timers, across restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.groups.receivers import Listener, Receiver, Reply
from tests.groups.world import tp

from trunkline import Broker, open_broker
from trunkline.errors import (
    BrokerClosing,
    CoordinatorLoading,
    GroupNotEmpty,
    InvalidSetting,
    UnknownMember,
    UnknownPartition,
    UnknownTopic,
)
from trunkline.groups import GroupCoordinator, JoinRequest, OffsetAndMetadata, SyncRequest

pytestmark = pytest.mark.trio


class Told(Receiver, Listener):
    """Waits for what it is told."""

    def __init__(self) -> None:
        Receiver.__init__(self)
        Listener.__init__(self)
        self.event = trio.Event()

    def append_done(self, token: object, offset: int) -> None:
        super().append_done(token, offset)
        self.event.set()

    def assignment_changed(self, assignment: Any) -> None:
        super().assignment_changed(assignment)
        self.event.set()

    async def wait(self) -> None:
        with trio.fail_after(30):
            await self.event.wait()
        self.event = trio.Event()


async def committed(broker: Broker, group: str, offset: int, **who: Any) -> None:
    told = Told()
    broker.groups.commit(group, {tp("a/0"): OffsetAndMetadata(offset, "note")}, receiver=told, **who)
    await told.wait()


@pytest.mark.parametrize("store", ["segments", "sqlite"])
async def test_offsets_generations_and_static_members_survive_a_restart(tmp_path: Path, store: str) -> None:
    async with open_broker(tmp_path, store=store) as broker:
        await broker.create_topic("a", partitions=2)
        listener = Told()
        member_id = broker.groups.join("g", listener, topics=["a"], instance_id="one").member_id
        await listener.wait()
        await committed(broker, "g", 7, member_id=member_id, generation=1)
        with pytest.raises(UnknownTopic):
            broker.topic("__offsets")
    async with open_broker(tmp_path, store=store) as broker:
        found = broker.groups.committed("g")[tp("a/0")]
        assert (found.offset, found.metadata) == (7, "note")
        assert broker.partition("a", 0).readers == {"group:g": 7}
        back = Told()
        broker.groups.join("g", back, topics=["a"], instance_id="one")
        await back.wait()
        assert (back.last.generation, back.last.assigned) == (1, (tp("a/0"), tp("a/1")))


async def test_a_member_that_falls_silent_is_replaced_after_its_session_timeout(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_broker() as broker:
        await broker.create_topic("a")
        silent, other = Told(), Told()
        broker.groups.join("g", silent, topics=["a"], session_timeout_s=10)
        await silent.wait()
        member_id = broker.groups.join("g", other, topics=["a"], session_timeout_s=10).member_id
        await other.wait()
        mock_clock.jump(9.9)
        broker.groups.heartbeat("g", member_id)
        assert (silent.error, other.reading) == (None, set())
        mock_clock.jump(0.1)
        await other.wait()
        assert isinstance(silent.error, UnknownMember)
        assert other.reading == {tp("a/0")}


async def test_a_topic_that_is_made_again_starts_without_offsets(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("a")
        await committed(broker, "g", 7)
        await broker.delete_topic("a")
        await broker.create_topic("a")
        assert broker.groups.committed("g") == {}
        assert broker.partition("a", 0).readers == {}
    async with open_broker(tmp_path) as broker:
        assert broker.groups.list() == []


async def test_reset_to_the_ends_an_offset_and_a_time(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("a", partitions=2)
        for number in range(4):
            await broker.publish("a", b"x", partition=0, timestamp=1000 * number)
        await broker.delete_records("a", 0, 1)
        reset = broker.groups.reset
        assert await reset("g", "a", "latest", dry_run=True) == {tp("a/0"): (None, 4), tp("a/1"): (None, 0)}
        assert broker.groups.committed("g") == {}
        assert await reset("g", "a", "earliest") == {tp("a/0"): (None, 1), tp("a/1"): (None, 0)}
        assert await reset("g", "a", 3, partitions=[0]) == {tp("a/0"): (1, 3)}
        assert await reset("g", "a", 0, partitions=[0]) == {tp("a/0"): (3, 1)}
        assert await reset("g", "a", {"timestamp": 1500}) == {tp("a/0"): (1, 2), tp("a/1"): (0, 0)}
        assert await reset("g", "a", {"timestamp": 9000}, partitions=[0]) == {tp("a/0"): (2, 4)}
        assert broker.partition("a", 0).readers == {"group:g": 4}
        for error, arguments in ((UnknownTopic, ("b", 0)), (InvalidSetting, ("a", "yesterday"))):
            with pytest.raises(error):
                await reset("g", *arguments)
        with pytest.raises(UnknownPartition):
            await reset("g", "a", 0, partitions=[2])
        broker.groups.join("g", Told(), topics=["a"])
        with pytest.raises(GroupNotEmpty):
            await reset("g", "a", "latest")


async def test_lag_and_what_retention_took_away_are_told(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("a")
        for _ in range(10):
            await broker.publish("a", b"x")
        await committed(broker, "g", 2)
        await broker.delete_records("a", 0, 5)
        found = broker.groups.describe("g")
        assert (found.offsets[0].committed, found.offsets[0].log_start, found.offsets[0].lag) == (2, 5, 5)
        assert found.removed_unread == 3
        assert broker.groups.explain("g")[-1] == "Retention removed 3 records before the group had read them."
        await broker.groups.delete("g")
        await committed(broker, "g", 6)
        assert broker.groups.describe("g").removed_unread == 0, "a new group of this name"


async def test_nothing_is_answered_while_it_loads_or_closes(tmp_path: Path) -> None:
    join = JoinRequest(protocol_type="c", protocols=(("p", b""),), session_timeout_s=10, rebalance_timeout_s=10)
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("a")
        await committed(broker, "g", 7)
        loading = GroupCoordinator(broker.views)
        calls: tuple[Callable[[GroupCoordinator], object], ...] = (
            lambda each: each.committed("g"),
            lambda each: each.list(),
            lambda each: each.describe("g"),
            lambda each: each.join("g", Told(), topics=["a"]),
            lambda each: each.heartbeat("g", "m"),
            lambda each: each.leave("g", "m"),
            lambda each: each.revoked("g", "m", []),
            lambda each: each.commit("g", {tp("a/0"): OffsetAndMetadata(1)}, receiver=Receiver()),
            lambda each: each.classic_join("g", join, Reply()),
            lambda each: each.classic_sync("g", SyncRequest(member_id="m", generation=1), Reply()),
            lambda each: each.classic_heartbeat("g", "m", 1),
            lambda each: each.classic_leave("g", "m"),
        )
        for call in calls:
            with pytest.raises(CoordinatorLoading):
                call(loading)
        await broker.groups.close()
        for call in calls:
            with pytest.raises(BrokerClosing):
                call(broker.groups)


async def test_partitions_that_are_added_are_dealt_out(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.create_topic("a")
        told = Told()
        broker.groups.join("g", told, topics=["a"])
        while not told.told:
            await told.wait()
        await broker.alter_topic("a", partitions=3)
        while len(told.last.assigned) < 3:
            await told.wait()
        assert any("a has 3 partitions" in line for line in broker.groups.explain("g"))
