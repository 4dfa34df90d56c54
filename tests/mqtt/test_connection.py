"""A client's state in memory, on a real broker: windows, order of acknowledgements, limits, the will."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from tests.mqtt.conftest import HeldTopic, RememberingTransport

from trunkline.broker import Broker
from trunkline.errors import LogStopped, RecordTooLarge, RemoteProtocolError
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from trunkline_mqtt.routes import Destination
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from trunkline.partition import Partition

pytestmark = pytest.mark.trio

Serve = Callable[..., MqttServer]


@pytest.fixture
def serve(broker: Broker) -> Serve:
    """``serve(max_inflight=2)``: what connections share, on the broker's topic, with these settings."""

    def serve(**settings: Any) -> MqttServer:
        topic = broker.topic("mqtt")
        return MqttServer(
            MqttSettings(**settings),
            topic,
            tuple(broker.live(partition) for partition in topic.partitions),
            now_ms=broker.now_ms,
            new_client_id=lambda: "auto-1",
        )

    return serve


def say(connection: MqttConnection, *packets: Packet) -> None:
    connection.receive_data(b"".join(map(encode, packets)))


async def published(broker: Broker, *payloads: bytes, topic: str = "t", **options: Any) -> None:
    for payload in payloads:
        await broker.publish("mqtt", payload, key=topic.encode(), **options)


async def settled(broker: Broker) -> None:
    """Everything staged so far is committed and delivered; two more rounds have run."""
    for _ in range(3):
        await broker.publish("mqtt", b"", key=None)


async def test_connecting_lifts_the_limits_and_sets_the_keep_alive(
    serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(), transport)

    say(connection, Connect("c", keep_alive=10))

    assert transport.take() == [Connack(0, False)]
    assert transport.is_established
    assert transport.idle_timeout_s == 15.0


@pytest.mark.parametrize(
    ("asked", "limit", "expected"),
    [(0, 0, float("inf")), (60, 0, 90.0), (60, 30, 45.0), (0, 30, 45.0), (20, 30, 30.0)],
)
async def test_keep_alive(
    serve: Serve, transport: RememberingTransport, asked: int, limit: int, expected: float
) -> None:
    """MQTT 3.1.1, 3.1.2.10."""
    say(MqttConnection(serve(max_keep_alive_s=limit), transport), Connect("c", keep_alive=asked))

    assert transport.idle_timeout_s == expected


async def test_an_empty_client_id_is_replaced(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 3.1.1, 3.1.3.1."""
    server = serve()
    say(MqttConnection(server, transport), Connect(""))

    assert transport.take() == [Connack()]
    assert list(server.clients) == ["auto-1"]


@pytest.mark.parametrize("packet", [Connect("", clean_start=False), Connect("x" * 1025)])
async def test_a_client_id_that_will_not_do_is_answered_and_refused(
    serve: Serve, transport: RememberingTransport, packet: Connect
) -> None:
    server = serve()
    with pytest.raises(RemoteProtocolError, match="client identifier"):
        say(MqttConnection(server, transport), packet)

    assert transport.take() == [Connack(2)]
    assert not server.clients


async def test_another_protocol_level_is_answered_and_refused(serve: Serve, transport: RememberingTransport) -> None:
    with pytest.raises(RemoteProtocolError, match=r"speaks 3\.1 "):
        say(MqttConnection(serve(), transport), Connect("c", protocol_level=6))

    assert transport.take() == [Connack(1)]


@pytest.mark.parametrize(
    "packet", [Publish("t", b""), Pingreq(), Subscribe(1, (Subscription("a", 0),)), Puback(1), Disconnect()]
)
async def test_nothing_may_come_before_connect(serve: Serve, transport: RememberingTransport, packet: Packet) -> None:
    """MQTT 3.1.1, 3.1: [MQTT-3.1.0-1]."""
    with pytest.raises(RemoteProtocolError, match="came before CONNECT"):
        say(MqttConnection(serve(), transport), packet)

    assert transport.take() == []


@pytest.mark.parametrize("packet", [Connack(), Suback(1, (0,)), Unsuback(1), Pingresp()])
async def test_what_is_not_for_a_client_to_say_is_refused(
    serve: Serve, transport: RememberingTransport, packet: Packet
) -> None:
    with pytest.raises(RemoteProtocolError, match="is not for a client to send here"):
        say(MqttConnection(serve(), transport), Connect("c"), packet)


async def test_a_second_connect_is_refused(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 3.1.1, 3.1: [MQTT-3.1.0-2]."""
    with pytest.raises(RemoteProtocolError, match="CONNECT: came a second time"):
        say(MqttConnection(serve(), transport), Connect("c"), Connect("c"))


async def test_a_large_packet_before_connect_is_refused(serve: Serve, transport: RememberingTransport) -> None:
    with pytest.raises(RemoteProtocolError, match="the limit here is 16384"):
        MqttConnection(serve(), transport).receive_data(b"\x10\xff\xff\x01")


async def test_packets_right_behind_connect_are_under_the_large_limit(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    say(MqttConnection(serve(), transport), Connect("c"), Publish("t", b"x" * 100_000, 1, packet_id=1))
    await settled(broker)

    assert transport.take() == [Connack(), Puback(1)]


async def test_puback_comes_only_after_the_commit(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Publish("t", b"x", 1, packet_id=7))
    assert transport.take() == [Connack()]

    await settled(broker)

    assert transport.take() == [Puback(7)]


async def test_dollar_topics_are_acknowledged_but_not_stored(
    broker: Broker, serve: Serve, transport: RememberingTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """MQTT 3.1.1 has no word for it; the log has."""
    connection = MqttConnection(serve(), transport)
    say(
        connection,
        Connect("c"),
        Publish("t", b"", 1, packet_id=1),
        Publish("$SYS/x", b"", 1, packet_id=2),
        Publish("$SYS/y", b""),
        Publish("t", b"", 1, packet_id=3),
    )
    await settled(broker)

    assert transport.take() == [Connack(), Puback(1), Puback(2), Puback(3)]
    keys = [record.key async for record in broker.read("mqtt", follow=False)]
    assert keys == [b"t", b"t", None, None, None]
    for topic in ("$SYS/x", "$SYS/y"):
        assert f"client 'c': a message to '{topic}' is dropped: that is the server's own" in caplog.text


def led_to(topic: HeldTopic) -> Destination:
    """What is published to "t" goes there."""
    return Destination("t", b"t", cast("Partition", topic), None, True, True)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]])
async def test_pubacks_leave_in_the_order_of_the_publishes(
    serve: Serve, transport: RememberingTransport, order: list[int]
) -> None:
    """MQTT 3.1.1, 4.6: [MQTT-4.6.0-2]. The same identifier twice is two acknowledgements."""
    server, topic = serve(), HeldTopic()
    server.destinations["t"] = led_to(topic)
    connection = MqttConnection(server, transport)
    say(connection, Connect("c"), *[Publish("t", b"", 1, packet_id=packet_id) for packet_id in (5, 5, 4, 9)])
    transport.take()

    for index in order:
        receiver, token = topic.staged[index]
        receiver.append_done(token, index)

    assert transport.take() == [Puback(5), Puback(5), Puback(4), Puback(9)]


async def test_a_failed_append_closes_without_puback(serve: Serve, transport: RememberingTransport) -> None:
    server, topic = serve(), HeldTopic()
    server.destinations["t"] = led_to(topic)
    connection = MqttConnection(server, transport)
    say(connection, Connect("c"), Publish("t", b"", 1, packet_id=1), Publish("t", b"", 1, packet_id=2))
    transport.take()

    receiver, token = topic.staged[0]
    receiver.append_failed(token, LogStopped("the disk is gone"))
    receiver, token = topic.staged[1]
    receiver.append_done(token, 1)

    assert transport.is_closing
    assert transport.take() == []


@pytest.mark.parametrize("error", [RecordTooLarge("too large"), LogStopped("stopped")])
async def test_a_message_that_cannot_be_staged_closes_without_puback(
    serve: Serve, transport: RememberingTransport, error: Exception
) -> None:
    server, topic = serve(), HeldTopic()
    topic.error = error
    server.destinations["t"] = led_to(topic)

    say(MqttConnection(server, transport), Connect("c"), Publish("t", b"", 1, packet_id=1), Pingreq())

    assert transport.is_closing
    assert transport.take() == [Connack()]


async def test_a_second_connection_of_a_client_ends_the_first(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 3.1.1, 3.1.4: [MQTT-3.1.4-2]; the will of the first is published (3.1.2.5)."""
    server = serve()
    first = MqttConnection(server, transport)
    say(first, Connect("c", will=Will("wills", b"gone")), Subscribe(1, (Subscription("#", 1),)))
    transport.take()
    other = type(transport)()
    second = MqttConnection(server, other)

    say(second, Connect("c"), Subscribe(1, (Subscription("#", 1),)))
    first.closed(None)
    await settled(broker)

    assert transport.is_closing
    assert transport.take() == []
    assert server.clients == {"c": second}
    assert other.take() == [Connack(), Suback(1, (1,)), Publish("wills", b"gone")]


@pytest.mark.parametrize("how", ["closed", "timed out", "protocol error"])
async def test_the_will_is_published_once_when_the_end_is_not_clean(
    broker: Broker, serve: Serve, transport: RememberingTransport, how: str
) -> None:
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c", will=Will("wills", b"gone", 1)))

    if how == "timed out":
        connection.timed_out()
    connection.closed(RemoteProtocolError("nonsense") if how == "protocol error" else None)
    await settled(broker)

    records = [record async for record in broker.read("mqtt", follow=False) if record.key]
    assert [(record.key, record.value, record.headers) for record in records] == [
        (b"wills", b"gone", (("mqtt.client", b"c"), ("mqtt.qos", b"1")))
    ]


async def test_disconnect_forgets_the_will(broker: Broker, serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 3.1.1, 3.14.4: [MQTT-3.14.4-3]."""
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c", will=Will("wills", b"gone")), Disconnect(), Pingreq())
    connection.closed(None)
    await settled(broker)

    assert transport.is_closing
    assert transport.take() == [Connack()]
    assert [record async for record in broker.read("mqtt", follow=False) if record.key] == []


async def test_subscribing_grants_the_qos_asked_for(serve: Serve, transport: RememberingTransport) -> None:
    say(
        MqttConnection(serve(), transport),
        Connect("c"),
        Subscribe(9, (Subscription("a", 0), Subscription("b", 1), Subscription("c/#", 2))),
    )

    assert transport.take() == [Connack(), Suback(9, (0, 1, 2))]


async def test_filters_beyond_the_limits_are_refused_one_by_one(
    serve: Serve, transport: RememberingTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names them, as clients often do not look."""
    connection = MqttConnection(serve(max_subscriptions=2), transport)
    say(
        connection,
        Connect("c"),
        Subscribe(
            1,
            (
                Subscription("$share/group/a", 1),
                Subscription("/" * 128, 0),
                Subscription("x" * 1025, 0),
                Subscription("a", 1),
                Subscription("b", 1),
                Subscription("c", 1),
                Subscription("a", 0),
            ),
        ),
        Unsubscribe(2, ("b", "never")),
        Subscribe(3, (Subscription("c", 1),)),
    )

    assert transport.take() == [
        Connack(),
        Suback(1, (0x80, 0x80, 0x80, 1, 1, 0x80, 0)),
        Unsuback(2),
        Suback(3, (1,)),
    ]
    assert "client 'c' has 2 subscriptions, and got none to '$share/group/a' (shared_subscriptions_n" in caplog.text
    assert "(topic_filter_invalid) and 1 others" in caplog.text


async def test_the_delivered_qos_is_the_lower_of_both(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 3.1.1, 3.8.4; a record of another door counts as QoS 1."""
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("zero/#", 0), Subscription("one/#", 1))))
    say(connection, *[Publish(f"{level}/0", b"", 0) for level in ("zero", "one")])
    say(connection, *[Publish(f"{level}/1", b"", 1, packet_id=1) for level in ("zero", "one")])
    await settled(broker)
    await published(broker, b"", topic="one/other")

    packets = [packet for packet in transport.take() if isinstance(packet, Publish)]
    assert [(packet.topic, packet.qos) for packet in packets] == [
        ("zero/0", 0),
        ("one/0", 0),
        ("zero/1", 0),
        ("one/1", 1),
        ("one/other", 1),
    ]


async def test_overlapping_filters_give_one_copy_at_the_highest_qos(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 3.1.1, 3.3.5."""
    say(
        MqttConnection(serve(), transport),
        Connect("c"),
        Subscribe(1, (Subscription("t/#", 0), Subscription("t/+", 1), Subscription("#", 0))),
    )
    transport.take()

    await published(broker, b"x", topic="t/1")

    assert transport.take() == [Publish("t/1", b"x", 1, packet_id=1)]


async def test_unsubscribing_means_the_very_same_filter(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 3.1.1, 3.10.4: [MQTT-3.10.4-1]: not one that matches the same, or nearly looks like it."""
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t/a", 0),)))
    say(connection, Unsubscribe(2, ("t/+", "#", "T/a", "t/a/", "/t/a", "t/a/#", "t/a ")))
    await published(broker, b"1", topic="t/a")

    assert transport.take() == [Connack(), Suback(1, (0,)), Unsuback(2), Publish("t/a", b"1")]


async def test_unsubscribing_ends_the_deliveries(broker: Broker, serve: Serve, transport: RememberingTransport) -> None:
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 0),)))
    await published(broker, b"1")
    say(connection, Unsubscribe(2, ("t",)))
    await published(broker, b"2")

    assert transport.take() == [Connack(), Suback(1, (0,)), Publish("t", b"1"), Unsuback(2)]


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"a/+", b"#", b"a\0b", b"x" * 65_536])
async def test_a_record_whose_key_is_no_topic_name_is_not_delivered(
    broker: Broker, serve: Serve, transport: RememberingTransport, key: bytes | None
) -> None:
    say(MqttConnection(serve(), transport), Connect("c"), Subscribe(1, (Subscription("#", 1),)))
    transport.take()

    await broker.publish("mqtt", b"x", key=key)
    await published(broker, b"after")

    assert transport.take() == [Publish("t", b"after", 1, packet_id=1)]


async def test_a_record_without_a_value_is_an_empty_message(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    say(MqttConnection(serve(), transport), Connect("c"), Subscribe(1, (Subscription("#", 0),)))
    transport.take()

    await broker.publish("mqtt", None, key=b"t")

    assert transport.take() == [Publish("t", b"")]


async def until(transport: RememberingTransport, broker: Broker, count: int) -> list[Publish]:
    """The next ``count`` messages; rounds are made by records that nobody is sent."""
    found: list[Publish] = []
    with trio.fail_after(20):
        while len(found) < count:
            await settled(broker)
            found += [packet for packet in transport.take() if isinstance(packet, Publish)]
    return found


async def test_a_full_window_waits_for_pubacks_and_loses_nothing(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(max_inflight=4), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 1),)))
    await published(broker, *[b"%d" % number for number in range(10)])

    first = await until(transport, broker, 4)
    assert await until(transport, broker, 0) == []
    assert broker.live(broker.partition("mqtt", 0)).statistics().behind == 1
    received = list(first)
    while len(received) < 10:
        say(connection, *[Puback(packet.packet_id) for packet in first])
        first = await until(transport, broker, min(4, 10 - len(received)))
        received += first

    assert [packet.payload for packet in received] == [b"%d" % number for number in range(10)]


async def test_a_client_that_has_caught_up_is_served_live_again(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(max_inflight=2), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 1),)))
    await published(broker, b"1", b"2", b"3")
    for packet in await until(transport, broker, 2):
        say(connection, Puback(packet.packet_id))
    (third,) = await until(transport, broker, 1)
    say(connection, Puback(third.packet_id))
    await settled(broker)

    assert broker.live(broker.partition("mqtt", 0)).statistics().behind == 0
    await published(broker, b"4")
    assert [packet.payload for packet in await until(transport, broker, 1)] == [b"4"]


async def test_qos_0_waits_while_the_transport_is_congested(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 0),)))
    transport.is_congested = True
    await published(broker, b"1", b"2", b"3")
    assert [packet.payload for packet in await until(transport, broker, 1)] == [b"1"]

    transport.is_congested = False
    connection.writable()

    assert [packet.payload for packet in await until(transport, broker, 2)] == [b"2", b"3"]


async def test_packet_ids_wrap_around_those_in_flight(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = MqttConnection(serve(), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 1),)))
    await published(broker, b"")
    session = connection._session
    assert session is not None
    session._sender._last_packet_id = 65_534
    transport.take()

    await published(broker, b"", b"", b"")

    packets = [packet for packet in transport.take() if isinstance(packet, Publish)]
    assert [packet.packet_id for packet in packets] == [65_535, 2, 3]


async def test_a_client_that_subscribes_anew_rather_than_acknowledge_is_closed(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """Subscribing anew makes a client live again at once; what it is given then is kept for it, but not for ever."""
    connection = MqttConnection(serve(max_inflight=1), transport)
    say(connection, Connect("c"), Subscribe(1, (Subscription("t", 1),)))
    await published(broker, b"1", b"2")
    for _ in range(17):
        assert not transport.is_closing
        say(connection, Unsubscribe(2, ("t",)), Subscribe(3, (Subscription("t", 1),)))
        await published(broker, b"another")
    assert [packet.payload for packet in transport.take() if isinstance(packet, Publish)] == [b"1"]

    say(connection, Unsubscribe(2, ("t",)), Subscribe(3, (Subscription("t", 1),)))
    await published(broker, b"one too many", b"one too many")

    assert transport.is_closing


async def test_an_unknown_puback_changes_nothing(serve: Serve, transport: RememberingTransport) -> None:
    say(MqttConnection(serve(), transport), Connect("c"), Puback(77), Pingreq())

    assert transport.take() == [Connack(), Pingresp()]
