"""Shared subscriptions: each message goes to one member, waits while there is none, and is never lost between them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.mqtt.conftest import WAIT_S, Dial, RawClient, hello, left_alone, messages

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.demo.broker_process import BrokerProcess
from trunkline.errors import TrunklineError
from trunkline.queues import Block, QueueConsumer
from trunkline_mqtt.packets import (
    MQTT_5,
    Connect,
    Disconnect,
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
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.shares import QUEUE_PREFIX

pytestmark = pytest.mark.trio

SHARE = "$share/g/t/#"


def clean(client_id: str, level: int = MQTT_5, **properties: Any) -> Connect:
    found = Properties(**properties) if properties else NO_PROPERTIES
    return Connect(client_id, protocol_level=level, properties=found)


async def member(dial: Dial, broker: Broker, packet: Connect, qos: int = 1, share: str = SHARE) -> RawClient:
    """A client that is subscribed."""
    peer = await dial(broker.addresses["mqtt"], packet)
    assert await peer.ask(Subscribe(1, (Subscription(share, qos),))) == Suback(1, (qos,))
    return peer


async def publish(broker: Broker, *payloads: bytes, topic: bytes = b"t/1", qos: bytes = b"2") -> None:
    for payload in payloads:
        await broker.publish("mqtt", payload, key=topic, headers=[("mqtt.qos", qos)])


def shares(broker: Broker) -> list[str]:
    return [name for name in broker.queues.names() if name.startswith(QUEUE_PREFIX)]


async def nothing_more(peer: RawClient) -> None:
    """What was asked for later comes next."""
    assert await peer.ask(Pingreq()) == Pingresp()


async def gather(peers: list[RawClient], count: int) -> list[list[bytes]]:
    """The payloads that each gets, acknowledged, until all together have got ``count``."""
    found: list[list[bytes]] = [[] for _ in peers]

    async def take(peer: RawClient, mine: list[bytes], enough: trio.CancelScope) -> None:
        while True:
            (message,) = await messages(peer, 1)
            mine.append(message.payload)
            if message.qos:
                await peer.send((Puback if message.qos == 1 else Pubrec)(message.packet_id))
            if sum(map(len, found)) >= count:
                enough.cancel()

    async with trio.open_nursery() as nursery:
        for peer, mine in zip(peers, found, strict=True):
            nursery.start_soon(take, peer, mine, nursery.cancel_scope)
    return found


async def no_shares(broker: Broker) -> None:
    with trio.fail_after(WAIT_S):
        while shares(broker):
            await broker._reactor.wait_round()


@pytest.mark.parametrize("level", [3, 4, 5])
async def test_each_message_goes_to_one_of_more_members_than_partitions(broker: Broker, dial: Dial, level: int) -> None:
    peers = [await member(dial, broker, clean(f"m{number}", level)) for number in range(5)]
    other = await member(dial, broker, clean("other", level), share="$share/another/t/#")
    payloads = [b"%d" % number for number in range(60)]

    await publish(broker, *payloads)

    assert [message.payload for message in await messages(other, 60)] == payloads
    found = await gather(peers, 60)
    assert sorted(itertools.chain(*found)) == sorted(payloads)
    assert all(found)


async def test_who_holds_the_fewest_gets_the_next_one(broker: Broker, dial: Dial) -> None:
    slow = await member(dial, broker, clean("slow"))
    quick = await member(dial, broker, clean("quick"))
    await publish(broker, b"0")
    await messages(slow, 1)

    for number in range(1, 6):
        await publish(broker, b"%d" % number)
        assert await gather([quick], 1) == [[b"%d" % number]]
        await nothing_more(quick)


async def test_a_member_s_receive_maximum_holds_beside_its_other_subscriptions(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 4.9."""
    peer = await member(dial, broker, hello(5, receive_maximum=3))
    await peer.ask(Subscribe(2, (Subscription("t/1", 1),)))
    count = 10
    await publish(broker, *[b"%d" % number for number in range(count)])

    found: list[Publish] = []
    while len(found) < 2 * count:
        (message,) = await messages(peer, 1)
        found.append(message)
        if len(found) % 3 == 0 or len(found) == 2 * count:
            await nothing_more(peer)
            await peer.send(*[Puback(earlier.packet_id) for earlier in found[-3:]])
    assert sorted(message.payload for message in found) == sorted(2 * [b"%d" % number for number in range(count)])


@pytest.mark.parametrize(("granted", "published", "expected"), [(0, b"2", 0), (1, b"2", 1), (2, b"2", 2), (2, b"0", 0)])
async def test_a_message_comes_with_the_lower_of_two_qos(
    broker: Broker, dial: Dial, granted: int, published: bytes, expected: int
) -> None:
    """MQTT 5.0, 4.8.2: [MQTT-4.8.2-3]."""
    peer = await member(dial, broker, clean("c"), granted)
    await publish(broker, b"x", qos=published)

    (message,) = await messages(peer, 1)
    assert (message.qos, message.retain, message.dup) == (expected, False, False)


async def test_a_message_carries_the_subscription_identifier(broker: Broker, dial: Dial) -> None:
    peer = await dial(broker.addresses["mqtt"], clean("c"))
    identifier = Properties(subscription_identifiers=(7,))
    assert await peer.ask(Subscribe(1, (Subscription(SHARE, 1),), identifier)) == Suback(1, (1,))
    await publish(broker, b"x")

    (message,) = await messages(peer, 1)
    assert message.properties.subscription_identifiers == (7,)


async def test_nothing_retained_is_sent(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 4.8.2 and 3.8.3.1."""
    await broker.publish("mqtt", b"old", key=b"t/1", headers=[("mqtt.retain", b"1")])
    peer = await member(dial, broker, clean("c"))

    await publish(broker, b"new")

    assert [message.payload for message in await messages(peer, 1)] == [b"new"]


async def test_keys_that_are_no_topics_and_dollar_topics_are_passed_over(broker: Broker, dial: Dial) -> None:
    peer = await member(dial, broker, clean("c"), share="$share/g/#")
    await publish(broker, b"1", topic=b"a+")
    await publish(broker, b"2", topic=b"$a/b")
    await publish(broker, b"3", topic=b"a/b")

    assert [message.payload for message in await messages(peer, 1)] == [b"3"]
    with trio.fail_after(WAIT_S):
        while broker.queues.get(shares(broker)[0]).statistics().ready:
            await broker._reactor.wait_round()


@pytest.mark.parametrize("packet", [clean("c"), hello(5), hello(4)])
async def test_unacknowledged_messages_go_to_another_member(broker: Broker, dial: Dial, packet: Connect) -> None:
    peer = await member(dial, broker, packet)
    await publish(broker, *[b"%d" % number for number in range(5)])
    await messages(peer, 5)
    other = await member(dial, broker, clean("other"))

    await trio.aclose_forcefully(peer.stream)

    assert await gather([other], 5) == [[b"%d" % number for number in range(5)]]


@pytest.mark.parametrize("level", [4, 5])
async def test_a_qos_2_delivery_is_completed_with_the_client_it_was_begun_with(
    broker: Broker, dial: Dial, level: int
) -> None:
    """MQTT 5.0, 4.8.2: [MQTT-4.8.2-4]."""
    peer = await member(dial, broker, hello(level), 2)
    await publish(broker, b"sent", b"received")
    first, second = await messages(peer, 2)
    assert await peer.ask(Pubrec(second.packet_id)) == Pubrel(second.packet_id)
    other = await member(dial, broker, clean("other"), 2)
    await trio.aclose_forcefully(peer.stream)
    await publish(broker, b"new")
    assert await gather([other], 1) == [[b"new"]]

    peer = await dial(broker.addresses["mqtt"], hello(level), is_present=True)

    assert await peer.receive() == Publish("t/1", b"sent", 2, False, True, first.packet_id)
    assert await peer.receive() == Pubrel(second.packet_id)
    assert await peer.ask(Pubrec(first.packet_id)) == Pubrel(first.packet_id)
    await peer.send(Pubcomp(first.packet_id), Pubcomp(second.packet_id))
    await nothing_more(peer)
    queue = broker.queues.get(shares(broker)[0])
    assert queue.statistics().ready == 0


async def test_a_qos_2_delivery_ends_with_its_session(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 4.8.2: [MQTT-4.8.2-5]."""
    peer = await member(dial, broker, clean("c"), 2)
    await publish(broker, b"1")
    await messages(peer, 1)
    other = await member(dial, broker, clean("other"), 2)

    await trio.aclose_forcefully(peer.stream)
    await publish(broker, b"2", b"3")

    assert sorted(itertools.chain(*await gather([other], 2))) == [b"2", b"3"]


@pytest.mark.parametrize(("qos", "refusal"), [(1, Puback), (2, Pubrec)])
async def test_a_message_that_a_member_refuses_is_not_offered_to_another(
    broker: Broker, dial: Dial, qos: int, refusal: type[Puback] | type[Pubrec]
) -> None:
    """MQTT 5.0, 4.8.2: [MQTT-4.8.2-6]."""
    peer = await member(dial, broker, clean("c"), qos)
    await publish(broker, b"1")
    (message,) = await messages(peer, 1)
    other = await member(dial, broker, clean("other"), qos)

    await peer.send(refusal(message.packet_id, 0x97))
    await nothing_more(peer)
    await trio.aclose_forcefully(peer.stream)
    await publish(broker, b"2")

    assert await gather([other], 1) == [[b"2"]]


# -- how long it lasts -----------------------------------------------------------------------------


async def test_messages_wait_for_sessions_that_are_away_also_over_a_restart(tmp_path: Path, dial: Dial) -> None:
    options = {"store": "segments", "listen": {"mqtt": "127.0.0.1:0"}}
    async with open_broker(tmp_path, **options) as broker:  # type: ignore[arg-type]
        for name in ("a", "b"):
            peer = await member(dial, broker, hello(5, name))
            await trio.aclose_forcefully(peer.stream)
        await left_alone(broker)
        await publish(broker, b"1", b"2")

    async with open_broker(tmp_path, **options) as broker:  # type: ignore[arg-type]
        await publish(broker, b"3")
        peer = await dial(broker.addresses["mqtt"], hello(5, "b"), is_present=True)
        assert await gather([peer], 3) == [[b"1", b"2", b"3"]]
        assert len(shares(broker)) == 1


async def test_it_ends_with_its_last_subscription(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 4.8.2. What waits goes with it."""
    first = await member(dial, broker, clean("a"))
    second = await member(dial, broker, hello(5, "b"))
    await publish(broker, b"1", b"2")
    (held,) = await messages(second, 1)

    assert await second.ask(Unsubscribe(2, (SHARE,))) == Unsuback(2, (0,))
    await second.send(Puback(held.packet_id))  # what was begun is completed: 3.10.4
    await nothing_more(second)
    assert len(shares(broker)) == 1
    await first.send(Disconnect())
    await no_shares(broker)

    third = await member(dial, broker, clean("c"))
    await publish(broker, b"3")
    assert [message.payload for message in await messages(third, 1)] == [b"3"]


async def test_it_ends_with_its_last_session(tmp_path: Path, mock_clock: trio.testing.MockClock, dial: Dial) -> None:
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory")
    async with open_broker(tmp_path, config=config) as broker:
        peer = await member(dial, broker, hello(5, session_expiry_s=10))
        await trio.aclose_forcefully(peer.stream)
        await left_alone(broker)
        assert len(shares(broker)) == 1

        mock_clock.jump(11)

        await no_shares(broker)


async def test_one_whose_clean_sessions_ended_with_the_broker_is_gone_at_its_next_start(tmp_path: Path) -> None:
    options = {"store": "segments", "listen": {"mqtt": "127.0.0.1:0"}}
    async with open_broker(tmp_path, **options) as broker:  # type: ignore[arg-type]
        await broker.queues.declare(f"{QUEUE_PREFIX}g.left.over")  # as a kill leaves it

    async with open_broker(tmp_path, **options) as broker:  # type: ignore[arg-type]
        await no_shares(broker)


async def test_a_qos_2_delivery_stays_with_its_session_when_the_broker_is_killed(tmp_path: Path, dial: Dial) -> None:
    """[MQTT-4.8.2-4]. Nothing had told the queue yet that it was begun."""
    async with BrokerProcess.open(tmp_path) as process:
        address = process.address("mqtt")
        peer = await dial(address, hello(5), is_present=False)
        assert await peer.ask(Subscribe(1, (Subscription(SHARE, 2),))) == Suback(1, (2,))
        publisher = await dial(address, clean("publisher"))
        assert await publisher.ask(Publish("t/1", b"begun", 1, packet_id=1)) == Puback(1)
        await publisher.send(Publish("t/1", b"begun too", 2, packet_id=1))
        first, second = await messages(peer, 2)
        assert (first.qos, second.qos) == (1, 2)
        process.kill()
        await process.wait_ended()
        await process.start()

        other = await dial(address, clean("other"))
        assert await other.ask(Subscribe(1, (Subscription(SHARE, 1),))) == Suback(1, (1,))
        assert await gather([other], 1) == [[b"begun"]]
        publisher = await dial(address, clean("publisher"))
        assert await publisher.ask(Publish("t/1", b"new", 1, packet_id=1)) == Puback(1)
        assert await gather([other], 1) == [[b"new"]]
        peer = await dial(address, hello(5), is_present=True)
        assert await messages(peer, 1) == [Publish("t/1", b"begun too", 2, dup=True, packet_id=second.packet_id)]


async def test_a_queue_deleted_by_hand_ends_the_connections_of_members(broker: Broker, dial: Dial) -> None:
    peer = await member(dial, broker, hello(5))

    await broker.queues.delete(shares(broker)[0])

    assert await peer.until_closed() == []
    peer = await dial(broker.addresses["mqtt"], hello(5), is_present=True)
    with trio.fail_after(WAIT_S):
        while not shares(broker):
            await broker._reactor.wait_round()
    await publish(broker, b"1")
    assert await gather([peer], 1) == [[b"1"]]


@pytest.mark.parametrize("bad", ["$share/g", "$share//t", "$share/g/", "$share/+/t"])
async def test_before_mqtt_5_a_bad_share_is_refused_in_suback(broker: Broker, dial: Dial, bad: str) -> None:
    peer = await dial(broker.addresses["mqtt"], Connect("c"))
    assert await peer.ask(Subscribe(1, (Subscription(bad, 1),))) == Suback(1, (0x80,))


class _Alone(QueueConsumer):
    """Takes a queue for itself."""

    def deliver(self, blocks: list[Block]) -> None:
        raise AssertionError("there is nothing to take")

    def cancelled(self, error: TrunklineError) -> None:
        """The broker closes."""


async def test_a_queue_that_somebody_else_consumes_alone_ends_only_the_connection_that_wants_it(
    tmp_path: Path, dial: Dial
) -> None:
    config = BrokerConfig(data=tmp_path / "data", listen={"mqtt": "127.0.0.1:0"})
    async with open_broker(tmp_path / "data", config=config) as broker:
        stored = Connect("stored", protocol_level=MQTT_5, properties=Properties(session_expiry_s=1000))
        first = await member(dial, broker, stored)
        other = await dial(broker.addresses["mqtt"], clean("other"))
        (name,) = shares(broker)
        await first.send(Disconnect())
        await first.until_closed()
        queue = broker.queues.get(name)
        queue.consume(_Alone(), exclusive=True)
        second = await dial(broker.addresses["mqtt"], clean("second"))
        await second.send(Subscribe(1, (Subscription("$share/new/t/#", 1), Subscription(SHARE, 1))))
        assert await second.until_closed() == []
        await nothing_more(other)
