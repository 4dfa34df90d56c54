"""Queues and exchanges that do not outlive the broker, and what is not written for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.amqp.declared import Declared, declared

from trunkline_amqp.errors import AmqpError

pytestmark = pytest.mark.trio


def written(amqp: Declared, topic: str) -> int:
    """Records in a topic."""
    return amqp.broker.topic(topic).partitions[0].high_watermark


def written_bytes(path: Path) -> int:
    """In all segments."""
    return sum(segment.stat().st_size for segment in path.rglob("*.log"))


async def test_a_message_to_an_exclusive_queue_is_not_written(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        queue = await amqp.queue("", durable=False, exclusive=True, owner=amqp)
        assert queue.name.startswith("amq.gen-")
        before = written_bytes(tmp_path)
        assert await amqp.publish("", queue.name, b"reply", delivery_mode=2) == 1
        assert queue.core.state.ready == 1
        assert written_bytes(tmp_path) == before


async def test_a_transient_message_that_only_volatile_queues_want_is_not_written(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic")
        await amqp.queue("passing", durable=False)
        await amqp.queue("kept")
        await amqp.bind("passing", "e", "#")
        await amqp.bind("kept", "e", "k.#")
        assert await amqp.publish("e", "a", b"1") == 1
        assert written(amqp, "e") == 0
        assert await amqp.publish("e", "a", b"2", delivery_mode=2) == 1
        assert written(amqp, "e") == 1
        assert await amqp.publish("e", "k.a", b"3") == 2
        assert written(amqp, "e") == 2
        assert await amqp.messages("passing") == [("e", "a", b"1"), ("e", "a", b"2"), ("e", "k.a", b"3")]
        await amqp.broker.publish("e", b"4", key=b"z")
        await amqp.settled()
        assert await amqp.bodies("passing") == [b"1", b"2", b"3", b"4"]
        assert await amqp.bodies("kept") == [b"3"]


async def test_transient_messages_do_not_overtake_what_is_on_its_way_to_the_disk(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "fanout")
        await amqp.queue("q", durable=False)
        await amqp.bind("q", "e")
        route = amqp.topology.route("/", "e", "")
        assert route.when_transient() is not route
        route.targets[0].partition.stage_record(1, b"", b"persistent")
        assert route.when_transient() is route
        await amqp.publish("e", "", b"transient")
        assert await amqp.bodies("q") == [b"persistent", b"transient"]
        assert written(amqp, "e") == 2


async def test_exchanges_that_do_not_last_have_no_topic(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic", durable=False)
        await amqp.queue("kept")
        await amqp.queue("passing", durable=False)
        await amqp.bind("kept", "e", "k")
        await amqp.bind("passing", "e", "#")
        assert await amqp.publish("e", "k", b"1") == 2
        assert await amqp.messages("kept") == await amqp.messages("passing") == [("e", "k", b"1")]
        assert "e" not in amqp.broker.topics


async def test_exclusive_queues_are_for_their_connection_and_go_with_it(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        mine, other = object(), object()
        await amqp.queue("q", durable=False, exclusive=True, owner=mine)
        for call in (
            amqp.topology.declare_queue("/", "q", exclusive=True, owner=other),
            amqp.topology.declare_queue("/", "q", passive=True, owner=other),
            amqp.topology.delete_queue("/", "q", owner=other),
            amqp.topology.bind_queue("/", "q", "amq.fanout", "", owner=other),
        ):
            with pytest.raises(AmqpError, match="cannot obtain exclusive access"):
                await call
        await amqp.topology.bind_queue("/", "q", "amq.fanout", "", owner=mine)
        amqp.topology.connection_closed(mine)
        with trio.fail_after(30):
            while await _is_there(amqp, "q"):
                await trio.lowlevel.checkpoint()
        assert await amqp.publish("amq.fanout", "", b"1") == 0


async def _is_there(amqp: Declared, queue: str) -> bool:
    try:
        await amqp.topology.declare_queue("/", queue, passive=True, owner=None)
    except AmqpError as error:
        return error.reply_code != 404
    return True


async def test_an_auto_delete_queue_goes_with_its_last_consumer(tmp_path: Path) -> None:
    from tests.queues.conftest import Taker

    async with declared(tmp_path) as amqp:
        queue = await amqp.queue("q", durable=False, auto_delete=True)
        consumptions = [queue.consume(Taker()) for _ in range(2)]
        for number, consumption in enumerate(consumptions):
            consumption.close()
            amqp.topology.consumer_gone(queue)
            await trio.testing.wait_all_tasks_blocked()
            assert await _is_there(amqp, "q") == (number == 0)


async def test_nothing_of_it_is_there_after_a_restart(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("passing", durable=False)
        await amqp.queue("kept", durable=True)
        await amqp.exchange("e", "fanout")
        await amqp.bind("passing", "e")
        await amqp.bind("kept", "e")
        await amqp.publish("e", "", b"1", delivery_mode=2)
    async with declared(tmp_path) as amqp:
        assert not await _is_there(amqp, "passing")
        assert amqp.broker.queues.names() == ["kept"]
        assert await amqp.bodies("kept") == [b"1"]
        await amqp.queue("passing", durable=True)
        assert await amqp.bodies("passing") == []
