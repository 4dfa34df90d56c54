"""A message like the last one is taken without being decoded: whatever arrives, what follows is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mqtt.conftest import HeldTopic, RememberingTransport

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.reasons import Reason
from trunkline_mqtt.repeated import RepeatedPublish
from trunkline_mqtt.routes import Destination
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings

TOPIC = "sensors/7/temperature"
MAX_PACKET_BYTES = 1000

levels = st.sampled_from([MQTT_3_1_1, MQTT_5])
topics = st.sampled_from([TOPIC, TOPIC, TOPIC, TOPIC, TOPIC + "s", TOPIC[:-1], "other"])


def destination(topic: str, partition: object = None) -> Destination:
    return Destination(topic, topic.encode(), cast("Any", partition), None, True, True)


@st.composite
def publishes(draw: st.DrawFn, level: int, sizes: st.SearchStrategy[int]) -> Publish:
    qos = draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
    properties = NO_PROPERTIES
    if level == MQTT_5 and draw(st.integers(0, 9)) == 9:
        properties = Properties(message_expiry_s=5)
    return Publish(
        draw(topics),
        b"x" * draw(sizes),
        qos,
        retain=draw(st.integers(0, 9)) == 9,
        dup=bool(qos) and draw(st.integers(0, 9)) == 9,
        packet_id=draw(st.sampled_from([1, 255, 256, 65535])) if qos else 0,
        properties=properties,
    )


@st.composite
def almost_packets(draw: st.DrawFn, level: int) -> bytes:
    """A PUBLISH, with something behind it, cut, changed in one byte, or its length written in another way, or not."""
    data = bytearray(
        encode(draw(publishes(level, st.sampled_from([0, 1, 90, 99, 100, 127, 128, 960, 980, 1200]))), level)
    )
    change = draw(st.sampled_from(["none", "none", "more", "cut", "byte", "length"]))
    if change == "more":
        data += draw(st.binary(min_size=1, max_size=3))
    elif change == "cut":
        del data[draw(st.integers(1, len(data) - 1)) :]
    elif change == "byte":
        data[draw(st.integers(0, min(len(data) - 1, 40)))] = draw(st.integers(0, 255))
    elif change == "length" and data[1] < 128:
        data[1:2] = [data[1] | 128, 0]
    return bytes(data)


def decoded(data: bytes, level: int) -> Packet | None:
    """What the decoder makes of it, if that is one packet and nothing else."""
    decoder = Decoder(MAX_PACKET_BYTES)
    decoder.protocol_level = level
    decoder.receive_data(data)
    try:
        packet = decoder.next_event()
    except RemoteProtocolError:
        return None
    return packet if decoder.is_at_rest else None


@given(level=levels, data=st.data())
def test_what_is_found_is_what_the_decoder_reads(level: int, data: st.DataObject) -> None:
    """And nearly all that could be found is: the exception is a length of two bytes that one would do for."""
    arrived = data.draw(almost_packets(level))
    repeated = RepeatedPublish(destination(TOPIC), b"", level, MAX_PACKET_BYTES)
    packet = decoded(arrived, level)

    id_at = repeated.find_id(arrived)

    if id_at:
        packet_id = int.from_bytes(arrived[id_at : id_at + 2])
        assert packet == Publish(TOPIC, arrived[id_at + repeated.to_payload :], 1, packet_id=packet_id)
    elif type(packet) is Publish and not arrived[1:3].endswith(b"\0"):
        assert packet != Publish(TOPIC, packet.payload, 1, packet_id=packet.packet_id)


def packet(first: int = 0x32, *, id: int = 9, length: bytes | None = None, field: bytes | None = None) -> bytes:
    """A PUBLISH to the topic; whatever is given is put in its place as it is."""
    body = (field or len(TOPIC).to_bytes(2) + TOPIC.encode()) + id.to_bytes(2)
    return bytes([first]) + (bytes([len(body)]) if length is None else length) + body


@pytest.mark.parametrize(
    "data",
    [
        packet(0x33),  # RETAIN
        packet(0x3A),  # DUP
        packet(0x34),  # QoS 2
        packet(0x36),  # QoS 3
        packet(0x42),  # no PUBLISH
        packet(id=0),
        packet(length=b"\x99\0"),  # 25 in two bytes
        packet(length=b"\x99\x80\0"),  # and in three
        packet(length=b"\x18"),  # there is more than a packet
        packet(length=b"\x1a"),  # and less
        packet() + packet(),
        packet()[:-1],  # without the identifier's second byte
        b"\x32" + bytes([len(packet()) - 3]) + packet()[2:-1],  # likewise, but the length says so too
        packet(field=b"\0\x15" + TOPIC.encode()[:20] + b"s"),
        packet(field=b"\0\x14" + TOPIC.encode()),  # the last byte of the name is the identifier's first
        packet(field=b"\1\x15" + TOPIC.encode()),
        b"\x32\xe8\x07" + packet()[2:] + bytes(1000 - 25),  # 1,003 bytes
        b"\x32",
        b"\x32\x19\x00",
    ],
)
def test_anything_else_is_left_to_the_decoder(data: bytes) -> None:
    found = [RepeatedPublish(destination(TOPIC), b"", level, MAX_PACKET_BYTES).find_id(data) for level in (4, 5)]
    assert found == [0, 0]


def test_a_message_of_mqtt_5_has_no_properties() -> None:
    repeated = RepeatedPublish(destination(TOPIC), b"", MQTT_5, MAX_PACKET_BYTES)
    body = packet()[2:]
    ends = [(b"", 0), (b"\0", 25), (b"\0payload", 25), (b"\2\1\0payload", 0)]
    for end, expected in ends:
        assert repeated.find_id(b"\x32" + bytes([len(body + end)]) + body + end) == expected


class Client:
    """A connection of its own to a server of its own."""

    def __init__(self, level: int, **settings: Any) -> None:
        self.topic = HeldTopic()
        self.transport = RememberingTransport()
        self.server = MqttServer(
            MqttSettings(**settings), cast("Any", self.topic), (), now_ms=lambda: 7, new_client_id=lambda: "auto"
        )
        self._connection = MqttConnection(self.server, self.transport)
        self.receive(encode(Connect("c", protocol_level=level), level))
        self.transport.written.clear()

    def receive(self, data: bytes) -> None:
        """As the core does: what is raised ends the connection, and nothing is given to one that has ended."""
        if self.transport.is_closing:
            return
        try:
            self._connection.receive_data(data)
        except RemoteProtocolError as error:
            self.transport.written.append(str(error).encode())
            self.transport.close()

    def outcome(self) -> tuple[object, ...]:
        return self.topic.records, b"".join(self.transport.written), self.transport.is_closing, self.server.received


@st.composite
def reads(draw: st.DrawFn, level: int) -> bytes:
    """What may come in one piece: mostly a message alone."""
    packets = st.one_of(
        publishes(level, st.sampled_from([0, 10, 100, 127, 128, 300])),
        publishes(level, st.sampled_from([0, 10, 100, 127, 128, 300])),
        st.just(Pingreq()),
        st.just(Subscribe(1, (Subscription("none"),))),
    )
    found = b"".join(
        encode(packet, level)
        for packet in draw(st.lists(packets, min_size=1, max_size=draw(st.sampled_from([1, 1, 3]))))
    )
    return found[: draw(st.sampled_from([len(found)] * 5 + [1, len(found) - 1, len(found) // 2]))]


@given(level=levels, data=st.data())
def test_messages_that_arrive_whole_do_what_they_do_in_two_pieces(level: int, data: st.DataObject) -> None:
    """A packet that arrives in pieces is never taken undecoded."""
    whole, cut = Client(level, receive_maximum=3), Client(level, receive_maximum=3)
    pieces = data.draw(st.lists(reads(level), max_size=15))
    commits = data.draw(st.lists(st.sampled_from([True, True, True, False]), min_size=15, max_size=15))

    for piece, commit in zip(pieces, commits, strict=False):
        whole.receive(piece)
        cut.receive(piece[:1])
        if piece[1:]:
            cut.receive(piece[1:])
        if commit:
            whole.topic.commit()
            cut.topic.commit()

    assert whole.outcome() == cut.outcome()


@pytest.mark.parametrize("level", [MQTT_3_1_1, MQTT_5])
def test_a_device_s_messages_are_taken_undecoded_from_the_third_on(level: int) -> None:
    client = Client(level)
    names = client.server.topic_names
    for number in range(1, 6):
        names.clear()
        client.receive(encode(Publish(TOPIC, b"x" * number, 1, packet_id=number), level))
        client.topic.commit()
        assert (TOPIC.encode() in names) == (number < 3), "the decoder looks names up there"
    assert [record[2] for record in client.topic.records] == [b"x" * number for number in range(1, 6)]


def test_the_receive_maximum_counts_what_has_qos_2() -> None:
    """MQTT 5.0, 3.3.4: [MQTT-3.3.4-9]."""
    client = Client(MQTT_5, receive_maximum=1)
    for number in range(1, 4):
        client.receive(encode(Publish(TOPIC, b"", 1, packet_id=number), MQTT_5))
        client.topic.commit()
    client.transport.written.clear()

    client.receive(encode(Publish("other", b"", 2, packet_id=7), MQTT_5))
    client.topic.commit()
    client.receive(encode(Publish(TOPIC, b"", 1, packet_id=8), MQTT_5))

    answer = client.transport.take(MQTT_5)[-1]
    assert isinstance(answer, Disconnect)
    assert answer.reason_code == Reason.RECEIVE_MAXIMUM_EXCEEDED


def accustomed(level: int = MQTT_3_1_1) -> Client:
    """A client whose next message to the topic would be taken undecoded."""
    client = Client(level)
    for number in (1, 2):
        client.receive(encode(Publish(TOPIC, b"", 1, packet_id=number), level))
        client.topic.commit()
    client.topic.records.clear()
    client.transport.written.clear()
    return client


def test_what_is_not_answered_yet_is_answered_first() -> None:
    client = accustomed()
    for number in (3, 4, 5):
        client.receive(encode(Publish(TOPIC, b"", 1, packet_id=number)))
    client.topic.commit()
    assert client.transport.take() == [Puback(3), Puback(4), Puback(5)]


def test_a_payload_that_looks_like_a_message_is_none() -> None:
    client = accustomed()
    inner = encode(Publish(TOPIC, b"", 1, packet_id=3))
    outer = encode(Publish("other", inner, 1, packet_id=4))
    client.receive(outer[: -len(inner)])
    client.receive(inner)
    client.topic.commit()
    assert [record[1:3] for record in client.topic.records] == [(b"other", inner)]
    assert client.transport.take() == [Puback(4)]


class Unsettled:
    """Something retained is on its way, until the test says otherwise."""

    def is_settled(self, *, with_copies: bool) -> bool:
        return False

    def wait(self, settled: Callable[[], None], *, with_copies: bool) -> None:
        self.settled = settled

    def staged(self, partition: object) -> None:
        pass


def test_what_comes_behind_a_subscription_that_waits_is_handled_behind_it() -> None:
    client = accustomed()
    client.server.settling = settling = cast("Any", Unsettled())
    client.receive(encode(Subscribe(9, (Subscription("none"),))))
    client.receive(encode(Publish(TOPIC, b"", 1, packet_id=3)))
    assert not client.topic.records

    settling.settled()
    client.topic.commit()
    assert [type(packet) for packet in client.transport.take()] == [Suback, Puback]


def test_a_part_of_a_message_behind_a_subscription_that_waits_is_put_together() -> None:
    """Though the whole one between them is like the one before."""
    client = accustomed()
    client.server.settling = settling = cast("Any", Unsettled())
    inner = encode(Publish(TOPIC, b"", 1, packet_id=3))
    outer = encode(Publish("other", inner, 1, packet_id=4))
    client.receive(encode(Subscribe(9, (Subscription("none"),))))
    client.receive(inner + outer[: -len(inner)])
    settling.settled()
    client.topic.commit()

    client.receive(inner)
    client.topic.commit()

    assert [record[1:3] for record in client.topic.records] == [(TOPIC.encode(), b""), (b"other", inner)]
