"""Streams, and reading any queue's log by offset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.amqp.declared import Declared, declared

from trunkline.errors import TrunklineError
from trunkline.queues import Block, QueueConsumer
from trunkline_amqp.bridge import message_of
from trunkline_amqp.errors import AmqpError
from trunkline_amqp.fields import Timestamp
from trunkline_amqp.streams import parse_start

STREAM = {"x-queue-type": "stream"}


class Reader(QueueConsumer):
    """Remembers what it gets: offset, exchange, routing key, body."""

    def __init__(self, amqp: Declared) -> None:
        self.got: list[tuple[int, str, str, bytes | None]] = []
        self.error: TrunklineError | None = None
        self._amqp = amqp
        self._changed = trio.Event()

    def deliver(self, blocks: list[Block]) -> None:
        for block in blocks:
            place = self._amqp.topology.place(block.partition.topic.name)
            for record in block.records():
                message = message_of(record, place)
                self.got.append((record.offset, message.exchange.decode(), message.routing_key.decode(), record.value))
        self._changed.set()

    def cancelled(self, error: TrunklineError) -> None:
        self.error = error
        self._changed.set()

    def attach(self, queue: str, offset: Any = None, prefetch: int = 100) -> Reader:
        arguments = {} if offset is None else {"x-stream-offset": offset}
        found = self._amqp.topology.queue("/", queue, None)
        self.hold = found.consume(self, prefetch=prefetch, arguments=arguments)
        return self

    @property
    def bodies(self) -> list[bytes | None]:
        return [body for _, _, _, body in self.got]

    async def wait(self, count: int) -> Reader:
        with trio.fail_after(30):
            while len(self.got) < count and self.error is None:
                self._changed = trio.Event()
                await self._changed.wait()
        return self


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (None, "next"),
        ("first", "first"),
        (7, 7),
        (-1, 0),
        (Timestamp(5), ("time", 5000)),
        ("10m", ("time", 400_000)),
    ],
)
def test_positions(value: Any, start: object) -> None:
    assert parse_start(value, 1_000_000) == start


@pytest.mark.parametrize("value", ["", "soon", "5", "m", True, 1.5, [1]])
def test_positions_that_are_none(value: Any) -> None:
    with pytest.raises(AmqpError, match="x-stream-offset"):
        parse_start(value, 1_000_000)


@pytest.mark.trio
async def test_a_stream_keeps_its_messages_for_every_reader(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("s", arguments=STREAM)
        for number in range(5):
            await amqp.publish("", "s", b"%d" % number)
        queue = amqp.topology.queue("/", "s", None)
        assert queue.message_count == 5
        everything = [(number, "", "s", b"%d" % number) for number in range(5)]
        for offset, expected in (
            ("first", everything),
            ("last", everything[4:]),
            (3, everything[3:]),
            ("1h", everything),
        ):
            reader = await Reader(amqp).attach("s", offset).wait(len(expected))
            assert reader.got == expected
        late = [Reader(amqp).attach("s", offset) for offset in (None, "next", 100)]
        await trio.testing.wait_all_tasks_blocked()
        await amqp.publish("", "s", b"new")
        for reader in late:
            assert (await reader.wait(1)).bodies == [b"new"]
        assert queue.consumer_count == 7
        late[0].hold.close()
        assert queue.consumer_count == 6
    async with declared(tmp_path) as amqp:
        assert len((await Reader(amqp).attach("s", "first").wait(6)).got) == 6


@pytest.mark.trio
async def test_acknowledgements_are_credit(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("s", arguments=STREAM)
        for number in range(6):
            await amqp.publish("", "s", b"%d" % number)
        reader = await Reader(amqp).attach("s", "first", prefetch=2).wait(2)
        await trio.testing.wait_all_tasks_blocked()
        assert reader.bodies == [b"0", b"1"]
        assert reader.hold.settle([(0, 1)]) == 1
        await reader.wait(3)
        reader.hold.pause()
        reader.hold.reject([(1, 3)])
        await trio.testing.wait_all_tasks_blocked()
        assert len(reader.got) == 3
        reader.hold.resume()
        await reader.wait(5)
        assert (len(reader.got), reader.hold.unacked) == (5, 2)
        with pytest.raises(AmqpError, match="prefetch count is not set"):
            Reader(amqp).attach("s", "first", prefetch=0)


@pytest.mark.trio
async def test_what_is_bound_to_a_stream_gets_into_its_log_whoever_published_it(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic")
        await amqp.queue("s", arguments=STREAM)
        await amqp.bind("s", "e", "a.#")
        await amqp.bind("s", "amq.topic", "#")
        reader = Reader(amqp).attach("s", "first")
        assert await amqp.publish("e", "a.b", b"1", app_id="x") == 1
        await reader.wait(1)
        await amqp.publish("", "s", b"2")
        await reader.wait(2)
        await amqp.broker.publish("mqtt", b"3", key=b"home/temp", headers=[("unit", b"C")])
        await reader.wait(3)
        await amqp.publish("e", "b", b"unwanted")
        assert reader.got == [(0, "e", "a.b", b"1"), (1, "", "s", b"2"), (2, "amq.topic", "home.temp", b"3")]
        headers = [record.headers async for record in amqp.broker.read("s", follow=False)]
        assert dict(headers[2])["unit"] == b"C"
    async with declared(tmp_path) as amqp:
        await amqp.publish("e", "a.c", b"4")
        assert (await Reader(amqp).attach("s", 3).wait(1)).got == [(3, "e", "a.c", b"4")]


@pytest.mark.trio
async def test_the_log_of_any_queue_can_be_read_without_taking_anything(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "headers")
        await amqp.queue("q")
        await amqp.bind("q", "e", "", {"x-match": "any", "kind": "a"})
        await amqp.publish("e", "", b"1", headers={"kind": "a"})
        await amqp.publish("e", "", b"2", headers={"kind": "b"})
        await amqp.publish("", "q", b"3")
        await amqp.topology.queue("/", "q", None).core.purge()
        reader = await Reader(amqp).attach("q", "first").wait(2)
        assert sorted(reader.got) == [(0, "", "q", b"3"), (0, "e", "", b"1")]


@pytest.mark.trio
async def test_a_stream_that_is_deleted_ends_its_readers(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "fanout")
        await amqp.queue("s", arguments=STREAM)
        await amqp.bind("s", "e")
        await amqp.publish("", "s", b"1")
        reader = await Reader(amqp).attach("s", "first").wait(1)
        assert await amqp.topology.delete_queue("/", "s") == 1
        assert reader.error is not None
        assert (amqp.broker.queues.names(), sorted(amqp.broker.topics)) == ([], ["e"])


@pytest.mark.trio
@pytest.mark.parametrize("argument", ["x-message-ttl", "x-max-priority", "x-dead-letter-exchange"])
async def test_a_stream_has_no_arguments_of_queues_that_take(tmp_path: Path, argument: str) -> None:
    async with declared(tmp_path) as amqp:
        value: Any = "x" if argument == "x-dead-letter-exchange" else 5
        with pytest.raises(AmqpError, match=argument):
            await amqp.queue("s", arguments={**STREAM, argument: value})
        with pytest.raises(AmqpError, match="non-durable"):
            await amqp.queue("s", durable=False, arguments=STREAM)
        await amqp.queue("s", arguments={**STREAM, "x-max-age": "7D", "x-max-length-bytes": 10**9})
        settings = amqp.broker.topic("s").settings
        assert (settings.retention_ms, settings.retention_bytes) == (7 * 86_400_000, 10**9)
