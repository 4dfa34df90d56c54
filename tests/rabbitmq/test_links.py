"""Links with a real RabbitMQ, in both directions."""

from __future__ import annotations

import re
from typing import Any

import confluent_kafka
import pika
import pytest
import trio
from tests.rabbitmq.world import WAIT_S, OpenBridge, Users, link, until, values

from rabbitmq_server import free_port
from trunkline.queues import QueueConfig

pytestmark = pytest.mark.trio

EVERYTHING: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "headers": {
        "text": "é",
        "bytes": b"\0\xff",
        "true": True,
        "small": 1,
        "large": 2**40,
        "list": ["a", 1, None],
        "table": {"inside": {"deep": "er"}},
        "nothing": None,
    },
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "3600000",
    "message_id": "m",
    "timestamp": 1_700_000_000,
    "type": "t",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "i",
}


# -- inward ----------------------------------------------------------------------------------------


async def test_messages_of_a_queue_become_records_and_are_acknowledged(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique)
    await users.publish(*((unique, b"%d" % number) for number in range(100)))
    async with bridged(inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").counters["messages"] == 100)
        assert await values(broker, "orders") == [b"%d" % number for number in range(100)]
    assert await users.count(unique) == 0


async def test_messages_of_an_exchange_come_through_a_queue_of_the_link(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.do(lambda channel: channel.exchange_declare(unique, "topic"))
    inbound = {"exchange": unique, "queue": f"{unique}-in", "routing_keys": ["order.*", "refund.#"], "topic": "orders"}
    async with bridged(inbound={"in": inbound}) as broker:
        await until(lambda: link(broker, "in").state == "running")
        await users.publish(("order.new", b"1"), ("invoice.new", b"2"), ("refund.a.b", b"3"), exchange=unique)
        await until(lambda: link(broker, "in").counters["messages"] == 2)
        records = [(record.key, record.value) async for record in broker.read("orders", follow=False)]
    assert records == [(b"order.new", b"1"), (b"refund.a.b", b"3")]


async def test_what_nobody_takes_for_now_waits_in_rabbitmq(users: Users, bridged: OpenBridge, unique: str) -> None:
    await users.declare(unique)
    inbound = {"queue": unique, "topic": "orders", "prefetch": 10}
    async with bridged(inbound={"in": inbound}) as broker:
        orders = await broker.create_topic("orders", settings={"max.message.bytes": "100000"})
        await broker.queues.declare("orders", QueueConfig(max_length=5, overflow="reject"))
        await until(lambda: link(broker, "in").state == "running")
        await users.publish(*((unique, b"%d" % number) for number in range(30)))
        await until(lambda: link(broker, "in").state == "blocked")
        assert "QueueFull" in link(broker, "in").error
        assert orders.partition(0).high_watermark <= 10
        await broker.queues.alter("orders", max_length=-1)
        await until(lambda: link(broker, "in").counters["messages"] == 30)
        assert await values(broker, "orders") == [b"%d" % number for number in range(30)]
    assert await users.count(unique) == 0


@pytest.mark.parametrize(("policy", "left"), [("reject", 0), ("wait", 1)])
async def test_a_message_that_is_too_large_for_the_topic(
    users: Users, bridged: OpenBridge, unique: str, policy: str, left: int
) -> None:
    await users.declare(unique)
    await users.publish((unique, b"before"), (unique, bytes(200_000)), (unique, b"after"))
    inbound = {"queue": unique, "topic": "orders", "oversized": policy}
    async with bridged(inbound={"in": inbound}) as broker:
        await broker.create_topic("orders", settings={"max.message.bytes": "100000"})
        await until(lambda: link(broker, "in").counters["messages"] == 2)
        assert await values(broker, "orders") == [b"before", b"after"]
        await until(lambda: link(broker, "in").counters.get("oversized"))
        assert "too large for topic orders (max.message.bytes 100000)" in link(broker, "in").error
        if left:
            await broker.alter_topic("orders", {"max.message.bytes": "1000000"})
            await until(lambda: link(broker, "in").counters["messages"] == 3)
    assert await users.count(unique) == 0


# -- outward ---------------------------------------------------------------------------------------


async def test_records_become_messages_and_are_sent_once(users: Users, bridged: OpenBridge, unique: str) -> None:
    await users.declare(unique)
    outbound = {"out": {"topics": ["orders"], "exchange": "", "routing_key": unique}}
    for start in (0, 50):
        async with bridged(outbound=outbound) as broker:
            for number in range(start, start + 50):
                await broker.publish("orders", b"%d" % number)
            await until(lambda: link(broker, "out").counters["messages"] == 50)
    assert [body for _, body, _ in await users.take(unique, 100)] == [b"%d" % number for number in range(100)]
    assert await users.count(unique) == 0


async def test_keys_become_routing_keys_of_an_exchange_that_the_link_declares(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique)
    outbound = {"topics": ["a", "b"], "exchange": unique, "exchange_type": "topic", "unroutable": "drop"}
    async with bridged(outbound={"out": outbound}) as broker:
        await until(lambda: link(broker, "out").state == "running")
        await users.do(lambda channel: channel.queue_bind(unique, unique, "order.*"))
        await broker.publish("a", b"1", key=b"order.new")
        await broker.publish("b", b"2", key=b"invoice.new")
        await broker.publish("b", b"3", key=b"order.old")
        await until(lambda: link(broker, "out").counters["messages"] == 2)
        await until(lambda: link(broker, "out").counters.get("unroutable") == 1)
        await until(lambda: link(broker, "out").lag == 0)
    found = await users.take(unique, 2)
    assert {(key, body) for key, body, _ in found} == {("order.new", b"1"), ("order.old", b"3")}


async def test_a_message_without_a_queue_waits_until_there_is_one(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": unique}
    async with bridged(outbound={"out": outbound}) as broker:
        await broker.publish("orders", b"1")
        await until(lambda: link(broker, "out").counters.get("unroutable", 0) >= 2)
        assert "312 NO_ROUTE" in link(broker, "out").error
        await users.declare(unique)
        await until(lambda: link(broker, "out").counters["messages"] == 1)
    assert await users.count(unique) == 1


async def test_a_message_without_a_queue_becomes_a_dead_letter_if_so_told(bridged: OpenBridge, unique: str) -> None:
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": unique, "unroutable": "dead-letter"}
    async with bridged(outbound={"out": outbound}) as broker:
        await broker.publish("orders", b"1", key=b"k", headers=[("h", b"v")])
        await until(lambda: link(broker, "out").counters.get("dead_lettered") == 1)
        await until(lambda: link(broker, "out").lag == 0)
        (record,) = [record async for record in broker.read("rabbitmq.out.dead", follow=False)]
    assert (record.key, record.value, record.headers[0]) == (b"k", b"1", ("h", b"v"))
    headers = dict(record.headers)
    assert headers["trunkline.dead.topic"] == b"orders"
    assert b"NO_ROUTE" in (headers["trunkline.dead.reason"] or b"")


async def test_a_key_that_no_routing_key_can_hold_becomes_a_dead_letter(bridged: OpenBridge, unique: str) -> None:
    outbound = {"topics": ["orders"], "exchange": "amq.fanout", "unroutable": "dead-letter"}
    async with bridged(outbound={"out": outbound}) as broker:
        await broker.publish("orders", b"1", key=b"k" * 256)
        await until(lambda: link(broker, "out").counters.get("dead_lettered") == 1)
        (record,) = [record async for record in broker.read("rabbitmq.out.dead", follow=False)]
    assert record.key == b"k" * 256


async def test_a_queue_of_ours_is_consumed_and_settled(users: Users, bridged: OpenBridge, unique: str) -> None:
    await users.declare(unique)
    outbound = {"queue": "jobs", "exchange": "", "routing_key": unique, "unroutable": "dead-letter"}
    async with bridged(outbound={"out": outbound}) as broker:
        await until(lambda: "UnknownQueue" in link(broker, "out").error)
        jobs = await broker.queues.declare("jobs", QueueConfig())
        for number in range(100):
            await broker.publish("jobs", b"%d" % number)
        await until(lambda: link(broker, "out").counters["messages"] == 100)
        await until(lambda: jobs.statistics().acknowledged == 100)
    assert [body for _, body, _ in await users.take(unique, 100)] == [b"%d" % number for number in range(100)]


# -- both ways -------------------------------------------------------------------------------------


async def test_properties_and_body_come_back_as_they_were(users: Users, bridged: OpenBridge, unique: str) -> None:
    await users.declare(unique, f"{unique}-back")
    properties = pika.BasicProperties(**EVERYTHING)
    bodies = [b"", b"\0" * 300_000]
    await users.publish(*((unique, body) for body in bodies), properties=properties)
    inbound = {"queue": unique, "topic": "orders"}
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": f"{unique}-back", "echo": True}
    async with bridged(node="here", inbound={"in": inbound}, outbound={"out": outbound}):
        found = await users.take(f"{unique}-back", 2)
    assert [body for _, body, _ in found] == bodies
    for _, _, back in found:
        assert back.headers.pop("x-trunkline-hops") == ["here"]
        assert vars(back) == vars(pika.BasicProperties(**EVERYTHING))


async def test_a_message_without_properties_comes_back_without_and_a_record_becomes_persistent(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique, f"{unique}-back")
    await users.publish((unique, b"1"), properties=pika.BasicProperties())
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": f"{unique}-back", "echo": True}
    inbound = {"queue": unique, "topic": "orders"}
    async with bridged(inbound={"in": inbound}, outbound={"out": outbound}) as broker:
        await until(lambda: link(broker, "out").counters["messages"] == 1)
        await broker.publish("orders", b"2")
        await broker.publish("orders", b"3", headers=[("colour", b"red")])
        found = await users.take(f"{unique}-back", 3)
    theirs, bare, coloured = (properties for _, _, properties in found)
    assert (theirs.delivery_mode, list(theirs.headers)) == (None, ["x-trunkline-hops"])
    assert (bare.delivery_mode, list(bare.headers)) == (2, ["x-trunkline-hops"])
    assert (coloured.delivery_mode, coloured.headers["colour"]) == (2, "red")


async def test_two_links_with_the_same_exchange_do_not_go_round_in_circles(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique)

    def declare(channel: Any) -> None:
        channel.exchange_declare(unique, "fanout", durable=True)
        channel.queue_bind(unique, unique)

    await users.do(declare)
    inbound = {"exchange": unique, "queue": f"{unique}-in", "topic": "events"}
    outbound = {"topics": ["events"], "exchange": unique}
    async with bridged(inbound={"in": inbound}, outbound={"out": outbound}) as broker:
        await until(lambda: link(broker, "in").state == "running")
        await users.publish(("theirs", b"1"), exchange=unique)
        await broker.publish("events", b"2", key=b"ours")
        await until(lambda: link(broker, "in").counters.get("looped") == 1)
        await until(lambda: link(broker, "out").counters.get("echoes") == 1)
        assert sorted(await values(broker, "events")) == [b"1", b"2"]  # type: ignore[type-var]
    assert {(key, body) for key, body, _ in await users.take(unique, 2)} == {("theirs", b"1"), ("ours", b"2")}
    assert await users.count(unique) == 0


# -- what goes wrong -------------------------------------------------------------------------------


async def test_wrong_credentials_are_said_and_tried_again(users: Users, bridged: OpenBridge, unique: str) -> None:
    server = {"url": users.url.replace("guest@", "guess@")}
    async with bridged(server, inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").counters["failures"] >= 2)
        assert "403 ACCESS_REFUSED" in link(broker, "in").error
        assert "guess" not in link(broker, "in").error


async def test_a_missing_virtual_host_is_said(users: Users, bridged: OpenBridge, unique: str) -> None:
    inbound = {"in": {"queue": unique, "topic": "orders"}}
    async with bridged({"url": f"{users.url}nowhere"}, inbound=inbound) as broker:
        await until(lambda: link(broker, "in").error)
        assert "530 NOT_ALLOWED - vhost nowhere not found" in link(broker, "in").error


async def test_nobody_there_is_said(bridged: OpenBridge) -> None:
    inbound = {"in": {"queue": "q", "topic": "orders"}}
    async with bridged({"url": f"amqp://127.0.0.1:{free_port()}"}, inbound=inbound) as broker:
        await until(lambda: link(broker, "in").error)
        assert re.search("cannot be reached: .*Connection refused", link(broker, "in").error)


async def test_a_missing_queue_is_said_and_found_once_it_is_there(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    async with bridged(inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").error)
        assert f"404 NOT_FOUND - no queue '{unique}' in vhost '/'" in link(broker, "in").error
        await users.declare(unique)
        await until(lambda: link(broker, "in").state == "running")


async def test_a_missing_exchange_is_said(bridged: OpenBridge, unique: str) -> None:
    async with bridged(outbound={"out": {"topics": ["orders"], "exchange": unique}}) as broker:
        await until(lambda: link(broker, "out").error)
        assert f"404 NOT_FOUND - no exchange '{unique}' in vhost '/'" in link(broker, "out").error


async def test_a_queue_that_is_there_with_other_arguments_is_said(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.do(lambda channel: channel.queue_declare(unique, arguments={"x-message-ttl": 1000}))
    inbound = {"queue": unique, "exchange": "amq.topic", "topic": "orders"}
    async with bridged(inbound={"in": inbound}) as broker:
        await until(lambda: link(broker, "in").error)
        assert "406 PRECONDITION_FAILED" in link(broker, "in").error


async def test_a_queue_that_is_deleted_ends_the_consumer_and_is_said(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique)
    async with bridged({"first_pause_s": 5}, inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").state == "running")
        await users.do(lambda channel: channel.queue_delete(unique))
        await until(lambda: link(broker, "in").error)
        assert f"queue {unique} was deleted" in link(broker, "in").error


async def test_a_stream_is_refused_as_a_source(users: Users, bridged: OpenBridge, unique: str) -> None:
    def declare(channel: Any) -> None:
        channel.queue_declare(unique, durable=True, arguments={"x-queue-type": "stream"})

    await users.do(declare)
    async with bridged(inbound={"in": {"queue": unique, "topic": "orders"}}) as broker:
        await until(lambda: link(broker, "in").state == "running")
        await users.publish((unique, b"1"))
        await until(lambda: "is a stream" in link(broker, "in").error)
        assert await values(broker, "orders") == []


async def test_nothing_is_sent_while_rabbitmq_blocks_publishers(users: Users, bridged: OpenBridge, unique: str) -> None:
    await users.declare(unique)
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": unique}
    async with bridged(outbound={"out": outbound}) as broker:
        await until(lambda: link(broker, "out").state == "running")
        await trio.to_thread.run_sync(users.server.control, "set_vm_memory_high_watermark", "0.0000001")
        try:
            await broker.publish("orders", b"1")  # RabbitMQ says that it blocks when something is published
            await until(lambda: link(broker, "out").state == "blocked")
            assert "low on memory" in link(broker, "out").error
            await broker.publish("orders", b"2")
        finally:
            await trio.to_thread.run_sync(users.server.control, "set_vm_memory_high_watermark", "0.6")
        await until(lambda: link(broker, "out").counters["messages"] == 2)
        assert link(broker, "out").state == "running"
    assert [body for _, body, _ in await users.take(unique, 2)] == [b"1", b"2"]


async def test_records_of_an_open_or_aborted_transaction_are_not_sent(
    users: Users, bridged: OpenBridge, unique: str
) -> None:
    await users.declare(unique)
    outbound = {"topics": ["orders"], "exchange": "", "routing_key": unique}
    async with bridged(outbound={"out": outbound}, listen={"kafka": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["kafka"]
        settings = {"bootstrap.servers": f"{host}:{port}", "transactional.id": unique, "linger.ms": 0}
        producer = confluent_kafka.Producer(settings)

        def write(*bodies: bytes) -> None:
            producer.begin_transaction()
            for body in bodies:
                producer.produce("orders", body)
            producer.flush(WAIT_S)

        def abort_and_commit() -> None:
            producer.init_transactions(WAIT_S)
            write(b"aborted")
            producer.abort_transaction(WAIT_S)
            write(b"committed 1", b"committed 2")
            producer.commit_transaction(WAIT_S)
            write(b"open")

        await trio.to_thread.run_sync(abort_and_commit)
        await broker.publish("orders", b"behind what is open")
        assert [body for _, body, _ in await users.take(unique, 2)] == [b"committed 1", b"committed 2"]
        await until(lambda: link(broker, "out").lag == 0)  # the group is committed up to what is open
        assert link(broker, "out").counters["messages"] == 2
        await trio.to_thread.run_sync(producer.commit_transaction, WAIT_S)
        assert [body for _, body, _ in await users.take(unique, 2)] == [b"open", b"behind what is open"]
