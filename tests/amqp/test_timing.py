"""What waits and what expires: delayed messages, and queues that nobody uses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from tests.amqp.declared import declared
from tests.queues.conftest import Taker

from trunkline_amqp.arguments import QueueArguments
from trunkline_amqp.errors import AmqpError
from trunkline_amqp.expiry import Expiries
from trunkline_amqp.queue_entry import QueueEntry


def expiring(name: str, expires_ms: int, *, has_consumers: bool = False) -> QueueEntry:
    queue = QueueEntry(
        "/", name, name, durable=True, auto_delete=False, owner=None, arguments=QueueArguments(expires_ms=expires_ms)
    )
    queue.core = SimpleNamespace(consumers=("one",) if has_consumers else ())
    return queue


def test_a_queue_expires_when_it_was_not_used_for_so_long() -> None:
    expiries = Expiries()
    short, long, never = expiring("s", 1000), expiring("l", 5000), expiring("n", -1)
    assert [expiries.used(queue, 10.0) for queue in (short, long, never)] == [True, True, False]
    assert expiries.next_due_s == 11.0
    assert expiries.due(10.5) == []
    assert expiries.used(short, 10.9) is False
    assert expiries.due(11.5) == []
    assert expiries.due(11.9) == [short]
    expiries.remove(short)
    assert expiries.due(15.0) == [long]


def test_a_queue_with_consumers_does_not_expire() -> None:
    expiries = Expiries()
    queue = expiring("q", 1000, has_consumers=True)
    expiries.used(queue, 0.0)
    assert expiries.due(5.0) == []
    queue.core.consumers = ()
    assert expiries.due(5.5) == []
    assert expiries.due(6.0) == [queue]


@pytest.mark.trio
async def test_a_queue_that_nobody_uses_goes(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("q", arguments={"x-expires": 1})
        with trio.fail_after(30):
            while "q" in amqp.broker.queues:
                await trio.lowlevel.checkpoint()
        with pytest.raises(AmqpError, match="no queue 'q'"):
            await amqp.queue("q", passive=True)


@pytest.mark.trio
async def test_a_delayed_exchange_gives_out_messages_when_they_are_due(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("later", "x-delayed-message", arguments={"x-delayed-type": "topic"})
        await amqp.queue("q", arguments={"x-message-ttl": 3_600_000})
        await amqp.bind("q", "later", "a.#")
        await amqp.publish("later", "a", b"late", headers={"x-delay": 60_000})
        await amqp.publish("later", "a.b", b"soon", headers={"x-delay": 1})
        await amqp.publish("later", "a.c", b"now", headers={"x-delay": "no number"})
        await amqp.publish("later", "b", b"unwanted")
        taker = await Taker().attach(amqp.topology.queue("/", "q", None).core).wait(2)
        assert set(taker.values) == {b"now", b"soon"}
        assert amqp.topology.queue("/", "q", None).core.state.delayed == 1
    async with declared(tmp_path) as amqp:
        await amqp.exchange("later", "x-delayed-message", arguments={"x-delayed-type": "topic"})
        assert amqp.topology.queue("/", "q", None).core.state.delayed == 1


@pytest.mark.trio
async def test_a_delayed_exchange_needs_a_kind(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        for arguments in ({}, {"x-delayed-type": "x-delayed-message"}):
            with pytest.raises(AmqpError, match="x-delayed-type"):
                await amqp.exchange("later", "x-delayed-message", arguments=arguments)
