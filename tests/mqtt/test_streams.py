"""``$stream/...``: any MQTT client replays the history of any log topic, and stays live."""

from __future__ import annotations

import pytest
import trio
from tests.mqtt.conftest import Dial, RawClient, hello, left_alone, messages

from trunkline.broker import Broker
from trunkline_mqtt.packets import (
    MQTT_5,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.streams import InvalidStream, Start, Wanted, parse_stream

pytestmark = pytest.mark.trio

T0 = 1_750_000_000_000  # 2025-06-15T15:06:40Z


@pytest.mark.parametrize(
    ("topic_filter", "start", "expected"),
    [
        ("$stream/orders", None, Wanted("orders", None, Start("earliest"))),
        ("$stream/orders/#", None, Wanted("orders", "#", Start("earliest"))),
        ("$stream/a.b-c_d@latest/x/+", None, Wanted("a.b-c_d", "x/+", Start("latest"))),
        ("$stream/orders@17/a", None, Wanted("orders", "a", Start("offset", 17))),
        ("$stream/orders@17", "18", Wanted("orders", None, Start("offset", 18))),
        ("$stream/orders@1750000000000ms/a", None, Wanted("orders", "a", Start("time", T0))),
        ("$stream/orders@2025-06-15T15:06:40Z/a", None, Wanted("orders", "a", Start("time", T0))),
        ("$stream/orders@2025-06-15T15:06:40/a", None, Wanted("orders", "a", Start("time", T0))),
        ("$stream/orders", "2025-06-15T17:06:40.5+02:00", Wanted("orders", None, Start("time", T0 + 500))),
    ],
)
async def test_what_a_stream_filter_says(topic_filter: str, start: str | None, expected: Wanted) -> None:
    assert parse_stream(topic_filter, start) == expected


@pytest.mark.parametrize(
    ("topic_filter", "start", "problem"),
    [
        ("$stream/", None, "names no log topic"),
        ("$stream/@5/a", None, "names no log topic"),
        ("$stream/t/", None, "it is empty"),
        ("$stream/t/a+", None, "wildcard beside other characters"),
        ("$stream/t/#/a", None, "last level only"),
        ("$stream/t/" + "/" * 128, None, "more than 128 levels"),
        ("$stream/t@/a", None, "cannot begin at ''"),
        ("$stream/t@-1/a", None, "cannot begin at '-1'"),
        ("$stream/t@ms/a", None, "cannot begin at 'ms'"),
        ("$stream/t@9999999999999999999/a", None, "cannot begin at"),
        ("$stream/t@\N{SUPERSCRIPT TWO}/a", None, "cannot begin at"),
        ("$stream/t", "yesterday", "cannot begin at 'yesterday'; use earliest, latest, an offset"),
    ],
)
async def test_what_makes_no_sense_is_said(topic_filter: str, start: str | None, problem: str) -> None:
    with pytest.raises(InvalidStream, match=problem.replace("+", r"\+")):
        parse_stream(topic_filter, start)


async def fill(broker: Broker, count: int = 5, topic: str = "orders", key: bytes = b"a/b") -> None:
    """Records ``0``, ``1``, ..., a minute apart."""
    for number in range(count):
        await broker.publish(topic, b"%d" % number, key=key, timestamp=T0 + 60_000 * number)


async def replay(peer: RawClient, topic_filter: str, start: str | None = None, qos: int = 1) -> None:
    properties = NO_PROPERTIES if start is None else Properties(user=(("stream-offset", start),))
    assert await peer.ask(Subscribe(1, (Subscription(topic_filter, qos),), properties)) == Suback(1, (min(qos, 1),))


async def payloads(peer: RawClient, count: int) -> list[bytes]:
    """Acknowledged."""
    found = []
    for _ in range(count):
        (message,) = await messages(peer, 1)
        found.append(message.payload)
        if message.qos:
            await peer.send(Puback(message.packet_id))
    return found


@pytest.mark.parametrize("packet", [Connect("c", protocol_level=3), Connect("c"), hello(4), hello(5)])
@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("", 0), ("@earliest", 0), ("@3", 3), ("@99", 5), (f"@{T0 + 60_000}ms", 1), ("@2025-06-15T15:08:00Z", 2),
        (f"@{T0 * 2}ms", 5), ("@latest", 5),
    ],
)  # fmt: skip
async def test_history_comes_from_where_the_client_says_then_what_is_new(
    broker: Broker, dial: Dial, packet: Connect, start: str, first: int
) -> None:
    await fill(broker)
    peer = await dial(broker.addresses["mqtt"], packet)
    await replay(peer, f"$stream/orders{start}/a/+")

    await broker.publish("orders", b"5", key=b"a/b")
    await broker.publish("orders", b"", key=b"other")
    await broker.publish("orders", b"6", key=b"a/c")

    assert await payloads(peer, 7 - first) == [b"%d" % number for number in range(first, 7)]
    assert await peer.ask(Pingreq()) == Pingresp()


async def test_a_user_property_says_where_to_begin_and_each_message_where_it_lies(broker: Broker, dial: Dial) -> None:
    await fill(broker)
    peer = await dial(broker.addresses["mqtt"], hello(5))
    await replay(peer, "$stream/orders/#", "3")

    (message, _) = await messages(peer, 2)
    assert (message.topic, message.payload, message.qos) == ("a/b", b"3", 1)
    assert message.properties.user == (
        ("stream-partition", "0"),
        ("stream-offset", "3"),
        ("stream-timestamp", str(T0 + 180_000)),
    )


@pytest.mark.parametrize("level", [4, 5])
async def test_records_that_are_no_mqtt_messages_come_under_the_name_of_their_partition(
    broker: Broker, dial: Dial, level: int
) -> None:
    await broker.publish("orders", b"no key")
    await broker.publish("orders", b"no text", key=b"\xff")
    await broker.publish("orders", b"no name", key=b"a+")
    await broker.publish("orders", None, key=b"a", headers=[("trace", b"1")])
    peer = await dial(broker.addresses["mqtt"], Connect("c", protocol_level=level))
    await replay(peer, "$stream/orders")

    found = await messages(peer, 4)
    assert [(message.topic, message.payload) for message in found] == [
        ("$stream/orders/0", b"no key"),
        ("$stream/orders/0", b"no text"),
        ("$stream/orders/0", b"no name"),
        ("a", b""),
    ]
    if level == MQTT_5:
        assert found[3].properties.user[0] == ("trace", "1")


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_mqtt_clients_published_is_replayed_with_its_qos(broker: Broker, dial: Dial, qos: int) -> None:
    for number, name in enumerate((b"0", b"1", b"2")):
        await broker.publish("mqtt", b"%d" % number, key=b"t", headers=[("mqtt.qos", name)])
    peer = await dial(broker.addresses["mqtt"], Connect("c"))
    await replay(peer, "$stream/mqtt/t", qos=qos)

    assert [message.qos for message in await messages(peer, 3)] == [0, min(qos, 1), min(qos, 1)]


@pytest.mark.parametrize("packet", [Connect("c", protocol_level=5), hello(5)])
async def test_a_replay_keeps_to_the_receive_maximum_beside_other_subscriptions(
    broker: Broker, dial: Dial, packet: Connect
) -> None:
    """MQTT 5.0, 4.9. All partitions are replayed, and nothing is lost or doubled at the seam."""
    await broker.create_topic("wide", partitions=3)
    for number in range(60):
        await broker.publish("wide", b"%d" % number, partition=number % 3, key=b"k")
    expiry = packet.properties.session_expiry_s
    limited = Properties(receive_maximum=4, session_expiry_s=expiry)
    peer = await dial(broker.addresses["mqtt"], Connect("c", packet.clean_start, protocol_level=5, properties=limited))
    await peer.ask(Subscribe(1, (Subscription("live", 1),)))
    await peer.send(Subscribe(2, (Subscription("$stream/wide", 1),)))

    found: list[Publish] = []
    published = 60
    while len(found) < 120:
        packet_received = await peer.receive()
        if not isinstance(packet_received, Publish):
            assert packet_received in (Suback(2, (1,)), Pingresp())
            continue
        found.append(packet_received)
        if len(found) % 4 == 0:
            assert await peer.ask(Pingreq()) == Pingresp()  # no fifth came
            await peer.send(*[Puback(message.packet_id) for message in found[-4:]])
        if published < 90:
            await broker.publish("wide", b"%d" % published, partition=published % 3, key=b"k")
            await broker.publish("mqtt", b"live", key=b"live")
            published += 1
    numbers = [int(message.payload) for message in found if message.payload != b"live"]
    assert sorted(numbers) == [*range(90)]
    for partition in range(3):
        mine = [number for number in numbers if number % 3 == partition]
        assert mine == sorted(mine)
    assert len(found) - len(numbers) == 30


async def test_a_long_history_streams_to_a_slow_client(broker: Broker, dial: Dial) -> None:
    count = 5000
    for _ in range(count):
        broker.topic("mqtt").partitions[0].stage_record(T0, b"t/1", b"x" * 1000)
    peer = await dial(broker.addresses["mqtt"], hello(5, receive_maximum=50))
    await replay(peer, "$stream/mqtt/t/+")

    assert await payloads(peer, count) == [b"x" * 1000] * count


async def test_subscribing_again_begins_again_and_unsubscribing_ends(broker: Broker, dial: Dial) -> None:
    await fill(broker, 2)
    peer = await dial(broker.addresses["mqtt"], hello(5))
    await replay(peer, "$stream/orders")
    assert await payloads(peer, 2) == [b"0", b"1"]

    await replay(peer, "$stream/orders", "1")
    assert await payloads(peer, 1) == [b"1"]

    assert await peer.ask(Unsubscribe(3, ("$stream/orders",))) == Unsuback(3, (0,))
    await broker.publish("orders", b"2")
    assert await peer.ask(Unsubscribe(4, ("$stream/orders",))) == Unsuback(4, (0x11,))


async def test_a_stream_ends_with_its_connection_and_not_with_its_session(broker: Broker, dial: Dial) -> None:
    await fill(broker, 3)
    peer = await dial(broker.addresses["mqtt"], hello(5))
    await replay(peer, "$stream/orders")
    await messages(peer, 3)
    await trio.aclose_forcefully(peer.stream)
    await left_alone(broker)

    peer = await dial(broker.addresses["mqtt"], hello(5), is_present=True)

    await broker.publish("orders", b"3")
    assert await peer.ask(Pingreq()) == Pingresp()
    await replay(peer, "$stream/orders@2")
    assert await payloads(peer, 2) == [b"2", b"3"]


async def test_what_cannot_be_replayed_is_refused_with_the_reason(broker: Broker, dial: Dial) -> None:
    filters = (Subscription("$stream/none/#", 1), Subscription("$stream/mqtt@x", 1), Subscription("a", 1))
    peer = await dial(broker.addresses["mqtt"], hello(5))
    answer = await peer.ask(Subscribe(1, filters))
    assert isinstance(answer, Suback)
    assert answer.reason_codes == (0x8F, 0x8F, 1)
    assert answer.properties.reason is not None
    assert "'none'" in answer.properties.reason
    assert "cannot begin at 'x'" in answer.properties.reason

    older = await dial(broker.addresses["mqtt"], Connect("older"))
    assert await older.ask(Subscribe(1, filters)) == Suback(1, (0x80, 0x80, 1))


async def test_a_topic_that_is_deleted_ends_the_connections_that_replay_it(broker: Broker, dial: Dial) -> None:
    await fill(broker, 1)
    peer = await dial(broker.addresses["mqtt"], hello(5))
    await replay(peer, "$stream/orders")
    await payloads(peer, 1)

    await broker.delete_topic("orders")

    assert await peer.until_closed() == []
