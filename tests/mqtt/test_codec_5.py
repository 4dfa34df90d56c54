"""Every packet and property of MQTT 5.0 both ways, and MQTT 3.1's greeting; paho-mqtt judges the properties."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from paho.mqtt import properties as paho
from paho.mqtt.packettypes import PacketTypes

from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode, encode_properties
from trunkline_mqtt.packets import (
    MQTT_3_1,
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
from trunkline_mqtt.properties import PROPERTIES, Kind, Properties
from trunkline_mqtt.reasons import ALLOWED

Judge: Any = paho.Properties  # it has no types

USER = (("k", "v"), ("k", "w"), ("", ""))
USER_BYTES = b"\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x26\x00\x00\x00\x00"

# The SUBSCRIBE is figure 3-21 of the standard.
PACKETS: list[tuple[Packet, bytes]] = [
    (Connect("c", protocol_level=MQTT_5), b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c"),
    (
        Connect(
            "",
            False,
            10,
            Will("w", b"x", 1, True, Properties(will_delay_s=5, user=USER)),
            None,
            b"p",
            MQTT_5,
            Properties(session_expiry_s=10, receive_maximum=3),
        ),
        b"\x10\x37\x00\x04MQTT\x05\x6c\x00\x0a\x08\x11\x00\x00\x00\x0a\x21\x00\x03\x00\x00"
        b"\x18\x18\x00\x00\x00\x05" + USER_BYTES + b"\x00\x01w\x00\x01x\x00\x01p",
    ),
    (Connack(0, True), b"\x20\x03\x01\x00\x00"),
    (Connack(0x87, False, Properties(reason="no")), b"\x20\x08\x00\x87\x05\x1f\x00\x02no"),
    (Publish("a", b"x"), b"\x30\x05\x00\x01a\x00x"),
    (Publish("a", b"x", 2, True, True, 258), b"\x3d\x07\x00\x01a\x01\x02\x00x"),
    (Publish("", b"x", properties=Properties(topic_alias=7)), b"\x30\x07\x00\x00\x03\x23\x00\x07x"),
    (
        Publish("a", b"", 1, packet_id=1, properties=Properties(subscription_identifiers=(1, 268_435_455))),
        b"\x32\x0d\x00\x01a\x00\x01\x07\x0b\x01\x0b\xff\xff\xff\x7f",
    ),
    (Puback(258), b"\x40\x02\x01\x02"),
    (Puback(258, 0x10), b"\x40\x03\x01\x02\x10"),
    (Puback(258, 0, Properties(reason="")), b"\x40\x07\x01\x02\x00\x03\x1f\x00\x00"),
    (Pubrec(258, 0x97), b"\x50\x03\x01\x02\x97"),
    (Pubrel(258, 0x92), b"\x62\x03\x01\x02\x92"),
    (Pubcomp(258, 0x92), b"\x70\x03\x01\x02\x92"),
    (
        Subscribe(10, (Subscription("a/b", 1), Subscription("c/d", 2))),
        b"\x82\x0f\x00\x0a\x00\x00\x03a/b\x01\x00\x03c/d\x02",
    ),
    (
        Subscribe(1, (Subscription("a", 2, True, True, 2),), Properties(subscription_identifiers=(128,))),
        b"\x82\x0a\x00\x01\x03\x0b\x80\x01\x00\x01a\x2e",
    ),
    (Subscribe(1, (Subscription("$share/g/a", 1),)), b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x01"),
    (Suback(10, (0, 2, 0x80, 0x9E)), b"\x90\x07\x00\x0a\x00\x00\x02\x80\x9e"),
    (Unsubscribe(10, ("a/b", "c/d")), b"\xa2\x0d\x00\x0a\x00\x00\x03a/b\x00\x03c/d"),
    (Unsuback(10, (0, 0x11)), b"\xb0\x05\x00\x0a\x00\x00\x11"),
    (Pingreq(), b"\xc0\x00"),
    (Disconnect(), b"\xe0\x00"),
    (Disconnect(0x8B), b"\xe0\x01\x8b"),
    (Disconnect(0, Properties(session_expiry_s=0)), b"\xe0\x07\x00\x05\x11\x00\x00\x00\x00"),
    (Auth(), b"\xf0\x00"),
    (Auth(0x18, Properties(authentication_method="M")), b"\xf0\x06\x18\x04\x15\x00\x01M"),
]


def decode(data: bytes, level: int = MQTT_5, *, step: int | None = None) -> list[Packet]:
    decoder = Decoder()
    decoder.protocol_level = level
    found = []
    step = step or len(data) or 1
    for start in range(0, len(data), step):
        decoder.receive_data(data[start : start + step])
        while (packet := decoder.next_event()) is not None:
            found.append(packet)
    return found


@pytest.mark.parametrize(("packet", "data"), PACKETS)
def test_each_packet_is_written_and_read(packet: Packet, data: bytes) -> None:
    assert encode(packet, MQTT_5) == data
    assert decode(data) == [packet]


@pytest.mark.parametrize(("packet", "data"), PACKETS)
def test_a_packet_may_arrive_cut_anywhere(packet: Packet, data: bytes) -> None:
    for cut in range(len(data)):
        decoder = Decoder()
        decoder.protocol_level = MQTT_5
        decoder.receive_data(data[:cut])
        assert decoder.next_event() is None
        decoder.receive_data(data[cut:])
        assert decoder.next_event() == packet
        assert decoder.next_event() is None


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_stream_of_all_packets_may_arrive_in_bites_of_any_size(step: int) -> None:
    assert decode(b"".join(data for _, data in PACKETS), step=step) == [packet for packet, _ in PACKETS]


def test_a_reason_code_without_properties_may_be_written_out() -> None:
    """MQTT 5.0, 3.4.2.1: the short forms are allowed, the long ones too."""
    assert decode(b"\x40\x03\x00\x01\x00\x62\x04\x00\x01\x00\x00\xe0\x02\x00\x00\xf0\x02\x00\x00") == [
        Puback(1),
        Pubrel(1),
        Disconnect(),
        Auth(),
    ]


def test_the_decoder_learns_the_version_from_connect() -> None:
    greetings = [Connect("c", protocol_level=level) for level in (3, 4, 5)]
    publish = Publish("a", b"\0")
    for greeting in greetings:
        data = encode(greeting) + encode(publish, greeting.protocol_level)
        assert decode(data, 4) == [greeting, publish]


def test_mqtt_3_1_greets_with_another_name() -> None:
    assert encode(Connect("c", protocol_level=MQTT_3_1)) == b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01c"


def test_auth_is_a_reserved_type_before_mqtt_5() -> None:
    with pytest.raises(RemoteProtocolError, match="packet type 15: is reserved"):
        decode(b"\xf0\x00", 4)


EXAMPLES: dict[Kind, Any] = {
    Kind.FLAG: 1,
    Kind.TWO: 258,
    Kind.TWO_NOT_0: 258,
    Kind.FOUR: 16_909_060,
    Kind.FOUR_NOT_0: 16_909_060,
    Kind.VARIABLE_NOT_0: (200_000,),
    Kind.STRING: "é",
    Kind.TOPIC: "a/b",
    Kind.BINARY: b"\0\xff",
    Kind.PAIR: (("a", "b"), ("a", "c")),
}
PLACES = [(entry, packet) for entry in PROPERTIES for packet in sorted(entry.packets)]


@pytest.mark.parametrize(("entry", "packet"), PLACES, ids=[f"{entry.attribute}-{packet}" for entry, packet in PLACES])
def test_paho_agrees_about_each_property_of_each_packet(entry: Any, packet: str) -> None:
    data = encode_properties(Properties(**{entry.attribute: EXAMPLES[entry.kind]}))

    judged = Judge(PacketTypes.WILLMESSAGE if packet == "WILL" else getattr(PacketTypes, packet))
    _, size = judged.unpack(data)
    assert size == len(data)
    assert judged.pack() == data
    (name,) = [name for name in judged.names if hasattr(judged, name.replace(" ", ""))]
    value = getattr(judged, name.replace(" ", ""))
    expected = EXAMPLES[entry.kind]
    assert value == (list(expected) if isinstance(expected, tuple) else expected)


def test_paho_allows_the_same_properties_in_the_same_packets() -> None:
    judge = Judge(PacketTypes.CONNECT)
    ours = {entry.identifier: len(entry.packets) for entry in PROPERTIES}
    assert ours == {identifier: len(places) for identifier, (_, places) in judge.properties.items()}


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
NAMES = st.text(st.characters(exclude_characters="\0+#$", exclude_categories=["Cs"]), min_size=1, max_size=10)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.FLAG: st.integers(0, 1),
    Kind.TWO: st.integers(0, 65_535),
    Kind.TWO_NOT_0: st.integers(1, 65_535),
    Kind.FOUR: st.integers(0, 2**32 - 1),
    Kind.FOUR_NOT_0: st.integers(1, 2**32 - 1),
    Kind.VARIABLE_NOT_0: st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3).map(tuple),
    Kind.STRING: TEXT,
    Kind.TOPIC: NAMES,
    Kind.BINARY: st.binary(max_size=10),
    Kind.PAIR: st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(tuple),
}


def properties(packet: str) -> st.SearchStrategy[Properties]:
    fields = {entry.attribute: VALUES[entry.kind] for entry in PROPERTIES if packet in entry.packets}
    if packet == "CONNECT":
        del fields["authentication_data"]  # not without the method
    if packet == "SUBSCRIBE":
        fields["subscription_identifiers"] = st.integers(1, 268_435_455).map(lambda value: (value,))
    return st.fixed_dictionaries({}, optional=fields).map(lambda found: Properties(**found))


def code(packet: str) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted(ALLOWED[packet]))


IDS = st.integers(1, 65_535)
QOS = st.integers(0, 2)
FLAG = st.booleans()
WILLS = st.builds(Will, NAMES, st.binary(max_size=9), QOS, FLAG, properties("WILL"))
SUBSCRIPTIONS = st.lists(
    st.builds(Subscription, NAMES, QOS, FLAG, FLAG, st.integers(0, 2)), min_size=1, max_size=3
).map(tuple)
ANY_PACKET: st.SearchStrategy[Packet] = st.one_of(
    st.builds(
        Connect, TEXT, FLAG, IDS, st.none() | WILLS, st.none() | TEXT, st.none() | st.binary(), st.just(MQTT_5),
        properties("CONNECT"),
    ),
    st.builds(Connack, code("CONNACK"), st.just(False), properties("CONNACK")),
    st.builds(Publish, NAMES, st.binary(max_size=300), st.just(0), FLAG, properties=properties("PUBLISH")),
    st.builds(Publish, NAMES, st.binary(), st.integers(1, 2), FLAG, FLAG, IDS, properties("PUBLISH")),
    *[
        st.builds(kind, IDS, code(kind.__name__.upper()), properties(kind.__name__.upper()))
        for kind in (Puback, Pubrec, Pubrel, Pubcomp)
    ],
    st.builds(Subscribe, IDS, SUBSCRIPTIONS, properties("SUBSCRIBE")),
    st.builds(Suback, IDS, st.lists(code("SUBACK"), max_size=3).map(tuple), properties("SUBACK")),
    st.builds(Unsubscribe, IDS, st.lists(NAMES, min_size=1, max_size=3).map(tuple), properties("UNSUBSCRIBE")),
    st.builds(Unsuback, IDS, st.lists(code("UNSUBACK"), max_size=3).map(tuple), properties("UNSUBACK")),
    st.builds(Disconnect, code("DISCONNECT"), properties("DISCONNECT")),
    st.builds(Auth, code("AUTH"), properties("AUTH")),
)  # fmt: skip


@given(st.lists(ANY_PACKET, max_size=4), st.integers(1, 40))
def test_packets_survive_the_wire(packets: list[Packet], step: int) -> None:
    assert decode(b"".join(encode(packet, MQTT_5) for packet in packets), step=step) == packets


@given(st.sampled_from((3, 4, 5)), st.binary(max_size=200), st.integers(1, 40))
def test_any_bytes_give_packets_or_a_protocol_error(level: int, data: bytes, step: int) -> None:
    code = 0x81
    packets: list[Packet] = []
    try:
        packets = decode(data, level, step=step)
    except RemoteProtocolError as error:
        code = error.reason_code
    assert code in (0x81, 0x82, 0x84, 0x90, 0x94)
    assert all(isinstance(packet, Packet) for packet in packets)


@given(st.sampled_from([data for _, data in PACKETS]), st.data())
def test_damaged_packets_give_packets_or_a_protocol_error(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        packets = decode(bytes(damaged))
    except RemoteProtocolError:
        return
    assert all(isinstance(packet, Packet) for packet in packets)
