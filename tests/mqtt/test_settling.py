"""What is published before a SUBSCRIBE is retained for it, or not for it at all, also if the disk is not that fast."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, ConnectRaw, Dial, RawClient, hello, open_transaction

from trunkline.broker import Broker, open_broker
from trunkline.errors import StoreFull
from trunkline.plugins import PluginHost
from trunkline.testing.scripted_store import ScriptedStore
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.reasons import Reason

pytestmark = pytest.mark.trio

WHO = [Connect("c"), Connect("c", protocol_level=MQTT_5), hello(MQTT_3_1_1), hello(MQTT_5)]
NAMES = ["3.1.1", "5.0", "3.1.1, stored", "5.0, stored"]


def retained(topic: str, payload: bytes, qos: int = 0) -> Publish:
    return Publish(topic, payload, qos, retain=True, packet_id=9 if qos else 0)


def subscribe(topic_filter: str, retain_handling: int = 0) -> Subscribe:
    return Subscribe(1, (Subscription(topic_filter, retain_handling=retain_handling),))


async def said(peer: RawClient, *packets: Packet) -> list[tuple[str, bytes, bool]]:
    """What comes for these, sent in one piece, so that they are there before the first of them is committed.

    The last of them subscribes to ``#``.
    """
    await peer.send(*packets, Publish("end", b"", 1, packet_id=5))
    found = []
    with trio.fail_after(WAIT_S):
        while (packet := await peer.receive()) != Publish("end", b""):
            if isinstance(packet, Publish):
                found.append((packet.topic, packet.payload, packet.retain))
    return sorted(found)


@pytest.mark.parametrize("greeting", WHO, ids=NAMES)
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_published_just_before_is_retained(connect: ConnectRaw, greeting: Connect, qos: int) -> None:
    """MQTT 5.0, 3.3.1.3; 3.1.1, 3.3.1.3: it is there when the subscription is made."""
    peer = await connect(greeting)
    found = await said(peer, retained("a", b"1", qos), subscribe("#"))
    assert found == [("a", b"1", True)]


@pytest.mark.parametrize("greeting", WHO, ids=NAMES)
async def test_a_message_taken_away_just_before_is_not_there(connect: ConnectRaw, greeting: Connect) -> None:
    peer = await connect(greeting)
    found = await said(peer, retained("a", b"1"), retained("b", b"2"), retained("a", b""), subscribe("#"))
    assert found == [("b", b"2", True)]


@pytest.mark.parametrize("greeting", WHO[1::2], ids=NAMES[1::2])
async def test_who_wants_nothing_retained_does_not_get_what_was_published_before(
    connect: ConnectRaw, greeting: Connect
) -> None:
    """MQTT 5.0, 3.8.3.1: retain handling 2."""
    peer = await connect(greeting)
    assert not await said(peer, retained("a", b"1"), subscribe("#", retain_handling=2))


@pytest.mark.parametrize("greeting", WHO, ids=NAMES)
async def test_what_comes_behind_the_subscription_waits_with_it(connect: ConnectRaw, greeting: Connect) -> None:
    """Packets of a client are handled in order, so these are new messages."""
    peer = await connect(greeting)
    found = await said(peer, retained("a", b"1"), subscribe("#"), retained("a", b"2"), Publish("b", b"3"))
    assert found == [("a", b"1", True), ("a", b"2", False), ("b", b"3", False)]


async def test_the_order_of_answers_is_that_of_the_requests(connect: ConnectRaw) -> None:
    peer = await connect(Connect("c", protocol_level=MQTT_5))
    await peer.send(retained("a", b"1", 1), subscribe("b"), Publish("c", b"2", 2, packet_id=3))
    assert [type(await peer.receive()) for _ in range(3)] == [Puback, Suback, Pubrec]


async def test_many_at_once_wait_for_the_same(broker: Broker, connect: ConnectRaw) -> None:
    publisher = await connect("p")
    peers = [await connect(f"c{number}") for number in range(20)]
    found: list[list[tuple[str, bytes, bool]]] = []

    async def ask(peer: RawClient) -> None:
        found.append(await said(peer, subscribe("#")))

    await publisher.send(*[retained(f"a/{number}", b"x") for number in range(50)])
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    for messages in found:  # whoever came before some of them got those as new ones
        assert len(messages) <= 50
        assert len({topic for topic, _, _ in messages}) == len(messages)


async def test_what_is_wrong_behind_a_subscription_that_waits_ends_the_connection(connect: ConnectRaw) -> None:
    peer = await connect(Connect("c", protocol_level=MQTT_5))
    await peer.send(retained("a", b"1"), subscribe("b"), Connect("again", protocol_level=MQTT_5))
    packets = await peer.until_closed()
    assert isinstance(packets[-1], Disconnect)
    assert packets[-1].reason_code == Reason.PROTOCOL_ERROR
    assert isinstance(packets[0], Suback)


async def test_a_client_that_goes_while_its_subscription_waits_leaves_nothing(
    broker: Broker, connect: ConnectRaw
) -> None:
    peer = await connect("c")
    await peer.send(retained("a", b"1"), subscribe("#"))
    await trio.aclose_forcefully(peer.stream)
    with trio.fail_after(WAIT_S):
        while broker.statistics().net.connections:
            await broker._reactor.wait_round()
    other = await connect("d")
    assert await said(other, subscribe("#")) == [("a", b"1", True)]


@pytest.mark.parametrize("greeting", WHO, ids=NAMES)
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_was_published_before_a_subscription_is_not_new_to_it(
    connect: ConnectRaw, greeting: Connect, qos: int
) -> None:
    """Packets of a client are handled in order: MQTT 5.0, 4.6."""
    peer = await connect(greeting)
    before = Publish("a", b"1", qos, packet_id=9 if qos else 0)
    assert await said(peer, before, subscribe("#"), Publish("a", b"2")) == [("a", b"2", False)]


async def test_a_subscription_waits_for_no_transaction(broker: Broker, connect: ConnectRaw) -> None:
    """One of another door may be open for minutes, and holds back what readers see behind it."""
    publisher, peer = await connect("p"), await connect("c")
    await open_transaction(broker)
    assert await publisher.ask(retained("a", b"1", 1)) == Puback(9)
    assert isinstance(await peer.ask(subscribe("a")), Suback)
    assert await broker.transactions.abort("tx")
    assert await peer.receive() == Publish("a", b"1")


async def test_a_subscription_does_not_wait_for_what_found_no_room(tmp_path: Path, dial: Dial) -> None:
    store, host = ScriptedStore(), PluginHost()
    host.add("scripted", store)
    async with open_broker(tmp_path, store="scripted", listen={"mqtt": "127.0.0.1:0"}, plugins=host) as broker:
        publisher = await dial(broker.addresses["mqtt"], Connect("p"))
        store.fail_next("append", StoreFull("no room"))
        await publisher.send(retained("a", b"1", 1), subscribe("a"))
        assert await publisher.until_closed() == []

        peer = await dial(broker.addresses["mqtt"], Connect("c"))
        assert isinstance(await peer.ask(subscribe("a")), Suback)
