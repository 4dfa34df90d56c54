"""Rules by which messages go to log topics, and what subscribers and other doors see of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.mqtt.conftest import Dial, hello, left_alone, messages

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import ConfigurationError
from trunkline.partitioner import partition_for_key
from trunkline_mqtt.packets import (
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Will,
)
from trunkline_mqtt.routes import compile_routes
from trunkline_mqtt.settings import RouteSettings

pytestmark = pytest.mark.trio

DEVICES = {"filter": "dev/{id}/#", "topic": "devices", "partitions": 4, "partition_by": "{id}"}
SOME = {"filter": "some/#", "log": "qos>0"}
NEVER = {"filter": "rpc/#", "log": "never"}
DEFAULT = RouteSettings(filter="#", topic="mqtt")


@asynccontextmanager
async def opened(path: Path, *routes: dict[str, Any], store: str = "segments") -> AsyncIterator[Broker]:
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage=store, door={"mqtt": {"routes": [*routes]}})
    async with open_broker(path, config=config) as broker:
        yield broker


@pytest.fixture
async def routed(tmp_path: Path) -> AsyncIterator[Broker]:
    async with opened(tmp_path, DEVICES, SOME, NEVER, store="memory") as broker:
        yield broker


async def stored(broker: Broker, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) async for record in broker.read(topic, follow=False)]


@pytest.mark.parametrize(
    ("topic", "expected", "hashed"),
    [
        ("dev/7/temp", "a", b"x-7"),
        ("dev/7", "a", b"x-7"),
        ("dev//", "a", b"x-"),
        ("dev", "mqtt", b"dev"),
        ("exact", "b", b"exact"),
        ("exact/more", "mqtt", b"exact/more"),
        ("one/two/three", "c", b"three/one"),
        ("one/two", "mqtt", b"one/two"),
        ("dev/7/first", "a", b"x-7"),
        ("$aws/two/x", "e", b"$aws/two/x"),
        ("$other/two/x", "mqtt", b"$other/two/x"),
    ],
)
async def test_the_first_rule_that_matches_counts(topic: str, expected: str, hashed: bytes) -> None:
    rules = [
        RouteSettings(filter="dev/{id}/#", topic="a", partition_by="x-{id}"),
        RouteSettings(filter="exact", topic="b"),
        RouteSettings(filter="{a}/two/{b}", topic="c", partition_by="{b}/{a}"),
        RouteSettings(filter="dev/+/first", topic="d"),
        RouteSettings(filter="$aws/#", topic="e"),
    ]
    levels = topic.split("/")
    compiled = compile_routes(rules, DEFAULT, ())
    route = next((route for route in compiled if route.match(levels)), compiled[-1])
    assert (route.topic, route.hashed(topic, levels)) == (expected, hashed)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"filter": ""}, "it is empty"),
        ({"filter": "a+"}, "wildcard beside other characters"),
        ({"filter": "a/x{id}"}, "a capture is one whole level"),
        ({"filter": "a/{}"}, "a capture is one whole level"),
        ({"filter": "$SYS/#"}, r"topics that begin with \$SYS are the server's own"),
        ({"filter": "{a}/{a}"}, "captured twice"),
        (
            {"filter": "{a}/b", "partition_by": "{b}"},
            r"names \{b\}, which the filter does not capture; it captures \['a'\]",
        ),
        ({"filter": "{a}/b", "partition_by": "c"}, "holds no capture"),
        ({"filter": "a/b", "topic": "no/name"}, "topic name 'no/name' is not allowed"),
        ({"filter": "a/b", "topic": "__queues"}, "used for something else"),
        ({"filter": "a/b", "topic": "mqtt.retained"}, "used for something else"),
        ({"filter": "a/b", "topic": "devices", "partitions": 3}, "an earlier rule makes devices with 4"),
        ({"filter": "dev/+/#", "topic": "devices"}, "never matches, because rule 1 has the same filter"),
        ({"filter": "a", "log": "never", "topic": "x"}, "needs neither topic nor partition_by"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, rule: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"door.mqtt: rule 2 of routes: .*{problem}"):
        async with opened(tmp_path, DEVICES, rule, store="memory"):
            raise AssertionError("it was taken")


async def test_the_doors_own_topic_must_have_a_name_of_the_log() -> None:
    default = RouteSettings(filter="#", topic="home/kitchen")
    with pytest.raises(ConfigurationError, match=r"^door\.mqtt\.topic: topic name 'home/kitchen' is not allowed"):
        compile_routes((), default, taken=())


async def test_a_refused_filter_that_is_none_is_named(tmp_path: Path) -> None:
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, door={"mqtt": {"refused_filters": ["#", "a/#/b"]}})
    with pytest.raises(ConfigurationError, match=r"^door\.mqtt\.refused_filters #2: 'a/#/b': # is allowed as the last"):
        async with open_broker(tmp_path, config=config, store="memory"):
            raise AssertionError("it was taken")


async def test_messages_go_where_rules_say_and_devices_stay_together(routed: Broker, dial: Dial) -> None:
    peer = await dial(routed.addresses["mqtt"], Connect("c"))
    for number, topic in enumerate(("dev/7/temp", "dev/7/cfg/a", "dev/8/temp", "other"), 1):
        assert await peer.ask(Publish(topic, b"%d" % number, 1, packet_id=number)) == Puback(number)

    assert await stored(routed, "mqtt") == [(b"other", b"4")]
    found = [(record.partition, record.key) async for record in routed.read("devices", follow=False)]
    assert sorted(found) == sorted(
        [
            (partition_for_key(b"7", 4), b"dev/7/temp"),
            (partition_for_key(b"7", 4), b"dev/7/cfg/a"),
            (partition_for_key(b"8", 4), b"dev/8/temp"),
        ]
    )


@pytest.mark.parametrize("packet", [Connect("c"), hello(4), hello(5)])
async def test_subscriptions_see_all_log_topics_and_what_other_doors_write_there(
    routed: Broker, dial: Dial, packet: Connect
) -> None:
    peer = await dial(routed.addresses["mqtt"], packet)
    assert await peer.ask(Subscribe(1, (Subscription("#", 1),))) == Suback(1, (1,))
    other = await dial(routed.addresses["mqtt"], Connect("other"))
    await other.send(*[Publish(topic, b"", 1, packet_id=1) for topic in ("dev/7/a", "some/a", "x")])
    await routed.publish("devices", b"", key=b"of/another/door")

    found = {message.topic for message in await messages(peer, 4)}
    assert found == {"dev/7/a", "some/a", "x", "of/another/door"}


async def test_sessions_retained_messages_wills_and_shares_follow_routes_over_a_restart(
    tmp_path: Path, dial: Dial
) -> None:
    async with opened(tmp_path, DEVICES) as broker:
        address = broker.addresses["mqtt"]
        peer = await dial(address, hello(5))
        filters = (Subscription("dev/7/#", 2), Subscription("$share/g/dev/8/+", 1))
        assert await peer.ask(Subscribe(1, filters)) == Suback(1, (2, 1))
        await trio.aclose_forcefully(peer.stream)
        other = await dial(address, hello(4, "other"))
        await other.send(Publish("dev/7/a", b"kept", 2, retain=True, packet_id=1))
        assert await other.receive() == Pubrec(1)
        assert await other.ask(Publish("dev/8/a", b"shared", 1, packet_id=2)) == Puback(2)
        dying = await dial(address, Connect("dying", will=Will("dev/7/will", b"will", 1)))
        await trio.aclose_forcefully(dying.stream)
        await trio.aclose_forcefully(other.stream)
        await left_alone(broker)

    async with opened(tmp_path, DEVICES) as broker:
        address = broker.addresses["mqtt"]
        other = await dial(address, hello(4, "other"), is_present=True)
        assert await other.ask(Publish("dev/7/a", b"kept", 2, True, True, packet_id=1)) == Pubrec(1)  # not stored again
        assert await other.ask(Pubrel(1)) == Pubcomp(1)
        peer = await dial(address, hello(5), is_present=True)
        found = {message.payload for message in await messages(peer, 3)}
        assert found == {b"kept", b"will", b"shared"}
        late = await dial(address, Connect("late"))
        await late.send(Subscribe(1, (Subscription("dev/+/a", 0),)))
        packets = [await late.receive(), await late.receive()]
        assert Publish("dev/7/a", b"kept", retain=True) in packets
        assert sorted(value for _, value in await stored(broker, "devices") if value) == [b"kept", b"shared", b"will"]


async def test_stored_sessions_follow_topics_that_rules_name_later(tmp_path: Path, dial: Dial) -> None:
    async with opened(tmp_path) as broker:
        peer = await dial(broker.addresses["mqtt"], hello(5))
        filters = (Subscription("dev/#", 1), Subscription("$share/g/dev/#", 1))
        assert await peer.ask(Subscribe(1, filters)) == Suback(1, (1, 1))
        await trio.aclose_forcefully(peer.stream)
        await left_alone(broker)
        await broker.publish("mqtt", b"before", key=b"dev/7")

    async with opened(tmp_path, DEVICES) as broker:
        other = await dial(broker.addresses["mqtt"], Connect("other"))
        assert await other.ask(Publish("dev/7", b"after", 1, packet_id=1)) == Puback(1)
        peer = await dial(broker.addresses["mqtt"], hello(5), is_present=True)
        found = sorted(message.payload for message in await messages(peer, 4))
        assert found == [b"after", b"after", b"before", b"before"], "in which order topics come is open"


async def test_qos_above_0_only(routed: Broker, dial: Dial) -> None:
    peer = await dial(routed.addresses["mqtt"], hello(5))
    assert await peer.ask(Subscribe(1, (Subscription("some/+", 1),))) == Suback(1, (1,))
    other = await dial(routed.addresses["mqtt"], Connect("other"))
    await other.send(Publish("some/a", b"0"), Publish("some/a", b"kept", retain=True))
    assert await other.ask(Publish("some/a", b"1", 1, packet_id=1)) == Puback(1)

    assert [message.payload for message in await messages(peer, 3)] == [b"0", b"kept", b"1"]
    assert await stored(routed, "mqtt") == [(b"some/a", b"kept"), (b"some/a", b"1")]


@pytest.mark.parametrize("packet", [Connect("c"), hello(4), hello(5)])
async def test_what_is_never_logged_goes_to_who_is_there(routed: Broker, dial: Dial, packet: Connect) -> None:
    away = await dial(routed.addresses["mqtt"], hello(5, "away"))
    await away.ask(Subscribe(1, (Subscription("rpc/#", 1),)))
    await trio.aclose_forcefully(away.stream)
    peer = await dial(routed.addresses["mqtt"], packet)
    filters = (Subscription("rpc/#", 2), Subscription("$stream/mqtt", 1), Subscription("$share/g/#", 1))
    assert await peer.ask(Subscribe(1, filters)) == Suback(1, (2, 1, 1))
    other = await dial(routed.addresses["mqtt"], Connect("other", will=Will("rpc/will", b"3", 1)))

    await other.send(Publish("rpc/a", b"0", retain=True))
    assert await other.ask(Publish("rpc/a", b"1", 1, packet_id=1)) == Puback(1)
    assert await other.ask(Publish("rpc/a", b"2", 2, packet_id=2)) == Pubrec(2)
    assert await other.ask(Pubrel(2)) == Pubcomp(2)
    await trio.aclose_forcefully(other.stream)

    found = await messages(peer, 4)
    assert [(message.payload, message.qos) for message in found] == [(b"0", 0), (b"1", 1), (b"2", 2), (b"3", 1)]
    assert await peer.ask(Puback(found[1].packet_id), Pubrec(found[2].packet_id)) == Pubrel(found[2].packet_id)
    assert await stored(routed, "mqtt") == []
    away = await dial(routed.addresses["mqtt"], hello(5, "away"), is_present=True)
    assert await away.ask(Pingreq()) == Pingresp()


async def test_messages_with_qos_0_keep_the_order_of_their_publisher(broker: Broker, dial: Dial) -> None:
    """Some wait for the disk, others do not."""
    peers = [await dial(broker.addresses["mqtt"], packet) for packet in (Connect("c"), hello(4, "kept"))]
    for peer in peers:
        assert await peer.ask(Subscribe(1, (Subscription("t", 1),))) == Suback(1, (1,))
    other = await dial(broker.addresses["mqtt"], Connect("other"))
    sent = [
        Publish("t", b"%d" % number, number % 5 == 3, number % 7 == 2, packet_id=number + 1 if number % 5 == 3 else 0)
        for number in range(300)
    ]
    for start in range(0, 300, 20):
        await other.send(*sent[start : start + 20])

    for peer in peers:
        found = []
        for number in range(300):
            (message,) = await messages(peer, 1)
            found.append(int(message.payload))
            if message.qos:
                await peer.send(Puback(message.packet_id))
            assert found[-1] == number
