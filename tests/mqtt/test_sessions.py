"""Sessions that outlive their connections: what comes when a client is back, after a loss, a restart, a kill."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from tests.mqtt.conftest import Dial, RawClient, hello, left_alone, messages, open_client

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.demo.broker_process import BrokerProcess
from trunkline.sessions import Session as CoreSession
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.gate import Gate
from trunkline_mqtt.outbox import Outbox
from trunkline_mqtt.packets import (
    MQTT_5,
    Connect,
    Disconnect,
    Packet,
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
from trunkline_mqtt.properties import Properties
from trunkline_mqtt.sender import Sender
from trunkline_mqtt.session import Session
from trunkline_mqtt.stored_session import StoredSession

pytestmark = pytest.mark.trio


@asynccontextmanager
async def client(
    broker: Broker, packet: Connect | None = None, *, is_present: bool | None = None
) -> AsyncIterator[RawClient]:
    """A client whose connection is lost at the end of the block."""
    peer = await open_client(broker.addresses["mqtt"], packet or hello(), is_present=is_present)
    async with peer.stream:
        yield peer
    while broker.statistics().net.connections:  # the broker has noticed
        await trio.lowlevel.checkpoint()


async def publish(broker: Broker, *payloads: bytes, qos: bytes = b"2") -> None:
    for payload in payloads:
        await broker.publish("mqtt", payload, key=b"t", headers=[("mqtt.qos", qos)])


@pytest.mark.parametrize("level", [3, 4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_comes_while_a_client_is_away_comes_when_it_is_back(broker: Broker, level: int, qos: int) -> None:
    """MQTT 3.1.1, 3.1.2.4: [MQTT-3.1.2-4], [MQTT-3.1.2-5]; the same for all versions, but 3.1 has no flag for it."""
    async with client(broker, hello(level), is_present=False) as peer:
        assert await peer.ask(Subscribe(1, (Subscription("t", qos),))) == Suback(1, (qos,))
    payloads = [b"%d" % number for number in range(20)]
    await publish(broker, *payloads)

    async with client(broker, hello(level), is_present=level != 3) as peer:
        found = await messages(peer, 20)
        assert [(message.payload, message.qos, message.dup) for message in found] == [(p, qos, False) for p in payloads]
        assert await peer.ask(Pingreq()) == Pingresp()


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.usefixtures("no_search_for_cycles")
async def test_what_a_connection_needed_is_freed_when_it_ends(broker: Broker, clean: bool, is_lost: bool) -> None:
    """In a cycle it would stay until a garbage collection: kilobytes for each device that has come and gone."""

    def count() -> int:
        kinds = (MqttConnection, Gate, StoredSession, Session, Outbox, Sender, CoreSession)
        return sum(isinstance(thing, kinds) for thing in gc.get_objects())

    before = count()
    async with client(broker, hello(clean=clean)) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", 1),)))
        await publish(broker, b"1", b"2")
        first, _ = await messages(peer, 2)
        assert count() > before
        await peer.send(Puback(first.packet_id), *(() if is_lost else (Disconnect(),)))
    with trio.fail_after(20):
        while count() > before:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_is_unacknowledged_is_sent_again_with_its_identifier_in_order(broker: Broker, qos: int) -> None:
    """MQTT 3.1.1, 4.4: [MQTT-4.4.0-1], and 4.6: [MQTT-4.6.0-1]."""
    async with client(broker) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", qos),)))
        await publish(broker, b"1", b"2", b"3")
        first = await messages(peer, 3)
        answer = Puback if qos == 1 else Pubrec
        await peer.send(answer(first[1].packet_id), Pingreq())
        while await peer.receive() != Pingresp():
            """What comes before is the PUBREL, or nothing."""
    await publish(broker, b"4")

    async with client(broker, is_present=True) as peer:
        packets = [await peer.receive() for _ in range(3 + (qos == 2))]
    ids = [message.packet_id for message in first]
    expected: list[Packet] = [
        Publish("t", b"1", qos, dup=True, packet_id=ids[0]),
        Publish("t", b"3", qos, dup=True, packet_id=ids[2]),
    ]
    if qos == 2:
        expected.insert(1, Pubrel(ids[1]))
    assert packets[:-1] == expected
    new = packets[-1]
    assert isinstance(new, Publish)
    assert (new.payload, new.dup) == (b"4", False)
    assert new.packet_id not in {ids[0], ids[2]}


async def test_what_is_acknowledged_is_not_sent_again(broker: Broker) -> None:
    async with client(broker) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", 2),)))
        await publish(broker, b"1")
        (message,) = await messages(peer, 1)
        assert await peer.ask(Pubrec(message.packet_id)) == Pubrel(message.packet_id)
        await peer.send(Pubcomp(message.packet_id))
        assert await peer.ask(Pingreq()) == Pingresp()

    async with client(broker, is_present=True) as peer:
        assert await peer.ask(Pingreq()) == Pingresp()


async def test_no_more_is_sent_again_at_a_time_than_the_client_takes_now(broker: Broker) -> None:
    """MQTT 5.0, 4.9: its receive maximum may be smaller than when they were sent first."""
    async with client(broker, hello(5)) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", 1),)))
        await publish(broker, b"1", b"2", b"3", b"4", b"5")
        await messages(peer, 5)

    async with client(broker, hello(5, receive_maximum=2)) as peer:
        found = await messages(peer, 2)
        assert await peer.ask(Pingreq()) == Pingresp()
        while len(found) < 5:
            await peer.send(Puback(found[-2].packet_id), Puback(found[-1].packet_id))
            found += await messages(peer, min(2, 5 - len(found)))
        assert [message.payload for message in found] == [b"1", b"2", b"3", b"4", b"5"]


async def test_pubrel_does_not_wait_for_the_receive_maximum(broker: Broker) -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-10], 4.9: [MQTT-4.9.0-3]; and 4.6: [MQTT-4.6.0-4], PUBRELs in order."""
    async with client(broker, hello(5)) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", 2),)))
        await publish(broker, b"1", b"2", b"3", b"4")
        first, second, third, fourth = [message.packet_id for message in await messages(peer, 4)]
        assert await peer.ask(Pubrec(second)) == Pubrel(second)
        assert await peer.ask(Pubrec(fourth)) == Pubrel(fourth)

    async with client(broker, hello(5, receive_maximum=1)) as peer:
        assert (await messages(peer, 1))[0].packet_id == first
        assert await peer.receive() == Pubrel(second)
        assert await peer.receive() == Pubrel(fourth)
        await peer.send(Pubcomp(fourth), Pubcomp(second))
        assert await peer.ask(Pubrec(first)) == Pubrel(first)
        await peer.send(Pubcomp(first))
        assert (await messages(peer, 1))[0].packet_id == third
        assert await peer.ask(Pubrec(third)) == Pubrel(third)
        await publish(broker, b"5")
        await peer.send(Pubcomp(third))
        assert (await messages(peer, 1))[0].payload == b"5"


async def test_filters_are_kept_with_all_they_ask_for(broker: Broker) -> None:
    async with client(broker, hello(5)) as peer:
        identifier = Properties(subscription_identifiers=(268_435_455,))
        await peer.ask(Subscribe(1, (Subscription("t", 1, retain_as_published=True),), identifier))
        await peer.ask(Subscribe(2, (Subscription("gone", 1),)))
        assert await peer.ask(Unsubscribe(3, ("gone", "never"))) == Unsuback(3, (0, 0x11))
    await broker.publish("mqtt", b"x", key=b"t", headers=[("mqtt.retain", b"1")])
    await broker.publish("mqtt", b"x", key=b"gone")

    async with client(broker, hello(5), is_present=True) as peer:
        (message,) = await messages(peer, 1)
        assert (message.qos, message.retain) == (1, True)
        assert message.properties.subscription_identifiers == (268_435_455,)
        assert await peer.ask(Unsubscribe(1, ("t",))) == Unsuback(1, (0,))


async def test_a_client_that_is_back_for_what_it_has_waits_for_no_sync(broker: Broker) -> None:
    subscribe = Subscribe(1, (Subscription("t", 1),))
    async with client(broker) as peer:
        await peer.ask(subscribe)
    topic = broker.sessions._topic._partition
    assert topic is not None
    end = topic.staged_end_offset

    async with client(broker, is_present=True) as peer:
        assert await peer.ask(subscribe) == Suback(1, (1,))
        assert topic.staged_end_offset in (end, end + 1), "at most how far it is, a second later"


@pytest.mark.parametrize("level", [4, 5])
async def test_a_clean_start_forgets_the_session(broker: Broker, level: int) -> None:
    """MQTT 3.1.1, 3.1.2.4: [MQTT-3.1.2-6]; 5.0: [MQTT-3.1.2-4]."""
    async with client(broker, hello(level)) as peer:
        await peer.ask(Subscribe(1, (Subscription("t", 1),)))
    await publish(broker, b"1")
    async with client(broker, hello(level, clean=True), is_present=False) as peer:
        await publish(broker, b"2")
        assert await peer.ask(Pingreq()) == Pingresp()

    async with client(broker, hello(level), is_present=level == 5) as peer:  # 3.1.1: a clean one is not kept either
        assert await peer.ask(Pingreq()) == Pingresp()


async def test_disconnect_may_end_the_session(broker: Broker) -> None:
    """MQTT 5.0, 3.14.2.2.2."""
    async with client(broker, hello(5)) as peer:
        await peer.send(Disconnect(0, Properties(session_expiry_s=0)))
        assert await peer.until_closed() == []

    async with client(broker, hello(5), is_present=False):
        assert broker.sessions.names() == ["mqtt:c"]


async def test_an_expiry_of_0_takes_the_session_up_and_ends_it(broker: Broker) -> None:
    """MQTT 5.0, 3.1.2.11.2."""
    async with client(broker, hello(5)):
        pass
    async with client(broker, hello(5, session_expiry_s=0), is_present=True):
        pass

    assert broker.sessions.names() == []


async def test_a_session_ends_when_its_time_is_over(
    tmp_path: Path, mock_clock: trio.testing.MockClock, dial: Dial
) -> None:
    """MQTT 5.0, 3.1.2.11.2: [MQTT-3.1.2-23]. Before 5.0 the setting decides."""
    door = {"mqtt": {"max_session_expiry_s": 60}}
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory", door=door)
    async with open_broker(tmp_path, config=config) as broker:
        for packet in (hello(5, "short", session_expiry_s=10), hello(5, "long"), hello(4, "old")):
            peer = await dial(broker.addresses["mqtt"], packet)
            await trio.aclose_forcefully(peer.stream)
        await left_alone(broker)
        mock_clock.jump(11)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(broker.sessions.names()) == ["mqtt:long", "mqtt:old"]
        mock_clock.jump(60)
        await trio.testing.wait_all_tasks_blocked()
        assert broker.sessions.names() == []


async def test_a_second_connection_takes_the_session_over(broker: Broker, dial: Dial) -> None:
    """MQTT 5.0, 3.1.4: [MQTT-3.1.4-3]."""
    first = await dial(broker.addresses["mqtt"], hello(5), is_present=False)
    await first.ask(Subscribe(1, (Subscription("t", 1),)))
    await publish(broker, b"1")
    (sent,) = await messages(first, 1)

    second = await dial(broker.addresses["mqtt"], hello(5), is_present=True)

    assert await first.until_closed() == [Disconnect(0x8E)]
    (again,) = await messages(second, 1)
    assert (again.payload, again.packet_id, again.dup) == (b"1", sent.packet_id, True)


async def test_a_session_that_is_deleted_by_hand_ends_its_connection(broker: Broker, dial: Dial) -> None:
    peer = await dial(broker.addresses["mqtt"], hello())

    assert broker.sessions.delete("mqtt:c")

    assert await peer.until_closed() == []


async def test_retained_messages_are_part_of_a_session_once_they_are_sent(broker: Broker) -> None:
    await broker.publish("mqtt", b"x", key=b"t", headers=[("mqtt.retain", b"1")])
    await broker.publish("mqtt", b"y", key=b"other")
    async with client(broker) as peer:
        await peer.send(Subscribe(1, (Subscription("t", 1),)))
        first = next(packet for packet in [await peer.receive(), await peer.receive()] if isinstance(packet, Publish))

    async with client(broker, is_present=True) as peer:
        (again,) = await messages(peer, 1)
        assert again == Publish("t", b"x", 1, True, True, first.packet_id)


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_was_retained_a_moment_ago_is_sent_again(tmp_path: Path, dial: Dial, qos: int) -> None:
    """Its copy among the retained messages is committed later than the message; [MQTT-4.4.0-1]."""
    retained = Publish("t", b"x", 1, retain=True, packet_id=9)
    async with open_broker(tmp_path, listen={"mqtt": "127.0.0.1:0"}) as broker:
        peer = await dial(broker.addresses["mqtt"], hello())
        await peer.send(retained, Subscribe(1, (Subscription("t", qos),)), Subscribe(2, (Subscription("other"),)))
        while not isinstance(packet := await peer.receive(), Publish):
            """PUBACK and SUBACKs."""
        assert packet.retain
        await trio.aclose_forcefully(peer.stream)
        peer = await dial(broker.addresses["mqtt"], hello(), is_present=True)
        (again,) = await messages(peer, 1)
        assert again == Publish("t", b"x", 1, True, True, packet.packet_id)


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_was_retained_is_sent_again_for_the_subscription_that_it_was_sent_for(
    tmp_path: Path, dial: Dial, qos: int
) -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-3], also when the broker ended in between."""
    async with open_broker(tmp_path, listen={"mqtt": "127.0.0.1:0"}) as broker:
        for key in (b"t", b"last"):
            await broker.publish("mqtt", b"x", key=key, headers=[("mqtt.retain", b"1"), ("mqtt.qos", b"2")])
        await broker.publish("mqtt", b"committed after them")
        peer = await dial(broker.addresses["mqtt"], hello(MQTT_5))
        subscribe = Subscribe(1, (Subscription("t", qos),), Properties(subscription_identifiers=(300,)))
        assert isinstance(await peer.ask(subscribe), Suback)
        (first,) = await messages(peer, 1)
        assert isinstance(await peer.ask(Subscribe(2, (Subscription("+", 0, retain_handling=2),))), Suback)
    async with open_broker(tmp_path, listen={"mqtt": "127.0.0.1:0"}) as broker:
        peer = await dial(broker.addresses["mqtt"], hello(MQTT_5), is_present=True)
        (again,) = await messages(peer, 1)
        expected = Publish("t", b"x", qos, True, True, first.packet_id, Properties(subscription_identifiers=(300,)))
        assert again == expected


async def test_what_was_sent_once_does_not_expire(tmp_path: Path, dial: Dial) -> None:
    """MQTT 5.0, 4.3.3: [MQTT-4.3.3-7], [MQTT-4.3.3-13]."""
    now = [1_000_000]
    config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, storage="memory")
    async with open_broker(tmp_path, config=config, now_ms=lambda: now[0]) as broker:
        address = broker.addresses["mqtt"]
        first = await dial(address, hello(5))
        await first.ask(Subscribe(1, (Subscription("t", 2),)))
        headers = [("mqtt.qos", b"2"), ("mqtt.expires", b"1010000")]
        await broker.publish("mqtt", b"x", key=b"t", headers=headers)
        (sent,) = await messages(first, 1)
        now[0] += 60_000

        second = await dial(address, hello(5), is_present=True)
        (again,) = await messages(second, 1)
        assert (again.packet_id, again.properties.message_expiry_s) == (sent.packet_id, 0)
        assert await second.ask(Pubrec(again.packet_id)) == Pubrel(again.packet_id)


async def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    async with open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker:
        async with client(broker) as peer:
            await peer.ask(Subscribe(1, (Subscription("t", 2),)))
            await publish(broker, b"1")
            (sent,) = await messages(peer, 1)
        await publish(broker, b"2")

    async with (
        open_broker(tmp_path, store="segments", listen={"mqtt": "127.0.0.1:0"}) as broker,
        client(broker, is_present=True) as peer,
    ):
        again, new = await messages(peer, 2)
        assert (again.payload, again.packet_id, again.dup) == (b"1", sent.packet_id, True)
        assert (new.payload, new.dup) == (b"2", False)


async def test_a_backlog_streams_under_the_receive_maximum(broker: Broker) -> None:
    async with client(broker, hello(5)) as peer:
        await peer.ask(Subscribe(1, (Subscription("t/#", 1),)))
    async with client(broker, Connect("p")) as publisher:
        count = 12_000  # more than the core keeps references to
        for start in range(0, count, 1000):
            ids = range(start + 1, start + 1001)
            await publisher.send(*[Publish(f"t/{n % 7}", b"%d" % n, 1, packet_id=n) for n in ids])
            for _ in ids:
                await publisher.receive()

    async with client(broker, hello(5, receive_maximum=100), is_present=True) as peer:
        for number in range(1, count + 1):
            (message,) = await messages(peer, 1)
            assert int(message.payload) == number
            await peer.send(Puback(message.packet_id))


async def test_qos_2_to_a_client_is_exactly_once_across_kills_of_the_broker(tmp_path: Path, dial: Dial) -> None:
    """MQTT 3.1.1, 4.3.3. The client is the judge: it takes a message when its identifier is new to it (method B)."""
    taken: list[bytes] = []
    known: set[int] = set()  # identifiers received and not released

    def take(packet: Publish) -> None:
        if packet.packet_id not in known:
            known.add(packet.packet_id)
            taken.append(packet.payload)

    async with BrokerProcess.open(tmp_path) as process:
        address = process.address("mqtt")
        peer = await dial(address, hello(), is_present=False)
        assert await peer.ask(Subscribe(1, (Subscription("t", 2),))) == Suback(1, (2,))
        publisher = await dial(address, Connect("p"))
        for number in range(1, 7):
            assert await publisher.ask(Publish("t", b"%d" % number, 2, packet_id=number)) == Pubrec(number)
        for message in await messages(peer, 6):
            take(message)
        await peer.send(*[Pubrec(packet_id) for packet_id in sorted(known)[:4]])
        released = [await peer.receive() for _ in range(4)]
        for packet in released[:2]:
            assert isinstance(packet, Pubrel)
            known.remove(packet.packet_id)
            await peer.send(Pubcomp(packet.packet_id))
        process.kill()
        await process.wait_ended()
        await process.start()

        peer = await dial(address, hello(), is_present=True)
        process.kill()  # before or after it has sent something: all the same
        await process.wait_ended()
        await process.start()

        peer = await dial(address, hello(), is_present=True)
        publisher = await dial(address, Connect("p"))
        assert await publisher.ask(Publish("t", b"7", 2, packet_id=1)) == Pubrec(1)
        while len(taken) < 7 or known:
            packet = await peer.receive()
            if isinstance(packet, Publish):
                take(packet)
                await peer.send(Pubrec(packet.packet_id))
            else:
                assert isinstance(packet, Pubrel)
                known.discard(packet.packet_id)
                await peer.send(Pubcomp(packet.packet_id))
        process.kill()
        await process.wait_ended()

    assert taken == [b"%d" % number for number in range(1, 8)]
