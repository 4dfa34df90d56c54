"""Consumer groups through the client, against a broker over real sockets, on asyncio and on trio."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from trunkline.errors import (
    ConfigurationError,
    GroupNotEmpty,
    IllegalGeneration,
    InconsistentGroupProtocol,
    InvalidFilter,
    InvalidGroupName,
    InvalidSessionTimeout,
    LocalProtocolError,
    MemberFenced,
    UnknownGroup,
    UnknownMember,
    UnknownTopic,
)
from trunkline_native.client import Bus, ConsumerRecord, GroupReader, OffsetChange, connect

if TYPE_CHECKING:
    from tests.native.conftest import Consumer, RestartableBroker, Watch

pytestmark = pytest.mark.anyio

WAIT_S = 30.0


async def fill(bus: Bus, count: int, partitions: int = 4, topic: str = "orders") -> None:
    """``count`` records in each partition, whose values are their numbers there."""
    for number in range(count):
        for partition in range(partitions):
            await bus.send(topic, str(number), partition=partition)
    await bus.flush()


def offsets(*consumers: Consumer) -> dict[int, list[int]]:
    """By partition, the offsets that the consumers were given, each of them in its order."""
    found: dict[int, list[int]] = {}
    for consumer in consumers:
        for record in consumer.records:
            found.setdefault(record.partition, []).append(record.offset)
    return found


def given(*consumers: Consumer) -> int:
    return sum(len(consumer.records) for consumer in consumers)


async def take(reader: GroupReader, count: int) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    with anyio.fail_after(WAIT_S):
        async for record in reader:
            found.append(record)
            if len(found) == count:
                break
    return found


async def committed(bus: Bus, group: str = "billing") -> dict[int, int]:
    return {partition: entry.offset for (_, partition), entry in (await bus.group(group).committed()).items()}


# -- sharing --------------------------------------------------------------------------------------


async def test_a_member_alone_gets_everything(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=4)
    await fill(bus, 5)
    async with bus.group("billing").subscribe("orders") as records:
        assert records.assigned == [("orders", number) for number in range(4)]
        found = await take(records, 20)
    assert {(record.partition, record.offset) for record in found} == {(p, o) for p in range(4) for o in range(5)}


async def test_two_members_share_and_each_record_comes_once(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=4)
    first = await watch.consume(bus)
    second = await watch.consume(bus)
    await watch.until(lambda: len(second.reader.assigned) == 2)
    await fill(bus, 100)
    await watch.until(lambda: given(first, second) == 400)
    assert set(first.reader.assigned).isdisjoint(second.reader.assigned)
    assert offsets(first, second) == {partition: list(range(100)) for partition in range(4)}


async def test_when_a_third_member_joins_only_what_moves_stops(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=6)
    first, second = await watch.consume(bus), await watch.consume(bus)
    await watch.until(lambda: len(second.reader.assigned) == 3)
    moved = set(first.revoked)
    await fill(bus, 50, 6)
    await watch.until(lambda: given(first, second) >= 100)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fill, bus, 50, 6)
        third = await watch.consume(bus)
        await watch.until(lambda: len(third.reader.assigned) == 2)
    await watch.until(lambda: given(first, second, third) == 600)
    assert offsets(first, second, third) == {partition: list(range(100)) for partition in range(6)}
    assert len(first.revoked - moved) == len(second.revoked) == 1, "one partition of each is enough for the third"
    assert len(first.reader.assigned) == len(second.reader.assigned) == 2


async def test_who_leaves_hands_over_at_once_and_nothing_comes_twice(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=4)
    first, second = await watch.consume(bus), await watch.consume(bus)
    await fill(bus, 10)
    await watch.until(lambda: given(first, second) == 40)
    await second.reader.commit()
    second.stop()
    await watch.until(lambda: len(first.reader.assigned) == 4)
    await fill(bus, 10)
    await watch.until(lambda: given(first, second) == 80)
    assert {partition: sorted(found) for partition, found in offsets(first, second).items()} == {
        partition: list(range(20)) for partition in range(4)
    }


async def test_what_is_in_hand_is_finished_and_committed_before_its_partition_goes(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("invoices")
    await fill(bus, 10, 1)
    first = await watch.consume(bus, topics=["orders", "invoices"])
    first.hold = anyio.Event()
    await watch.until(lambda: len(first.records) == 1)
    second = await watch.consume(bus)  # wants only what the first has in hand
    assert (second.reader.assigned, second.records) == ([], [])
    first.hold.set()
    await watch.until(lambda: given(first, second) == 10)
    assert (offsets(first), offsets(second)) == ({0: [0]}, {0: list(range(1, 10))})


async def test_a_member_that_stays_at_work_too_long_loses_what_it_has_in_hand(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("invoices")
    await fill(bus, 3, 1)
    first = await watch.consume(bus, topics=["orders", "invoices"], rebalance_timeout_s=0.2)
    first.hold = anyio.Event()
    await watch.until(lambda: len(first.records) == 1)
    second = await watch.consume(bus)
    await watch.until(lambda: len(second.records) == 3)
    with pytest.raises(IllegalGeneration, match="what is in hand was given to another member"):
        await first.reader.commit()
    first.hold.set()
    await bus.publish("invoices", "x")
    await watch.until(lambda: len(first.records) == 2)
    assert first.reader.statistics().lost == 0


async def test_patterns_take_topics_that_are_made_later(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders.eu")
    wildcard = await watch.consume(bus, "first", "orders.*")
    regular = await watch.consume(bus, "second", ["invoices", re.compile(r"ORDERS\.(eu|us)", re.IGNORECASE)])
    await bus.create_topic("orders.us")
    await bus.create_topic("returns.us")
    await watch.until(lambda: len(wildcard.reader.assigned) == 2 and len(regular.reader.assigned) == 3)
    await bus.publish("orders.us", "x")
    await watch.until(lambda: given(wildcard, regular) == 2)
    assert wildcard.reader.assigned == [("orders.eu", 0), ("orders.us", 0)]


async def test_a_deleted_topic_goes_and_the_others_stay(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders.eu")
    await bus.create_topic("orders.us")
    consumer = await watch.consume(bus, topics="orders.*")
    await bus.delete_topic("orders.us")
    await bus.publish("orders.eu", "x")
    await watch.until(lambda: given(consumer) == 1)
    assert consumer.error is None
    await bus.create_topic("orders.us")
    await bus.publish("orders.us", "y")
    await watch.until(lambda: given(consumer) == 2)


# -- committing -----------------------------------------------------------------------------------


async def test_nothing_committed_begins_at_the_start_that_was_asked_for(bus: Bus) -> None:
    await fill(bus, 3, 1)
    async with (
        bus.group("early").subscribe("orders") as early,
        bus.group("late").subscribe("orders", start="latest") as late,
    ):
        await bus.publish("orders", "3")
        assert (await take(early, 1))[0].offset == 0
        assert (await take(late, 1))[0].offset == 3


async def test_the_start_is_kept_even_if_nothing_was_read(bus: Bus) -> None:
    await fill(bus, 3, 1)
    async with bus.group("late").subscribe("orders", start="latest"):
        pass
    await bus.publish("orders", "3")
    async with bus.group("late").subscribe("orders", start="latest") as records:
        assert (await take(records, 1))[0].offset == 3


async def test_leaving_commits_what_was_given_out_before_the_record_in_hand(bus: Bus) -> None:
    await fill(bus, 10, 1)
    async with bus.group("billing").subscribe("orders") as records:
        await take(records, 5)
    assert await committed(bus) == {0: 4}
    async with bus.group("billing").subscribe("orders") as records:
        assert [record.offset for record in await take(records, 2)] == [4, 5]
        await records.commit()
    assert await committed(bus) == {0: 6}


async def test_commits_come_by_themselves_after_the_interval(bus: Bus, watch: Watch) -> None:
    await fill(bus, 10, 1)
    consumer = await watch.consume(bus, auto_commit_interval_s=0.05)
    await watch.until(lambda: len(consumer.records) == 10)
    with anyio.fail_after(WAIT_S):
        while await committed(bus) != {0: 10}:
            await anyio.lowlevel.checkpoint()


async def test_without_auto_commit_what_was_not_committed_comes_again(bus: Bus) -> None:
    await fill(bus, 10, 1)
    async with bus.group("billing").subscribe("orders", auto_commit=False) as records:
        found = await take(records, 7)
        await records.commit(found[4], metadata="batch 1")
    (entry,) = (await bus.group("billing").committed()).values()
    assert (entry.offset, entry.metadata) == (5, "batch 1")
    async with bus.group("billing").subscribe("orders", auto_commit=False) as records:
        assert [record.offset for record in await take(records, 5)] == [5, 6, 7, 8, 9]


async def test_chunks_are_in_hand_as_a_whole(bus: Bus) -> None:
    await fill(bus, 10, 1)
    async with bus.group("billing").subscribe("orders") as records:
        chunk = await records.next_chunk()
        assert chunk[0].offset == 0
    assert await committed(bus) == {0: 0}
    async with bus.group("billing").subscribe("orders") as records:
        chunk = await records.next_chunk()
        await records.commit()
    assert await committed(bus) == {0: chunk[-1].offset + 1}


async def test_a_record_of_a_partition_that_went_cannot_be_committed(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=2)
    await fill(bus, 5, 2)
    first = await watch.consume(bus, auto_commit=False)
    await watch.until(lambda: len(first.records) == 10)
    second = await watch.consume(bus)
    await watch.until(lambda: len(second.records) == 5)  # again, since the first has committed nothing
    (gone,) = first.revoked
    lost = next(record for record in first.records if (record.topic, record.partition) == gone)
    with pytest.raises(IllegalGeneration, match="another member"):
        await first.reader.commit(lost)
    kept = next(record for record in first.records if (record.topic, record.partition) != gone)
    await first.reader.commit(kept)
    assert (await committed(bus))[kept.partition] == kept.offset + 1


async def test_on_revoked_may_still_commit(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=2)
    await fill(bus, 5, 2)

    async def commit_all(partitions: object) -> None:
        await first.reader.commit()

    first = await watch.consume(bus, auto_commit=False, on_revoked=commit_all)
    await watch.until(lambda: len(first.records) == 10)
    second = await watch.consume(bus)
    await fill(bus, 1, 2)
    await watch.until(lambda: given(first, second) == 12)
    assert [record.offset for record in second.records] == [5]


async def test_an_offset_that_retention_has_overtaken_is_told_and_counted(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(bus, 10, 1)
    await bus.group("billing").commit({("orders", 0): 2})
    await bus.delete_records("orders", {0: 6})
    with caplog.at_level(logging.WARNING, "trunkline_native.client"):
        async with bus.group("billing").subscribe("orders") as records:
            assert [record.offset for record in await take(records, 4)] == [6, 7, 8, 9]
            assert (records.statistics().restarts, records.statistics().skipped) == (1, 4)
    assert "orders/0: offset 2 is not there any more, only 6 to 10; going on from earliest" in caplog.text


# -- questions and changes ------------------------------------------------------------------------


async def test_describe_lag_and_list_tell_how_a_group_is(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=2)
    await fill(bus, 10, 2)
    group = bus.group("billing")
    async with group.subscribe("orders", instance_id="till-1", session_timeout_s=20) as records:
        found = await take(records, 5)
        await records.commit()
        described = await group.describe()
        (member,) = described.members
        assert (member.instance_id, member.client, member.topics) == ("till-1", "trunkline-python", ("orders",))
        assert (member.assigned, member.revoking, member.session_timeout_s) == ((("orders", 0), ("orders", 1)), (), 20)
        assert (described.kind, described.state, described.protocol) == ("assigned", "Stable", "sticky")
        assert {entry.owner for entry in described.offsets} == {member.member_id}
        assert described.last_rebalance is not None
        assert "joined" in described.last_rebalance.reason
        assert described.explanation
        assert (await group.lag())["orders", found[0].partition] == 5
        assert described.lag == 15
    (listed,) = await bus.list_groups()
    assert (listed.name, listed.kind) == ("billing", "assigned")


async def test_a_group_without_members_is_reset_and_reads_again(bus: Bus) -> None:
    await bus.create_topic("orders", partitions=2)
    for number in range(4):
        for partition in range(2):
            await bus.publish("orders", str(number), partition=partition, timestamp=number * 1000)
    group = bus.group("billing")
    assert await group.reset("latest", "orders") == {("orders", p): OffsetChange(None, 4) for p in range(2)}
    assert await group.reset(1, dry_run=True) == {("orders", p): OffsetChange(4, 1) for p in range(2)}
    assert await committed(bus) == {0: 4, 1: 4}
    moment = datetime.fromtimestamp(2, UTC)
    assert await group.reset(moment, "orders", partitions=[1]) == {("orders", 1): OffsetChange(4, 2)}
    async with group.subscribe("orders") as records:
        assert [(record.partition, record.offset) for record in await take(records, 2)] == [(1, 2), (1, 3)]
        with pytest.raises(GroupNotEmpty):
            await group.reset("earliest", "orders")
        with pytest.raises(GroupNotEmpty):
            await group.delete()
        with pytest.raises(UnknownMember):
            await group.commit({("orders", 0): 1})
    await group.delete("orders")
    assert await committed(bus) == {}
    await group.commit({("orders", 0): 1})
    await group.delete()
    with pytest.raises(UnknownGroup):
        await group.describe()


# -- what goes wrong ------------------------------------------------------------------------------


async def test_arguments_and_groups_that_are_not_allowed(bus: Bus) -> None:
    group = bus.group("billing")
    with pytest.raises(ConfigurationError, match="session_timeout_s=0"):
        group.subscribe("orders", session_timeout_s=0)
    with pytest.raises(ConfigurationError, match="session_timeout_s"):
        bus.group("billing").subscribe("orders", session_timeout_s=1e9)
    with pytest.raises(ConfigurationError, match="rebalance_timeout_s"):
        bus.group("billing").subscribe("orders", rebalance_timeout_s=float("inf"))
    with pytest.raises(ConfigurationError, match="start='sometimes'"):
        group.subscribe("orders", start="sometimes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one topic"):
        group.subscribe([])
    with pytest.raises(ValueError, match="one topic"):
        await group.reset("earliest", partitions=[0])
    with pytest.raises(LocalProtocolError, match="async with"):
        await anext(group.subscribe("orders"))
    with pytest.raises(InvalidSessionTimeout):
        async with group.subscribe("orders", session_timeout_s=0.001):
            pass
    with pytest.raises(InvalidFilter):
        async with group.subscribe(re.compile("x" * 2000)):
            pass
    with pytest.raises(InvalidGroupName):
        async with bus.group("a\nb").subscribe("orders"):
            pass
    with pytest.raises(UnknownTopic):
        await group.reset("earliest", "nobody")
    async with group.subscribe("orders"):
        with pytest.raises(InconsistentGroupProtocol, match="sticky"):
            async with group.subscribe("orders", assignor="range"):
                pass


async def test_of_two_with_the_same_instance_id_the_first_is_fenced(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=2)
    first = await watch.consume(bus, instance_id="till-1")
    second = await watch.consume(bus, instance_id="till-1")
    await watch.until(lambda: first.error is not None)
    assert isinstance(first.error, MemberFenced)
    await fill(bus, 1, 2)
    await watch.until(lambda: len(second.records) == 2)
    assert first.records == []


async def test_a_static_member_comes_back_to_its_partitions_and_nothing_moves(bus: Bus, watch: Watch) -> None:
    await bus.create_topic("orders", partitions=4)
    other = await watch.consume(bus)
    first = await watch.consume(bus, instance_id="till-1")
    await watch.until(lambda: len(first.reader.assigned) == 2)
    had, told = first.reader.assigned, other.reader.statistics().assignments
    first.stop()
    again = await watch.consume(bus, instance_id="till-1")
    assert again.reader.assigned == had
    assert other.reader.statistics().assignments == told


async def test_what_a_callback_raises_ends_the_reading(bus: Bus) -> None:
    def refuse(partitions: object) -> None:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        async with bus.group("billing").subscribe("orders", on_assigned=refuse):
            pass
    assert [found.members for found in await bus.list_groups()] in ([], [0])


async def test_a_program_that_is_cancelled_commits_and_leaves(broker: RestartableBroker, bus: Bus) -> None:
    await fill(bus, 5, 1)
    with anyio.CancelScope() as scope:
        async with connect(broker.url) as other, other.group("billing").subscribe("orders") as records:
            await take(records, 3)
            scope.cancel()
            await take(records, 1)
    assert [found.members for found in await bus.list_groups()] == [0]
    assert await committed(bus) == {0: 3}


async def test_a_callback_that_fails_on_leaving_is_told_and_nothing_is_committed(bus: Bus) -> None:
    await fill(bus, 5, 1)

    async def refuse(partitions: object) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        async with bus.group("billing").subscribe("orders", on_revoked=refuse) as records:
            await take(records, 3)
    assert await committed(bus) == {}
    assert [found.members for found in await bus.list_groups()] in ([], [0])


async def test_a_handler_that_never_waits_leaves_the_event_loop_its_turns(bus: Bus) -> None:
    await fill(bus, 200, 1)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with bus.group("billing").subscribe("orders") as records, anyio.create_task_group() as tasks:
        (first,) = await take(records, 1)  # those behind it are in memory now
        assert first.offset == 0
        tasks.start_soon(count)
        for _ in range(100):
            await anext(records)
            until = time.perf_counter() + 0.005  # work, 0.5 s in all
            while time.perf_counter() < until:
                pass
        tasks.cancel_scope.cancel()
    assert turns >= 2


async def test_a_closed_reader_ends(bus: Bus) -> None:
    async with bus.group("billing").subscribe("orders") as records:
        await records.aclose()
        assert [record async for record in records] == []


async def test_memory_is_shared_by_the_partitions_of_a_reader(broker: RestartableBroker, bus: Bus) -> None:
    await bus.create_topic("orders", partitions=8)
    for partition in range(8):
        for _ in range(100):
            await bus.send("orders", b"x" * 10_000, partition=partition)
    await bus.flush()
    async with bus.group("billing").subscribe("orders", buffer_bytes=524_288) as records:
        await anyio.wait_all_tasks_blocked()
        waiting = sum(len(chunk.body) for chunk in records._inbox.chunks)
        assert waiting <= 8 * (65536 + 2 * 131_072)
        assert len(await take(records, 800)) == 800
