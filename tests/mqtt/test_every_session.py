"""What holds for every subscriber: of MQTT 3.1.1 and 5.0, with a session that is kept and without.

Both kinds of sessions send what is new, what is retained and what waited in ways of their own.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, ConnectRaw, RawClient, hello, messages

from trunkline.broker import Broker
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connack,
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
    Unsuback,
    Unsubscribe,
    Will,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import Reason

pytestmark = pytest.mark.trio

OF_5 = [
    pytest.param(Connect("c", protocol_level=MQTT_5), id="5.0"),
    pytest.param(hello(MQTT_5), id="5.0-kept"),
]
ALL = [pytest.param(Connect("c"), id="3.1.1"), pytest.param(hello(MQTT_3_1_1), id="3.1.1-kept"), *OF_5]


async def subscribe(peer: RawClient, *filters: Subscription, identifier: int = 0) -> None:
    properties = Properties(subscription_identifiers=(identifier,)) if identifier else NO_PROPERTIES
    await peer.send(Subscribe(1, filters, properties))
    while not isinstance(answer := await peer.receive(), Suback):
        """Retained messages may come before it."""
    assert answer == Suback(1, tuple([entry.qos for entry in filters]))


async def told(peer: RawClient, *packets: Any) -> list[Publish]:
    """The messages that come for these packets, without those that have QoS 0 and payload "end"."""
    await peer.send(*packets, Publish("end", b"end"))
    found: list[Publish] = []
    with trio.fail_after(WAIT_S):
        while True:
            packet = await peer.receive()
            if not isinstance(packet, Publish):
                continue
            if packet.payload == b"end":
                return found
            found.append(packet)


async def published(connect: ConnectRaw, *packets: Publish) -> None:
    """Committed: the last one has QoS 1."""
    publisher = await connect(Connect("publisher", protocol_level=MQTT_5))
    await publisher.send(*packets, Publish("committed", b"", 1, packet_id=99))
    while await publisher.receive() != Puback(99):
        """Answers to the others."""
    await publisher.stream.aclose()


@pytest.mark.parametrize("greeting", ALL)
@pytest.mark.parametrize("payload", [b"small", b"large" * 1000], ids=["small", "large"])
@pytest.mark.parametrize(("wanted", "sent", "expected"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (2, 1, 1), (2, 0, 0)])
async def test_the_qos_is_the_lower_of_both(
    connect: ConnectRaw, greeting: Connect, payload: bytes, wanted: int, sent: int, expected: int
) -> None:
    """[MQTT-3.8.4-8], 3.1.1: [MQTT-3.8.4-6]."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", wanted))
    await published(connect, Publish("t", payload, sent, packet_id=1 if sent else 0))
    assert [message.qos for message in await messages(peer, 1)] == [expected]


@pytest.mark.parametrize("greeting", ALL)
@pytest.mark.parametrize(
    "qos_by_filter", [{"t": 2, "+": 1, "#": 0}, {"t": 0, "+": 1, "#": 2}], ids=["falling", "rising"]
)
async def test_one_copy_comes_at_the_highest_qos(
    connect: ConnectRaw, greeting: Connect, qos_by_filter: dict[str, int]
) -> None:
    """[MQTT-3.3.4-2] to [MQTT-3.3.4-4], 3.1.1: [MQTT-3.3.5-1]."""
    peer = await connect(greeting)
    for identifier, (pattern, qos) in enumerate(qos_by_filter.items(), 1):
        await subscribe(peer, Subscription(pattern, qos), identifier=identifier)
    await published(connect, Publish("t", b"x", 2, packet_id=1))
    message, following = await messages(peer, 2)
    assert (message.payload, message.qos) == (b"x", 2)
    assert following.topic == "committed"
    is_5 = greeting.protocol_level == MQTT_5
    assert message.properties.subscription_identifiers == ((1, 2, 3) if is_5 else ())


@pytest.mark.parametrize("greeting", ALL)
async def test_subscribing_again_replaces_what_was_wanted(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.8.4-3], 3.1.1: [MQTT-3.8.4-3]: one subscription, as it was made last."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", 2), identifier=1)
    await subscribe(peer, Subscription("t", 1), identifier=2)
    await published(connect, Publish("t", b"x", 2, packet_id=1))
    (message,) = await messages(peer, 1)
    assert message.qos == 1
    is_5 = greeting.protocol_level == MQTT_5
    assert message.properties.subscription_identifiers == ((2,) if is_5 else ())


@pytest.mark.parametrize("greeting", ALL)
async def test_nothing_comes_after_unsubscribing(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.10.4-2], 3.1.1: [MQTT-3.10.4-2]."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", 1), Subscription("end"), Subscription("committed"))
    assert isinstance(await peer.ask(Unsubscribe(2, ("t",))), Unsuback)
    await published(connect, Publish("t", b"x", 1, packet_id=1))
    assert [message.topic for message in await told(peer)] == ["committed"]


@pytest.mark.parametrize("greeting", ALL)
async def test_what_was_begun_is_completed_in_order_after_unsubscribing(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.10.4-3], [MQTT-4.6.0-4], 3.1.1 likewise."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", 2))
    await published(connect, Publish("t", b"1", 2, packet_id=1), Publish("t", b"2", 2, packet_id=2))
    first, second = [message.packet_id for message in await messages(peer, 2)]
    assert isinstance(await peer.ask(Unsubscribe(2, ("t",))), Unsuback)
    await peer.send(Pubrec(second), Pubrec(first))
    assert [await peer.receive(), await peer.receive()] == [Pubrel(second), Pubrel(first)]
    await peer.send(Pubcomp(second), Pubcomp(first))
    assert await peer.ask(Pingreq()) == Pingresp()


@pytest.mark.parametrize("greeting", ALL)
async def test_retain_is_for_those_who_come_later(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.3.1-12], 3.1.1: [MQTT-3.3.1-8] and [MQTT-3.3.1-9]."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", 1), Subscription("end"))
    await published(connect, Publish("t", b"x", 1, retain=True, packet_id=1))
    assert [message.retain for message in await messages(peer, 1)] == [False]
    assert [message.retain for message in await told(peer, Subscribe(2, (Subscription("t", 1),)))] == [True]


@pytest.mark.parametrize("greeting", OF_5)
async def test_retain_comes_as_published_to_who_wants_it_so(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.3.1-13]."""
    peer = await connect(greeting)
    await subscribe(peer, Subscription("t", 1, retain_as_published=True))
    await published(connect, Publish("t", b"1", 1, retain=True, packet_id=1), Publish("t", b"2", 1, packet_id=2))
    assert [message.retain for message in await messages(peer, 2)] == [True, False]


@pytest.mark.parametrize("greeting", OF_5)
@pytest.mark.parametrize(("handling", "first", "second"), [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
async def test_retain_handling_of_every_session(
    connect: ConnectRaw, greeting: Connect, handling: int, first: int, second: int
) -> None:
    """[MQTT-3.3.1-9] to [MQTT-3.3.1-11], [MQTT-3.8.4-4]."""
    await published(connect, Publish("t", b"x", 1, retain=True, packet_id=1))
    peer = await connect(greeting)
    await subscribe(peer, Subscription("end"))
    packet = Subscribe(2, (Subscription("t", 1, retain_handling=handling),))
    assert [len(await told(peer, packet)), len(await told(peer, packet))] == [first, second]


@pytest.mark.parametrize("greeting", ALL)
async def test_what_is_not_retained_does_not_replace_what_is(connect: ConnectRaw, greeting: Connect) -> None:
    """[MQTT-3.3.1-8], 3.1.1: [MQTT-3.3.1-12]."""
    await published(connect, Publish("t", b"kept", 1, True, packet_id=1), Publish("t", b"new", 1, packet_id=2))
    await published(connect, Publish("t", b"newer", 1, packet_id=1, properties=Properties(content_type="x")))
    peer = await connect(greeting)
    await subscribe(peer, Subscription("end"))
    assert [message.payload for message in await told(peer, Subscribe(2, (Subscription("t", 1),)))] == [b"kept"]


@pytest.mark.parametrize("retain", [False, True])
async def test_a_will_is_retained_if_it_says_so(connect: ConnectRaw, retain: bool) -> None:
    """[MQTT-3.1.2-14], [MQTT-3.1.2-15], [MQTT-3.1.3-10]; 3.1.1: [MQTT-3.1.2-16], [MQTT-3.1.2-17]."""
    said = Properties(user=(("b", "1"), ("a", "2"), ("b", "0")), correlation=b"one-way")
    watcher = await connect(Connect("watcher", protocol_level=MQTT_5))
    await subscribe(watcher, Subscription("w"))
    leaving = await connect(Connect("leaving", will=Will("w", b"gone", 1, retain, said), protocol_level=MQTT_5))
    await trio.aclose_forcefully(leaving.stream)
    assert await messages(watcher, 1) == [Publish("w", b"gone", properties=said)]
    late = await connect(Connect("late", protocol_level=MQTT_5))
    await subscribe(late, Subscription("end"))
    assert len(await told(late, Subscribe(2, (Subscription("w"),)))) == retain


async def test_no_alias_is_used_where_none_is_allowed(connect: ConnectRaw) -> None:
    """[MQTT-3.1.2-27]."""
    peer = await connect(Connect("c", protocol_level=MQTT_5))
    await subscribe(peer, Subscription("a/long/topic"))
    await published(connect, Publish("a/long/topic", b"1"), Publish("a/long/topic", b"2"))
    assert [message.properties.topic_alias for message in await messages(peer, 2)] == [None, None]


@pytest.mark.parametrize("wanted", [0, 1])
async def test_suback_gives_its_reason_in_words_only_to_who_wants_them(connect: ConnectRaw, wanted: int) -> None:
    """[MQTT-3.1.2-29]."""
    peer = await connect(Connect("c", protocol_level=MQTT_5, properties=Properties(request_problem_information=wanted)))
    answer = await peer.ask(Subscribe(1, (Subscription("$stream/missing"),)))
    assert isinstance(answer, Suback)
    assert answer.reason_codes == (Reason.TOPIC_FILTER_INVALID,)
    assert (answer.properties.reason is not None) == bool(wanted)


async def test_what_is_too_large_now_is_not_sent_again(connect: ConnectRaw) -> None:
    """[MQTT-3.1.2-24], [MQTT-3.1.2-25]: it counts as delivered, and holds up nothing."""
    peer = await connect(hello(MQTT_5))
    await subscribe(peer, Subscription("t", 2))
    large = [Publish("t", b"x" * 300, qos, packet_id=qos) for qos in (1, 2)]
    await published(connect, *large, Publish("t", b"small", 1, packet_id=3))
    assert len(await messages(peer, 3)) == 3
    await trio.aclose_forcefully(peer.stream)
    await published(connect, *large, Publish("t", b"new", 1, packet_id=3))

    back = await connect()
    back._decoder.protocol_level = MQTT_5
    assert isinstance(await back.ask(hello(MQTT_5, maximum_packet_size=100, receive_maximum=1)), Connack)
    (again,) = await messages(back, 1)
    assert (again.payload, again.dup) == (b"small", True)
    await back.send(Puback(again.packet_id))
    (new,) = await messages(back, 1)
    assert (new.payload, new.dup) == (b"new", False)


@pytest.mark.parametrize("greeting", ALL)
@pytest.mark.parametrize("pattern", ["#", "+/x", "$share/g/#", "$stream/mqtt/#", "$stream/mqtt/+/x"])
async def test_no_wildcard_matches_a_dollar_at_the_beginning(
    broker: Broker, connect: ConnectRaw, greeting: Connect, pattern: str
) -> None:
    """[MQTT-4.7.2-1], 3.1.1: [MQTT-4.7.2-1]."""
    await broker.publish("mqtt", b"before", key=b"$d/x", headers=[("mqtt.retain", b"1")])
    peer = await connect(greeting)
    await subscribe(peer, Subscription(pattern, 1))
    await broker.publish("mqtt", b"after", key=b"$d/x")
    await broker.publish("mqtt", b"last", key=b"d/x")
    assert [message.payload for message in await messages(peer, 1)] == [b"last"]


@pytest.mark.parametrize("greeting", ALL)
async def test_clients_meet_on_a_dollar_topic_that_is_not_the_servers_own(
    connect: ConnectRaw, greeting: Connect
) -> None:
    """As on any other: live, retained, as a will, and what waited. Other brokers let them, 4.7.2 leaves it open."""
    topic = "$aws/things/lamp/shadow/update"
    await published(connect, Publish(topic, b"kept", 1, True, packet_id=1))
    peer = await connect(greeting)
    await subscribe(peer, Subscription("$aws/things/+/shadow/#", 1))
    assert [message.payload for message in await messages(peer, 1)] == [b"kept"]
    publisher = await connect(Connect("lamp", will=Will(topic, b"gone", 1)))
    await publisher.send(Publish(topic, b"0"))
    await publisher.ask(Publish(topic, b"1", 1, packet_id=1))
    await trio.aclose_forcefully(publisher.stream)
    assert [(message.topic, message.payload) for message in await messages(peer, 3)] == [
        (topic, b"0"), (topic, b"1"), (topic, b"gone"),
    ]  # fmt: skip


@pytest.mark.parametrize("greeting", [Connect("b", is_bridge=True), Connect("b", clean_start=False, is_bridge=True)])
async def test_a_bridge_of_mqtt_3_gets_none_of_its_own_messages_and_retain_as_published(
    connect: ConnectRaw, greeting: Connect
) -> None:
    """What Mosquitto's bridges expect of a broker that takes the protocol level by which they say what they are."""
    bridge = await connect(greeting)
    await subscribe(bridge, Subscription("#", 1))
    assert await bridge.ask(Publish("t", b"own", 1, packet_id=7)) == Puback(7)
    await bridge.send(Publish("t", b"own", 0))
    await published(connect, Publish("t", b"kept", 1, True, packet_id=1), Publish("t", b"plain", 1, packet_id=2))
    found = await messages(bridge, 2)
    assert [(message.payload, message.retain) for message in found] == [(b"kept", True), (b"plain", False)]
