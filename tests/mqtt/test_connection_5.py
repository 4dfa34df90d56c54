"""What a client of MQTT 5.0 may say beyond 3.1.1, and what it is told; in memory, on a real broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trunkline.broker import Broker
from trunkline.errors import BrokerClosing, RemoteProtocolError, StoreFull
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
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
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings

if TYPE_CHECKING:
    from tests.mqtt.conftest import RememberingTransport

pytestmark = pytest.mark.trio

Serve = Callable[..., MqttServer]
USER = (("a", "1"), ("a", "2"), ("mqtt.qos", "mine"))


class Clock:
    """Wall clock and monotonic clock, set by the test."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.now_s = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serve(broker: Broker, clock: Clock) -> Serve:
    def serve(**settings: Any) -> MqttServer:
        topic = broker.topic("mqtt")
        return MqttServer(
            MqttSettings(**settings),
            topic,
            tuple(broker.live(partition) for partition in topic.partitions),
            now_ms=lambda: clock.now_ms,
            new_client_id=lambda: "auto-1",
            clock=lambda: clock.now_s,
        )

    return serve


def hello(client_id: str = "c", **options: Any) -> Connect:
    properties = options.pop("properties", NO_PROPERTIES)
    return Connect(client_id, protocol_level=MQTT_5, properties=properties, **options)


def say(connection: MqttConnection, *packets: Packet) -> None:
    connection.receive_data(b"".join(encode(packet, MQTT_5) for packet in packets))


def open_client(server: MqttServer, transport: RememberingTransport, packet: Connect | None = None) -> MqttConnection:
    """A connected client whose CONNACK was taken."""
    connection = MqttConnection(server, transport)
    say(connection, packet or hello())
    (connack,) = transport.take(MQTT_5)
    assert isinstance(connack, Connack)
    assert connack.reason_code == 0
    return connection


async def settled(broker: Broker) -> None:
    for _ in range(3):
        await broker.publish("mqtt", b"", key=None)


def messages(transport: RememberingTransport) -> list[Publish]:
    return [packet for packet in transport.take() if isinstance(packet, Publish)]


# -- greeting --------------------------------------------------------------------------------------


async def test_connack_says_what_the_server_can(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.2.2.3."""
    say(MqttConnection(serve(max_keep_alive_s=30), transport), hello("", keep_alive=60))

    (connack,) = transport.take(MQTT_5)
    assert isinstance(connack, Connack)
    assert connack.properties == Properties(
        receive_maximum=1000,
        maximum_packet_size=16_777_216,
        topic_alias_maximum=32,
        server_keep_alive_s=30,
        assigned_client_id="auto-1",
    )
    assert transport.idle_timeout_s == 45.0


@pytest.mark.parametrize(
    ("asked", "limit", "granted"),
    [(5, 10, None), (11, 10, 10), (0xFFFFFFFF, 10, 10), (0xFFFFFFFF, 0, None), (0, 10, None)],
)
async def test_a_session_is_kept_no_longer_than_allowed_and_the_client_knows(
    serve: Serve, transport: RememberingTransport, asked: int, limit: int, granted: int | None
) -> None:
    """MQTT 5.0, 3.2.2.3.2: only a value that differs is told."""
    server = serve(max_session_expiry_s=limit)
    say(MqttConnection(server, transport), hello(properties=Properties(session_expiry_s=asked)))

    (connack,) = transport.take(MQTT_5)
    assert isinstance(connack, Connack)
    assert connack.properties.session_expiry_s == granted


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (hello("x" * 1025), 0x85),
        (hello(properties=Properties(authentication_method="SCRAM-SHA-256")), 0x8C),
        (hello(will=Will("w", b"\xff", properties=Properties(payload_format=1))), 0x99),
    ],
)
async def test_a_connect_that_will_not_do_is_answered_with_the_reason(
    serve: Serve, transport: RememberingTransport, packet: Connect, code: int
) -> None:
    server = serve()
    with pytest.raises(RemoteProtocolError):
        say(MqttConnection(server, transport), packet)

    (connack,) = transport.take(MQTT_5)
    assert isinstance(connack, Connack)
    assert connack.reason_code == code
    assert connack.properties.reason
    assert not server.clients


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Connect("c", protocol_level=MQTT_5), 0x82),
        (Auth(0x19), 0x82),
        (Connack(), 0x82),
        (Disconnect(0, Properties(session_expiry_s=5)), 0x82),
        (Publish("a", b"", properties=Properties(subscription_identifiers=(1,))), 0x82),
        (Publish("", b"", properties=Properties(topic_alias=1)), 0x82),
        (Publish("a", b"", properties=Properties(topic_alias=33)), 0x94),
        (Publish("a", b"\xff", properties=Properties(payload_format=1)), 0x99),
    ],
)
async def test_what_breaks_a_rule_ends_the_connection_with_the_reason(
    serve: Serve, transport: RememberingTransport, packet: Packet, code: int
) -> None:
    connection = open_client(serve(), transport)
    with pytest.raises(RemoteProtocolError):
        say(connection, packet)

    (last,) = transport.take()
    assert isinstance(last, Disconnect)
    assert last.reason_code == code


async def test_a_reason_that_does_not_fit_the_client_s_limit_is_left_out(
    serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.14.2.2.3."""
    connection = open_client(serve(), transport, hello(properties=Properties(maximum_packet_size=20)))
    with pytest.raises(RemoteProtocolError):
        say(connection, Auth())

    assert transport.take() == [Disconnect(0x82)]


async def test_nothing_over_the_client_s_limit_is_sent(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.1.2.11.4: [MQTT-3.1.2-24]; and 3.2.2.3.9: [MQTT-3.2.2-19]. There is no shorter answer to send."""
    small = hello(properties=Properties(maximum_packet_size=10))
    with pytest.raises(RemoteProtocolError, match="needs an answer of 16 bytes, but the client takes 10"):
        say(MqttConnection(serve(), transport), small)
    assert transport.take(MQTT_5) == [Connack(0x95)]

    other = type(transport)()
    connection = open_client(serve(), other, hello(properties=Properties(maximum_packet_size=20)))
    filters = tuple(Subscription(str(number)) for number in range(16))
    with pytest.raises(RemoteProtocolError, match="SUBSCRIBE: needs an answer of 21 bytes"):
        say(connection, Subscribe(1, filters))
    assert other.take() == [Disconnect(0x95)]


async def test_who_is_taken_over_is_told(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.1.4: [MQTT-3.1.4-3]."""
    server = serve()
    open_client(server, transport)
    open_client(server, type(transport)())

    assert transport.take() == [Disconnect(0x8E)]
    assert transport.is_closing


async def test_who_was_silent_too_long_is_told(serve: Serve, transport: RememberingTransport) -> None:
    open_client(serve(), transport).timed_out()

    assert transport.take() == [Disconnect(0x8D)]


@pytest.mark.parametrize(("error", "code"), [(BrokerClosing("bye"), 0x8B), (StoreFull("full"), 0x97)])
async def test_a_message_that_is_not_taken_ends_the_connection_with_the_reason(
    serve: Serve, transport: RememberingTransport, error: Any, code: int
) -> None:
    connection = open_client(serve(), transport)
    connection.append_failed(b"", error)

    assert transport.take() == [Disconnect(code, Properties(reason=str(error)))]


async def test_when_the_broker_closes_clients_are_told_after_their_acknowledgements(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.14.4: [MQTT-3.14.4-1]."""
    connection = open_client(serve(), transport)
    say(connection, Publish("t", b"", 1, packet_id=1))
    connection.shutting_down()
    assert transport.take() == []

    await settled(broker)

    assert transport.take() == [Puback(1), Disconnect(0x8B)]
    assert transport.is_closing


# -- publishing ------------------------------------------------------------------------------------


async def test_everything_a_message_says_is_in_its_record(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    properties = Properties(
        payload_format=1, message_expiry_s=10, content_type="text", response_topic="r", correlation=b"\0", user=USER
    )
    say(open_client(serve(), transport), Publish("t", b"x", 1, packet_id=1, properties=properties))
    await settled(broker)

    (record,) = [record async for record in broker.read("mqtt", follow=False) if record.key]
    assert (record.key, record.value) == (b"t", b"x")
    assert record.headers == (
        ("mqtt.client", b"c"),
        ("mqtt.qos", b"1"),
        ("mqtt.expires", b"1010000"),
        ("mqtt.format", b"1"),
        ("mqtt.content-type", b"text"),
        ("mqtt.response-topic", b"r"),
        ("mqtt.correlation", b"\0"),
        ("a", b"1"),
        ("a", b"2"),
        ("mqtt..qos", b"mine"),
    )


async def test_everything_a_message_says_reaches_a_subscriber(
    broker: Broker, serve: Serve, transport: RememberingTransport, clock: Clock
) -> None:
    """MQTT 5.0, 3.3.2.3: unaltered and in order; the expiry less the time it waited."""
    properties = Properties(
        payload_format=0, message_expiry_s=10, content_type="text", response_topic="r", correlation=b"\0", user=USER
    )
    connection = open_client(serve(), transport)
    say(connection, Subscribe(1, (Subscription("t", 2),)), Publish("t", b"x", 2, packet_id=7, properties=properties))
    clock.now_ms += 3500
    await settled(broker)

    (message,) = messages(transport)
    assert message.properties == Properties(
        payload_format=0, message_expiry_s=7, content_type="text", response_topic="r", correlation=b"\0", user=USER
    )
    assert (message.payload, message.qos) == (b"x", 2)


@pytest.mark.parametrize("level", [3, 4, 5])
async def test_an_expired_message_is_not_delivered(
    broker: Broker, serve: Serve, transport: RememberingTransport, clock: Clock, level: int
) -> None:
    """MQTT 5.0, 3.3.2.3.3: [MQTT-3.3.2-5]."""
    server = serve()
    subscriber = MqttConnection(server, transport)
    subscriber.receive_data(encode(Connect("s", protocol_level=level)))
    subscriber.receive_data(encode(Subscribe(1, (Subscription("t", 1),)), level))
    transport.take(level)
    publisher = open_client(server, type(transport)())
    old = Publish("t", b"old", 1, packet_id=1, properties=Properties(message_expiry_s=1))
    say(publisher, old, Publish("t", b"new"))
    clock.now_ms += 1000
    await settled(broker)

    assert [message.payload for message in messages(transport)] == [b"new"]
    assert server.expired == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("x", b"1"), ("y", None), ("z", b"\xff")), Properties(user=(("x", "1"),))),
        ((("mqtt.expires", b"soon"), ("mqtt.format", b"7"), ("mqtt.response-topic", b"#")), NO_PROPERTIES),
        ((("mqtt..a", b"1"), ("mqtt.later", b"1")), Properties(user=(("mqtt.a", "1"),))),
        ((("mqtt.content-type", b"\xff"), ("mqtt.correlation", b"x" * 65_536)), NO_PROPERTIES),
    ],
)
async def test_headers_of_other_doors_are_user_properties_if_they_are_text(
    broker: Broker, serve: Serve, transport: RememberingTransport, headers: Any, expected: Properties
) -> None:
    connection = open_client(serve(), transport)
    say(connection, Subscribe(1, (Subscription("t", 1),)))
    await broker.publish("mqtt", b"x", key=b"t", headers=headers)

    (message,) = messages(transport)
    assert (message.qos, message.properties) == (1, expected)


async def test_a_topic_alias_stands_for_the_topic_it_was_given_with(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.3.2.3.4."""
    connection = open_client(serve(), transport)
    alias = Properties(topic_alias=32)
    for topic, payload in (("a", b"1"), ("", b"2"), ("b", b"3"), ("", b"4")):
        say(connection, Publish(topic, payload, properties=alias))
    await settled(broker)

    records = [record async for record in broker.read("mqtt", follow=False) if record.key]
    stored = [(record.key, record.value) for record in records]
    assert stored == [(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"b", b"4")]
    assert {record.headers for record in records} == {(("mqtt.client", b"c"), ("mqtt.qos", b"0"))}


async def test_an_alias_ends_with_its_connection(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.3.2.3.4: [MQTT-3.3.2-7]."""
    server, alias = serve(), Properties(topic_alias=1)
    say(open_client(server, transport), Publish("a", b"", properties=alias))

    with pytest.raises(RemoteProtocolError, match="1 stands for no topic"):
        say(open_client(server, type(transport)()), Publish("", b"", properties=alias))


async def test_a_payload_that_is_not_what_it_says_is_refused(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.3.2.3.2."""
    connection = open_client(serve(), transport)
    text = Properties(payload_format=1)
    say(
        connection,
        Publish("t", b"", 1, packet_id=1),
        Publish("t", b"\xff", 1, packet_id=2, properties=text),
        Publish("t", b"\xff", 2, packet_id=3, properties=text),
        Pubrel(3),
    )
    await settled(broker)

    assert transport.take() == [Pubcomp(3, 0x92), Puback(1), Puback(2, 0x99), Pubrec(3, 0x99)]
    assert len([record async for record in broker.read("mqtt", follow=False) if record.key]) == 1


async def test_topics_of_the_server_s_own_are_refused(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = open_client(serve(), transport)
    say(
        connection,
        Publish("$SYS/x", b"", 1, packet_id=1),
        Publish("$share/x", b"", 2, packet_id=2),
        Publish("$stream", b""),
    )

    assert transport.take() == [Puback(1, 0x90), Pubrec(2, 0x90)]
    await settled(broker)
    assert [record.key async for record in broker.read("mqtt", follow=False) if record.key] == []


async def test_a_message_with_qos_2_is_stored_once_however_often_it_is_sent(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 4.3.3: [MQTT-4.3.3-10] and on."""
    connection = open_client(serve(), transport)
    first = Publish("t", b"1", 2, packet_id=7)
    again = Publish("t", b"1", 2, dup=True, packet_id=7)
    say(connection, first, again)
    await settled(broker)
    assert transport.take() == [Pubrec(7)]
    say(connection, again)
    assert transport.take() == [Pubrec(7)]
    say(connection, Pubrel(7), Pubrel(7))
    assert transport.take() == [Pubcomp(7), Pubcomp(7, 0x92)]

    say(connection, Publish("t", b"2", 2, packet_id=7))  # the identifier is free again
    await settled(broker)

    assert transport.take() == [Pubrec(7)]
    records = [record async for record in broker.read("mqtt", follow=False) if record.key]
    assert [record.value for record in records] == [b"1", b"2"]


async def test_pubrec_comes_only_after_the_commit(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = open_client(serve(), transport)
    say(connection, Publish("t", b"", 2, packet_id=1))
    assert transport.take() == []

    await settled(broker)

    assert transport.take() == [Pubrec(1)]


@pytest.mark.parametrize("qos", [1, 2])
async def test_more_than_the_receive_maximum_ends_the_connection(
    broker: Broker, serve: Serve, transport: RememberingTransport, qos: int
) -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-9], and 4.9."""
    connection = open_client(serve(receive_maximum=3), transport)
    for round_number in range(2):
        ids = [1, 2, 3] if round_number == 0 else [4, 5, 6]
        say(connection, *[Publish("t", b"", qos, packet_id=packet_id) for packet_id in ids])
        await settled(broker)
        if qos == 2:
            say(connection, *[Pubrel(packet_id) for packet_id in ids])
    transport.take()

    with pytest.raises(RemoteProtocolError, match="is one of more than 3 that are not acknowledged"):
        say(connection, *[Publish("t", b"", qos, packet_id=packet_id) for packet_id in (1, 2, 3, 4)])

    (last,) = transport.take()
    assert isinstance(last, Disconnect)
    assert last.reason_code == 0x93


async def test_messages_of_qos_2_count_until_pubcomp(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = open_client(serve(receive_maximum=2), transport)
    say(connection, Publish("t", b"", 2, packet_id=1), Publish("t", b"", 2, packet_id=2))
    await settled(broker)
    say(connection, Publish("t", b"", 2, dup=True, packet_id=2))  # not another one

    with pytest.raises(RemoteProtocolError, match="is one of more than 2"):
        say(connection, Publish("t", b"", 1, packet_id=3))


# -- subscribing -----------------------------------------------------------------------------------


async def test_suback_and_unsuback_say_why(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.9.3 and 3.11.3."""
    connection = open_client(serve(max_subscriptions=3, refused_filters=["#", "x/y"]), transport)
    filters = ("a", "$share/g/a", "x" * 1025, "/" * 128, "#", "b", "c", "d")
    say(
        connection,
        Subscribe(1, tuple(Subscription(topic_filter, 2) for topic_filter in filters)),
        Unsubscribe(2, ("a", "d")),
    )

    assert transport.take() == [Suback(1, (2, 0x9E, 0x8F, 0x8F, 0x80, 2, 2, 0x97)), Unsuback(2, (0, 0x11))]


async def test_a_message_comes_once_with_all_subscription_identifiers(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4]."""
    connection = open_client(serve(), transport)
    for number, (topic_filter, qos) in enumerate((("a/#", 0), ("a/b", 2), ("#", 1), ("other", 2)), 1):
        identifier = Properties(subscription_identifiers=(number * 1000,)) if number != 3 else NO_PROPERTIES
        say(connection, Subscribe(number, (Subscription(topic_filter, qos),), identifier))
    say(connection, Publish("a/b", b"x", 2, packet_id=9))
    await settled(broker)

    (message,) = messages(transport)
    assert message.qos == 2
    assert message.properties.subscription_identifiers == (1000, 2000)


async def test_subscribing_again_replaces_the_identifier(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.8.4: [MQTT-3.8.4-3]."""
    connection = open_client(serve(), transport)
    for number in (1, 2):
        say(
            connection,
            Subscribe(number, (Subscription("a", number),), Properties(subscription_identifiers=(number,))),
        )
    await broker.publish("mqtt", b"x", key=b"a")

    (message,) = messages(transport)
    assert message.properties.subscription_identifiers == (2,)


async def test_no_local_keeps_a_client_s_own_messages_from_it(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.8.3.1: [MQTT-3.8.3-3]; another subscription of it may want them all the same."""
    server = serve()
    connection = open_client(server, transport)
    say(connection, Subscribe(1, (Subscription("a/#", 1, no_local=True), Subscription("a/both", 0))))
    say(connection, Publish("a/mine", b""), Publish("a/both", b""))
    other = open_client(server, type(transport)(), hello("other"))
    say(other, Publish("a/theirs", b""))
    await settled(broker)

    assert [message.topic for message in messages(transport)] == ["a/both", "a/theirs"]


async def test_a_client_is_never_sent_more_than_its_receive_maximum(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-9]. QoS 2 counts until PUBCOMP, or a PUBREC with a failure."""
    connection = open_client(serve(), transport, hello(properties=Properties(receive_maximum=2)))
    say(connection, Subscribe(1, (Subscription("t", 2),)))
    transport.take()
    say(connection, *[Publish("t", b"%d" % number, 2, packet_id=number) for number in range(1, 6)])
    await settled(broker)

    first, second = messages(transport)
    say(connection, Pubrec(first.packet_id), Pubrec(second.packet_id))
    assert transport.take() == [Pubrel(first.packet_id), Pubrel(second.packet_id)]
    await settled(broker)
    assert messages(transport) == []
    say(connection, Pubcomp(first.packet_id))
    await settled(broker)
    (third,) = messages(transport)
    say(connection, Pubrec(third.packet_id, 0x80), Pubcomp(second.packet_id))
    await settled(broker)

    assert [message.payload for message in messages(transport)] == [b"4", b"5"]


async def test_what_is_unfinished_is_completed_after_unsubscribe(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.10.4: [MQTT-3.10.4-3]."""
    connection = open_client(serve(), transport)
    say(connection, Subscribe(1, (Subscription("t", 2),)), Publish("t", b"", 2, packet_id=1))
    await settled(broker)
    (message,) = messages(transport)

    say(connection, Unsubscribe(2, ("t",)), Pubrec(message.packet_id))

    assert transport.take() == [Unsuback(2, (0,)), Pubrel(message.packet_id)]


async def test_pubrec_of_an_unknown_message_is_answered_so(serve: Serve, transport: RememberingTransport) -> None:
    """MQTT 5.0, 3.6.2.1."""
    connection = open_client(serve(), transport)
    say(connection, Pubrec(9), Pubcomp(9), Puback(9))

    assert transport.take() == [Pubrel(9, 0x92)]


@pytest.mark.parametrize(("qos", "answer"), [(1, Pubrec), (1, Pubcomp), (2, Puback), (2, Pubcomp)])
async def test_the_wrong_answer_to_a_message_ends_the_connection(
    broker: Broker, serve: Serve, transport: RememberingTransport, qos: int, answer: Any
) -> None:
    connection = open_client(serve(), transport)
    say(connection, Subscribe(1, (Subscription("t", 2),)), Publish("t", b"", qos, packet_id=1))
    await settled(broker)
    (message,) = messages(transport)

    with pytest.raises(RemoteProtocolError, match="is not to be answered so now"):
        say(connection, answer(message.packet_id))


async def test_a_message_over_the_client_s_limit_is_left_out(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.1.2.11.4: [MQTT-3.1.2-24] and [MQTT-3.1.2-25]."""
    server = serve()
    connection = open_client(server, transport, hello(properties=Properties(maximum_packet_size=50)))
    say(connection, Subscribe(1, (Subscription("t", 1),)))
    for payload in (b"x" * 43, b"y" * 42, b"z"):  # a PUBLISH with QoS 1 has 8 bytes besides
        await broker.publish("mqtt", payload, key=b"t")

    assert [message.payload for message in messages(transport)] == [b"y" * 42, b"z"]
    assert server.oversized == 1


async def test_a_topic_is_sent_once_where_the_client_takes_aliases(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.3.2.3.4: [MQTT-3.3.2-9]."""
    connection = open_client(serve(), transport, hello(properties=Properties(topic_alias_maximum=1)))
    say(connection, Subscribe(1, (Subscription("#", 0),)))
    for topic in (b"topic/a", b"topic/b", b"topic/a", b"a"):
        await broker.publish("mqtt", b"x", key=topic)

    assert [(message.topic, message.properties.topic_alias) for message in messages(transport)] == [
        ("topic/a", 1),
        ("topic/b", None),
        ("", 1),
        ("a", None),
    ]


async def test_a_large_message_is_whole_in_every_form(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    connection = open_client(serve(), transport, hello(properties=Properties(topic_alias_maximum=9)))
    say(connection, Subscribe(1, (Subscription("#", 1),), Properties(subscription_identifiers=(5,))))
    transport.take()
    payload, long = b"x" * 20_000, "v" * 300
    for qos in (0, 1):
        say(connection, Publish("topic", payload, qos, packet_id=qos, properties=Properties(user=(("k", long),))))
    await settled(broker)

    got = messages(transport)
    assert [message.payload == payload for message in got] == [True, True]
    assert [message.properties.user for message in got] == [(("k", long),)] * 2


# -- wills -----------------------------------------------------------------------------------------


async def wills(broker: Broker) -> list[bytes | None]:
    await settled(broker)
    return [record.value async for record in broker.read("mqtt", follow=False) if record.key == b"wills"]


@pytest.mark.parametrize(("code", "published"), [(0x00, []), (0x04, [b"gone"]), (0x80, [b"gone"])])
async def test_the_reason_of_disconnect_decides_about_the_will(
    broker: Broker, serve: Serve, transport: RememberingTransport, code: int, published: list[bytes]
) -> None:
    """MQTT 5.0, 3.1.2.5 and 3.14.4: [MQTT-3.14.4-3]."""
    connection = open_client(serve(), transport, hello(will=Will("wills", b"gone")))
    say(connection, Disconnect(code))
    connection.closed(None)

    assert await wills(broker) == published


async def test_a_will_s_delay_ends_with_the_session(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    """MQTT 5.0, 3.1.3.2.2: the session ends with the connection here."""
    will = Will("wills", b"gone", properties=Properties(will_delay_s=100, content_type="text", message_expiry_s=5))
    open_client(serve(), transport, hello(will=will)).closed(None)

    assert await wills(broker) == [b"gone"]
    (record,) = [record async for record in broker.read("mqtt", follow=False) if record.key == b"wills"]
    assert record.headers[2:] == (("mqtt.expires", b"1005000"), ("mqtt.content-type", b"text"))


async def test_a_client_that_leaves_releases_what_it_held(
    broker: Broker, serve: Serve, transport: RememberingTransport
) -> None:
    server = serve()
    connection = open_client(server, transport)
    say(connection, Subscribe(1, (Subscription("#", 1),)), Pingreq(), Disconnect())
    connection.closed(None)
    with trio.fail_after(5):
        await broker.publish("mqtt", b"", key=b"t")

    assert transport.is_closing
    assert not server.clients
    assert server.tails[0].statistics().subscribers == 0
