"""Groups whose members die, lose their connection, are away too long; and a broker that is started again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec
import pytest

from trunkline.config import BrokerConfig, GroupsConfig
from trunkline_native import frames as f
from trunkline_native import group_frames as g
from trunkline_native.client import Bus, connect
from trunkline_native.codec import CLOSED, FrameDecoder, decode_cbor, encode

if TYPE_CHECKING:
    from tests.native.conftest import Consumer, RestartableBroker, Watch

pytestmark = pytest.mark.anyio

WAIT_S = 60.0
SESSION_S = 0.3  # of members that are to be missed soon
IMPATIENT = BrokerConfig(plugins=[], groups=GroupsConfig(min_session_timeout_s=0.1))


@pytest.fixture
def broker(run_broker: Callable[..., RestartableBroker]) -> RestartableBroker:
    """A broker that allows short session timeouts."""
    return run_broker(IMPATIENT)


async def fill(bus: Bus, count: int, partitions: int = 4) -> None:
    for number in range(count):
        for partition in range(partitions):
            await bus.send("orders", str(number), partition=partition)
    await bus.flush()


def seen(*consumers: Consumer) -> set[tuple[int, int]]:
    return {(record.partition, record.offset) for consumer in consumers for record in consumer.records}


def everything(count: int, partitions: int = 4) -> set[tuple[int, int]]:
    return {(partition, offset) for partition in range(partitions) for offset in range(count)}


class RawMember:
    """A member that is nothing but a socket: it does what it is told to, and can die."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(f.SERVER_FRAMES, 2**20)

    async def send(self, header: f.Header, body: bytes = b"") -> None:
        await self.stream.send(encode(header, body))

    async def receive(self, kind: type[f.Header]) -> f.Frame:
        """The next frame, which is of this kind."""
        with anyio.fail_after(WAIT_S):
            while not isinstance(event := self._decoder.next_event(), f.Frame):
                assert event is not CLOSED
                self._decoder.receive_data(await self.stream.receive())
        assert type(event.header) is kind, event.header
        return event

    async def join(self) -> set[tuple[str, int]]:
        """Say hello, join, and give what was assigned first."""
        await self.send(f.Hello(0, [1]))
        await self.receive(f.Welcome)
        await self.send(g.JoinGroup(1, 1, "billing", ("orders",), session_timeout_ms=round(SESSION_S * 1000)))
        await self.receive(g.JoinedGroup)
        return await self.assigned()

    async def assigned(self) -> set[tuple[str, int]]:
        frame = await self.receive(g.Assigned)
        found = msgspec.convert(decode_cbor(frame.body), g.AssignedPartitions)
        return {(topic, number) for topic, numbers in found.assigned.items() for number in numbers}


async def test_a_member_that_dies_is_replaced_after_its_session_timeout(
    broker: RestartableBroker, bus: Bus, watch: Watch
) -> None:
    await bus.create_topic("orders", partitions=2)
    await fill(bus, 10, 2)
    dying = RawMember(await anyio.connect_tcp("127.0.0.1", broker.port))
    assert await dying.join() == {("orders", 0), ("orders", 1)}
    body = g.encode_body({"orders": [g.OffsetEntry(0, 3), g.OffsetEntry(1, 7)]})
    await dying.send(g.CommitOffsets(2, "billing", 1), body)
    await dying.receive(f.Done)
    await anyio.aclose_forcefully(dying.stream)
    heir = await watch.consume(bus)
    await watch.until(lambda: len(heir.records) == 10)
    assert seen(heir) == {(0, offset) for offset in range(3, 10)} | {(1, offset) for offset in range(7, 10)}
    assert any("was not heard of" in sentence for sentence in (await bus.group("billing").describe()).explanation)


class Gate:
    """Between clients and a broker; lets nothing through while it is shut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._streams: set[anyio.abc.SocketStream] = set()
        self.is_shut = False
        self.url = ""

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        async with client:
            if self.is_shut:
                return
            async with await anyio.connect_tcp("127.0.0.1", self._target) as server:
                self._streams |= {client, server}
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._copy, client, server, tasks)
                    tasks.start_soon(self._copy, server, client, tasks)
                self._streams -= {client, server}

    async def _copy(
        self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, tasks: anyio.abc.TaskGroup
    ) -> None:
        try:
            async for data in source:
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        tasks.cancel_scope.cancel()

    async def cut(self) -> None:
        """Break every connection."""
        for stream in tuple(self._streams):
            await anyio.aclose_forcefully(stream)

    async def shut(self) -> None:
        self.is_shut = True
        await self.cut()


@asynccontextmanager
async def open_gate(broker: RestartableBroker) -> AsyncIterator[Gate]:
    gate = Gate(broker.port)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        gate.url = f"trunkline://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, gate.serve)
        yield gate
        tasks.cancel_scope.cancel()


async def test_a_member_whose_connection_breaks_keeps_its_partitions(
    broker: RestartableBroker, bus: Bus, watch: Watch
) -> None:
    await bus.create_topic("orders", partitions=4)
    async with open_gate(broker) as gate, connect(gate.url) as other:
        first, second = await watch.consume(bus), await watch.consume(other)
        await watch.until(lambda: len(second.reader.assigned) == 2)
        told = len(first.events)
        for _ in range(5):
            await fill(bus, 20)
            await gate.cut()
        await watch.until(lambda: len(first.records) + len(second.records) == 400)
        await second.reader.commit()  # it may have been cut a moment ago
        assert seen(first, second) == everything(100)
        assert (first.events[told:], second.revoked, second.reader.statistics().lost) == ([], set(), 0)
        second.stop()
        first.stop()


async def test_a_subscription_that_was_never_opened_joins_nothing(broker: RestartableBroker, bus: Bus) -> None:
    async with open_gate(broker) as gate, connect(gate.url) as other:
        records = other.group("billing").subscribe("orders")
        await gate.cut()
        await other.list_topics()  # connected again
        assert await bus.list_groups() == []
        await records.aclose()
        assert await bus.list_groups() == []


async def test_a_member_that_was_away_too_long_gives_out_nothing_and_joins_as_somebody_new(
    broker: RestartableBroker, bus: Bus, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trunkline_native.client")
    await bus.create_topic("orders", partitions=2)
    async with open_gate(broker) as gate, connect(gate.url) as other:
        away = await watch.consume(other, session_timeout_s=SESSION_S)
        away.hold = anyio.Event()
        await fill(bus, 10, 2)
        await watch.until(lambda: len(away.records) == 1)
        heir = await watch.consume(bus)
        await watch.until(lambda: len(heir.reader.assigned) == 1)
        await gate.shut()
        await watch.until(lambda: len(heir.records) == 20)  # what was in hand too: it was never committed
        release, away.hold = away.hold, None
        release.set()
        await anyio.wait_all_tasks_blocked()
        assert len(away.records) == 1
        gate.is_shut = False
        await watch.until(lambda: away.reader.statistics().lost == 1 and len(away.reader.assigned) == 1)
        await fill(bus, 1, 2)
        await watch.until(lambda: len(away.records) == 2)
        assert away.records[1].offset == 10
        away.stop()
    assert "group billing: put out" in caplog.text
    caplog.clear()


async def test_a_live_group_survives_a_restart_of_the_broker(
    run_broker: Callable[..., RestartableBroker], watch: Watch
) -> None:
    broker = run_broker(IMPATIENT, store="segments")
    async with connect(broker.url) as bus, connect(broker.url) as other:
        await bus.create_topic("orders", partitions=4)
        first = await watch.consume(bus, auto_commit_interval_s=0.05)
        second = await watch.consume(other, auto_commit_interval_s=0.05)
        await fill(bus, 50)
        await watch.until(lambda: len(first.records) + len(second.records) == 200)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fill, bus, 50)
            await broker.stop()
            await broker.start()
        await watch.until(lambda: seen(first, second) == everything(100))
        await watch.until(lambda: len(first.reader.assigned) == len(second.reader.assigned) == 2)
        for consumer in (first, second):
            assert consumer.error is None
            consumer.stop()
