"""Exchanges, queues and bindings on a broker: what is declared, where messages go, and what a restart finds."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest
from tests.amqp.declared import Declared, declared

from trunkline import open_broker
from trunkline_amqp.errors import AmqpError

pytestmark = pytest.mark.trio


async def refused(call: Awaitable[object], reply_code: int, text: str = "") -> None:
    with pytest.raises(AmqpError) as caught:
        await call
    assert caught.value.reply_code == reply_code
    assert text in caught.value.text


async def test_the_default_exchange_leads_to_the_queue_of_that_name(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("jobs")
        assert await amqp.publish("", "jobs", b"1") == 1
        assert await amqp.publish("", "nobody", b"2") == 0
        assert await amqp.messages("jobs") == [("", "jobs", b"1")]
        assert [record.value async for record in amqp.broker.read("jobs", follow=False)] == [b"1"]


async def test_exchanges_route_as_their_kind_says(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        for kind in ("direct", "topic", "fanout", "headers"):
            await amqp.exchange(kind, kind)
            await amqp.queue(f"q-{kind}")
        await amqp.bind("q-direct", "direct", "a.*")
        await amqp.bind("q-topic", "topic", "a.*")
        await amqp.bind("q-fanout", "fanout", "whatever")
        await amqp.bind("q-headers", "headers", "", {"x-match": "all", "kind": "b", "size": 5, "seen": None})
        for exchange in ("direct", "topic", "fanout"):
            for key in ("a.*", "a.b", "c"):
                await amqp.publish(exchange, key, key.encode())
        await amqp.publish("headers", "", b"match", headers={"kind": "b", "size": 5, "seen": True, "more": 1})
        await amqp.publish("headers", "", b"no", headers={"kind": "b", "size": 6, "seen": True})
        assert await amqp.bodies("q-direct") == [b"a.*"]
        assert await amqp.bodies("q-topic") == [b"a.*", b"a.b"]
        assert await amqp.bodies("q-fanout") == [b"a.*", b"a.b", b"c"]
        assert await amqp.messages("q-headers") == [("headers", "", b"match")]


async def test_a_message_for_twenty_queues_is_one_record(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("news", "fanout")
        for number in range(20):
            await amqp.queue(f"q{number}")
            await amqp.bind(f"q{number}", "news")
        assert await amqp.publish("news", "k", b"x") == 20
        assert [await amqp.bodies(f"q{number}") for number in range(20)] == [[b"x"]] * 20
        assert amqp.broker.topic("news").partitions[0].high_watermark == 1


async def test_a_queue_bound_in_several_ways_gets_a_message_once(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic")
        await amqp.queue("q")
        await amqp.bind("q", "e", "#")
        await amqp.bind("q", "e", "a.#")
        await amqp.bind("q", "e", "a.b")
        assert await amqp.publish("e", "a.b", b"x") == 1
        assert await amqp.bodies("q") == [b"x"]


async def test_only_what_is_published_after_a_bind_and_before_an_unbind_arrives(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "fanout")
        await amqp.queue("q")
        await amqp.publish("e", "", b"early")
        await amqp.bind("q", "e")
        await amqp.publish("e", "", b"1")
        await amqp.unbind("q", "e")
        await amqp.publish("e", "", b"late")
        await amqp.bind("q", "e")
        await amqp.publish("e", "", b"2")
        assert await amqp.bodies("q") == [b"1", b"2"]


async def test_messages_pass_from_exchange_to_exchange(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("in", "topic")
        await amqp.exchange("out", "direct", internal=True)
        await amqp.queue("q")
        await amqp.bind("q", "out", "a.b")
        await amqp.topology.bind_exchange("/", "out", "in", "a.*")
        assert await amqp.publish("in", "a.b", b"yes") == 1
        assert await amqp.publish("in", "a.c", b"no") == 0
        assert await amqp.messages("q") == [("in", "a.b", b"yes")]
        await refused(amqp.publish("out", "a.b", b""), 403, "internal exchange 'out'")
        await amqp.topology.unbind_exchange("/", "out", "in", "a.*")
        assert await amqp.publish("in", "a.b", b"no") == 0
        assert await amqp.bodies("q") == [b"yes"]


async def test_exchanges_bound_in_a_circle_pass_a_message_once(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        for name in "abc":
            await amqp.exchange(name, "fanout")
            await amqp.queue(f"q{name}")
            await amqp.bind(f"q{name}", name)
        for source, destination in ("ab", "bc", "ca", "aa"):
            await amqp.topology.bind_exchange("/", destination, source, "")
        assert await amqp.publish("b", "", b"x") == 3
        assert [await amqp.bodies(f"q{name}") for name in "abc"] == [[b"x"]] * 3


async def test_what_no_binding_wants_goes_to_the_alternate_exchange(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("rest", "fanout")
        await amqp.exchange("e", "direct", arguments={"alternate-exchange": "rest"})
        await amqp.queue("known")
        await amqp.queue("unknown")
        await amqp.bind("known", "e", "k")
        await amqp.bind("unknown", "rest")
        assert await amqp.publish("e", "k", b"1") == 1
        assert await amqp.publish("e", "z", b"2") == 1
        assert await amqp.messages("known") == [("e", "k", b"1")]
        assert await amqp.messages("unknown") == [("e", "z", b"2")]


async def test_an_alternate_exchange_behind_another_exchange_counts(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("rest", "fanout")
        await amqp.exchange("inner", "direct", arguments={"alternate-exchange": "rest"})
        await amqp.exchange("outer", "fanout")
        await amqp.queue("a")
        await amqp.queue("b")
        await amqp.topology.bind_exchange("/", "inner", "outer", "")
        await amqp.bind("a", "inner", "k")
        await amqp.bind("b", "rest")
        assert await amqp.publish("outer", "k", b"1") == 1
        assert await amqp.publish("outer", "z", b"2") == 1
        assert await amqp.bodies("a") == [b"1"]
        assert await amqp.messages("b") == [("outer", "z", b"2")]


async def test_cc_and_bcc_are_more_routing_keys(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "direct")
        for name in "abc":
            await amqp.queue(name)
            await amqp.bind(name, "e", name)
        assert await amqp.publish("e", "a", b"x", headers={"CC": ["b"], "BCC": ["c", "a"]}) == 3
        assert [await amqp.messages(name) for name in "abc"] == [[("e", "a", b"x")]] * 3
        assert [(await amqp.properties(name))[0].headers for name in "abc"] == [{"CC": ["b"]}] * 3
        assert await amqp.publish("", "a", b"y", headers={"CC": ["b"]}) == 2
        assert await amqp.messages("b") == [("e", "a", b"x"), ("", "a", b"y")]
        await refused(amqp.publish("e", "a", b"", headers={"CC": "b"}), 406, "CC")


async def test_a_record_of_another_door_is_routed_as_a_message(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("orders", "topic")
        await amqp.exchange("copies", "headers")
        await amqp.queue("q")
        await amqp.queue("r")
        await amqp.bind("q", "orders", "eu.#")
        await amqp.topology.bind_exchange("/", "copies", "orders", "#")
        await amqp.bind("r", "copies", "", {"x-match": "any", "size": 5})
        await amqp.broker.publish("orders", b"1", key=b"eu.de", headers=[("size", b"5")])
        await amqp.broker.publish("orders", b"2", key=b"us.ny")
        await amqp.settled()
        assert await amqp.messages("q") == [("orders", "eu.de", b"1")]
        assert await amqp.bodies("r") == [b"1"]
        (properties,) = await amqp.properties("q")
        assert (properties.headers, properties.delivery_mode) == ({"size": "5"}, 2)


async def test_amq_topic_is_mqtts_topic(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("q")
        await amqp.bind("q", "amq.topic", "home.*.temp")
        headers = [("mqtt.qos", b"1"), ("mqtt.content-type", b"text/plain"), ("unit", b"C")]
        await amqp.broker.publish("mqtt", b"21", key=b"home/kitchen/temp", headers=headers)
        await amqp.broker.publish("mqtt", b"no", key=b"home/kitchen/light")
        await amqp.publish("amq.topic", "home.v1/5.temp", b"22")
        assert await amqp.messages("q") == [
            ("amq.topic", "home.kitchen.temp", b"21"),
            ("amq.topic", "home.v1/5.temp", b"22"),
        ]
        assert [record.key async for record in amqp.broker.read("mqtt", follow=False)][-1] == b"home/v1.5/temp"
        first = (await amqp.properties("q"))[0]
        assert first.content_type == "text/plain"
        assert first.headers == {"unit": "C", "x-mqtt-publish-qos": 1}


async def test_what_is_durable_is_there_after_a_restart(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic", arguments={"alternate-exchange": "amq.fanout"})
        await amqp.exchange("passing", "fanout", durable=False)
        await amqp.queue("q", arguments={"x-max-length": 3})
        await amqp.bind("q", "e", "a.#")
        await amqp.bind("q", "e", "z")
        await amqp.unbind("q", "e", "z")
        await amqp.bind("q", "passing")
        await amqp.publish("e", "a.b", b"1")
    async with declared(tmp_path) as amqp:
        assert await amqp.bodies("q") == [b"1"]
        assert await amqp.publish("e", "a.c", b"2") == 1
        assert await amqp.publish("e", "z", b"no") == 0
        await amqp.exchange("e", "topic", arguments={"alternate-exchange": "amq.fanout"})
        await amqp.queue("q", arguments={"x-max-length": 3})
        assert await amqp.bodies("q") == [b"1", b"2"]
        await refused(amqp.publish("passing", "", b""), 404, "no exchange 'passing' in vhost '/'")


async def test_a_change_that_a_crash_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "topic")
        await amqp.queue("q")
        await amqp.queue("gone")
        await amqp.bind("q", "e", "a")
        await amqp.bind("gone", "e", "b")
        wrong = tuple(source for source in amqp.broker.queues.get("q").config.sources if source.topic != "e")
        await amqp.broker.queues.alter("q", sources=wrong)
        await amqp.broker.queues.delete("gone")
        await amqp.broker.delete_topic("e")
    async with declared(tmp_path) as amqp:
        assert await amqp.publish("e", "a", b"1") == 1
        assert await amqp.publish("e", "b", b"2") == 1
        assert await amqp.bodies("q") == [b"1"]
        assert await amqp.messages("gone") == [("e", "b", b"2")]


async def test_an_exchange_and_a_queue_may_have_the_same_name(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("celery")
        await amqp.queue("celery")
        await amqp.bind("celery", "celery", "celery")
        await amqp.publish("celery", "celery", b"1")
        await amqp.publish("celery", "other", b"no")
        await amqp.publish("", "celery", b"2")
        assert await amqp.messages("celery") == [("celery", "celery", b"1"), ("", "celery", b"2")]
    async with declared(tmp_path) as amqp:
        assert await amqp.bodies("celery") == [b"1", b"2"]
        assert amqp.topology.queue("/", "celery", None).core.name == "celery_q"


async def test_virtual_hosts_know_nothing_of_each_other(tmp_path: Path) -> None:
    async with declared(tmp_path, vhosts=("/", "shop")) as amqp:
        shop = Declared(amqp.broker, amqp.topology, "shop")
        await amqp.queue("q")
        await refused(shop.topology.declare_queue("shop", "q", passive=True), 404, "no queue 'q' in vhost 'shop'")
        await shop.queue("q")
        await shop.bind("q", "amq.topic", "a")
        await shop.publish("", "q", b"1")
        await shop.publish("amq.topic", "a", b"2")
        assert await amqp.bodies("q") == []
        assert await shop.messages("q") == [("", "q", b"1"), ("amq.topic", "a", b"2")]
        await refused(amqp.topology.declare_queue("nowhere", "q"), 530)


async def test_a_queue_that_is_deleted_and_declared_again_is_empty(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.queue("q")
        await amqp.publish("", "q", b"old")
        assert await amqp.topology.delete_queue("/", "q") == 1
        assert await amqp.topology.delete_queue("/", "q") == 0
        await refused(amqp.topology.declare_queue("/", "q", passive=True), 404)
        await amqp.queue("q")
        assert await amqp.bodies("q") == []


async def test_a_message_says_where_it_was_published_when_the_exchange_is_gone(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e@1", "fanout")
        await amqp.queue("q")
        await amqp.bind("q", "e@1")
        await amqp.publish("e@1", "k", b"1")
        await amqp.topology.delete_exchange("/", "e@1")
        assert await amqp.messages("q") == [("e@1", "k", b"1")]
        await amqp.queue("e@1")
        await amqp.publish("", "e@1", b"2")
        assert await amqp.bodies("e@1") == [b"2"]


async def test_a_queue_that_was_there_before_is_consumed_through_amqp_too(tmp_path: Path) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.queues.declare("jobs")
        await broker.publish("jobs", b"1")
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e", "fanout")
        await amqp.queue("jobs")
        await amqp.bind("jobs", "e")
        await amqp.publish("e", "", b"2")
        assert await amqp.bodies("jobs") == [b"1", b"2"]


async def test_a_topic_that_was_there_before_stays_when_the_queue_goes(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.broker.publish("orders", b"before")
        for arguments in ({}, {"x-queue-type": "stream"}):
            await amqp.queue("orders", arguments=arguments)
            await amqp.topology.delete_queue("/", "orders")
        await amqp.queue("own")
        await amqp.topology.delete_queue("/", "own")
        assert sorted(amqp.broker.topics) == ["orders"]


async def test_an_auto_delete_exchange_goes_with_its_last_binding(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("outer", "fanout", auto_delete=True)
        await amqp.exchange("inner", "fanout", auto_delete=True)
        await amqp.queue("q")
        await amqp.topology.bind_exchange("/", "inner", "outer", "")
        await amqp.bind("q", "inner")
        await amqp.topology.delete_queue("/", "q")
        for name in ("inner", "outer"):
            await refused(amqp.exchange(name, "fanout", passive=True), 404)


async def test_what_is_declared_again_must_be_the_same(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        await amqp.exchange("e")
        await amqp.queue("q", arguments={"x-message-ttl": 100, "x-own": 1})
        await amqp.exchange("e")
        await amqp.queue("q", arguments={"x-message-ttl": 100, "x-own": 2})
        await refused(amqp.exchange("e", "fanout"), 406, "inequivalent arg 'type' for exchange 'e' in vhost '/'")
        await refused(amqp.exchange("e", durable=False), 406, "inequivalent arg 'durable'")
        await refused(
            amqp.queue("q"),
            406,
            "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the value "
            "'100' of type 'signedint'",
        )
        await refused(amqp.queue("q", durable=False), 406, "inequivalent arg 'durable'")
        await refused(amqp.queue("q", exclusive=True, owner=1), 405)


async def test_what_may_not_be_declared_or_touched_is_refused(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        topology = amqp.topology
        await amqp.exchange("amq.direct")
        await refused(amqp.exchange("amq.mine"), 403, "reserved prefix")
        await refused(amqp.queue("amq.mine"), 403, "reserved prefix")
        await refused(amqp.exchange(""), 403, "default exchange")
        await refused(amqp.exchange("e", "nonsense"), 503, "unknown exchange type 'nonsense'")
        await refused(topology.delete_exchange("/", "amq.topic"), 403, "deletion of system exchange")
        await amqp.unbind("nothing", "nowhere")
        await topology.delete_exchange("/", "not-there")
        await amqp.queue("q")
        await refused(amqp.bind("q", "nothing"), 404, "no exchange 'nothing' in vhost '/'")
        await refused(amqp.bind("nothing", "amq.direct"), 404, "no queue 'nothing' in vhost '/'")
        await refused(amqp.bind("q", ""), 403, "default exchange")
        await refused(amqp.bind("q", "amq.headers", "", {"x-match": "some"}), 406, "x-match")
        await refused(amqp.bind("q", "amq.direct", "\udcff"), 406, "UTF-8")
        await refused(amqp.bind("q", "amq.headers", "", {"a": b"\xff"}), 406, "UTF-8")
        await refused(amqp.bind("q", "amq.topic", "a." * 200), 406, "128 levels")
        await refused(amqp.queue("\udcff"), 406, "UTF-8")
        await amqp.bind("q", "amq.direct", "k")
        await amqp.exchange("e", "fanout")
        await amqp.bind("q", "e")
        await refused(topology.delete_exchange("/", "e", if_unused=True), 406, "in use")
        await amqp.publish("", "q", b"1")
        await refused(topology.delete_queue("/", "q", if_empty=True), 406, "not empty")


async def test_names_of_any_text_become_names_of_topics(tmp_path: Path) -> None:
    async with declared(tmp_path) as amqp:
        for name in ("celery@host.celery.pidbox", "a b/ü", "x" * 255, "__mine"):
            await amqp.exchange(name, "fanout")
            await amqp.queue(name)
            await amqp.bind(name, name)
            await amqp.publish(name, "", b"1")
            assert await amqp.messages(name) == [(name, "", b"1")]
