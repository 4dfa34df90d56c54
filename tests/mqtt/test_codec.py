"""Every packet of MQTT 3.1.1 both ways, every rule of it that a peer can break, and any bytes at all."""

from __future__ import annotations

import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trunkline.errors import LocalProtocolError, RemoteProtocolError
from trunkline_mqtt import fields
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import PUBLISH_QOS_0, PUBLISH_QOS_1, encode, publish_head
from trunkline_mqtt.fields import TopicNames
from trunkline_mqtt.packets import (
    Connack,
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
    Will,
)


def subscriptions(*filters: tuple[str, int]) -> tuple[Subscription, ...]:
    return tuple(Subscription(*entry) for entry in filters)


# The first examples are those of the standard: figures 3.6, 3.11, 3.23, 3.26, 3.31.
PACKETS: list[tuple[Packet, bytes]] = [
    (
        Connect("c", True, 10, Will("w", b"x", 1), "u", b"p"),
        b"\x10\x19\x00\x04MQTT\x04\xce\x00\x0a\x00\x01c\x00\x01w\x00\x01x\x00\x01u\x00\x01p",
    ),
    (Publish("a/b", b"", 1, packet_id=10), b"\x32\x07\x00\x03a/b\x00\x0a"),
    (Subscribe(10, subscriptions(("a/b", 1), ("c/d", 2))), b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02"),
    (Suback(10, (0, 2, 0x80)), b"\x90\x05\x00\x0a\x00\x02\x80"),
    (Unsubscribe(10, ("a/b", "c/d")), b"\xa2\x0c\x00\x0a\x00\x03a/b\x00\x03c/d"),
    (Connect("", True), b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"),
    (Connect("é", False, 65_535), b"\x10\x0e\x00\x04MQTT\x04\x00\xff\xff\x00\x02\xc3\xa9"),
    (Connect("c", True, 0, Will("w", b"", 2, True)), b"\x10\x12\x00\x04MQTT\x04\x36\x00\x00\x00\x01c\x00\x01w\x00\x00"),
    (Connect("c", True, 0, None, "u"), b"\x10\x10\x00\x04MQTT\x04\x82\x00\x00\x00\x01c\x00\x01u"),
    (Connect("c", is_bridge=True), b"\x10\x0d\x00\x04MQTT\x84\x02\x00\x00\x00\x01c"),
    (Connect("c", protocol_level=3, is_bridge=True), b"\x10\x0f\x00\x06MQIsdp\x83\x02\x00\x00\x00\x01c"),
    (Connack(0, True), b"\x20\x02\x01\x00"),
    (Connack(5), b"\x20\x02\x00\x05"),
    (Publish("a", b"x"), b"\x30\x04\x00\x01ax"),
    (Publish("a", b"", retain=True), b"\x31\x03\x00\x01a"),
    (Publish("a", b"x", 1, True, True, 0x0102), b"\x3b\x06\x00\x01a\x01\x02x"),
    (Publish("a", b"x", 2, packet_id=65_535), b"\x34\x06\x00\x01a\xff\xffx"),
    (Publish("\ufeffé/", b"\0"), b"\x30\x09\x00\x06\xef\xbb\xbf\xc3\xa9/\x00"),
    (Publish("a", b"x" * 124), b"\x30\x7f\x00\x01a" + b"x" * 124),
    (Publish("a", b"x" * 125), b"\x30\x80\x01\x00\x01a" + b"x" * 125),
    (Publish("a", b"x" * 16_381), b"\x30\x80\x80\x01\x00\x01a" + b"x" * 16_381),
    (Puback(258), b"\x40\x02\x01\x02"),
    (Pubrec(258), b"\x50\x02\x01\x02"),
    (Pubrel(258), b"\x62\x02\x01\x02"),
    (Pubcomp(258), b"\x70\x02\x01\x02"),
    (Subscribe(1, subscriptions(("+/#", 0))), b"\x82\x08\x00\x01\x00\x03+/#\x00"),
    (Suback(1, ()), b"\x90\x02\x00\x01"),
    (Unsuback(258), b"\xb0\x02\x01\x02"),
    (Pingreq(), b"\xc0\x00"),
    (Pingresp(), b"\xd0\x00"),
    (Disconnect(), b"\xe0\x00"),
]


LIMIT = 1024 * 1024


def decode(data: bytes, *, step: int | None = None) -> list[Packet]:
    decoder = Decoder(LIMIT)
    found = []
    step = step or len(data) or 1
    for start in range(0, len(data), step):
        decoder.receive_data(data[start : start + step])
        while (packet := decoder.next_event()) is not None:
            found.append(packet)
    return found


@pytest.mark.parametrize(("packet", "data"), PACKETS)
def test_each_packet_is_written_and_read(packet: Packet, data: bytes) -> None:
    assert encode(packet) == data
    assert decode(data) == [packet]


@pytest.mark.parametrize(("packet", "data"), PACKETS)
def test_a_packet_may_arrive_cut_anywhere(packet: Packet, data: bytes) -> None:
    cuts = range(len(data)) if len(data) < 200 else [1, 2, 3, 4, 5, 100, len(data) - 1]
    for cut in cuts:
        decoder = Decoder(LIMIT)
        decoder.receive_data(data[:cut])
        assert decoder.next_event() is None
        decoder.receive_data(data[cut:])
        assert decoder.next_event() == packet
        assert decoder.next_event() is None


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 65_536])
def test_a_stream_of_all_packets_may_arrive_in_bites_of_any_size(step: int) -> None:
    assert decode(b"".join(data for _, data in PACKETS), step=step) == [packet for packet, _ in PACKETS]


def test_data_may_arrive_while_packets_wait_to_be_taken() -> None:
    decoder = Decoder(LIMIT)
    decoder.receive_data(b"\xc0\x00\xd0\x00\x40")
    assert decoder.next_event() == Pingreq()

    decoder.receive_data(b"\x02\x00\x01")

    assert [decoder.next_event() for _ in range(3)] == [Pingresp(), Puback(1), None]


def test_packets_before_a_malformed_one_are_given() -> None:
    decoder = Decoder(LIMIT)
    decoder.receive_data(b"\xc0\x00\x00\x00")

    assert decoder.next_event() == Pingreq()
    with pytest.raises(RemoteProtocolError):
        decoder.next_event()


def test_a_packet_over_the_limit_is_refused_before_its_body_arrives() -> None:
    decoder = Decoder(1000)
    decoder.receive_data(b"\x30\xe8\x07")

    with pytest.raises(RemoteProtocolError, match="has 1003 bytes, the limit here is 1000"):
        decoder.next_event()


def test_wrong_flags_are_refused_before_the_packet_is_whole() -> None:
    """So that HTTP on this port is told at once, not when the handshake deadline is over."""
    decoder = Decoder(1000)
    decoder.receive_data(b"GET / HTTP/1.1")

    with pytest.raises(RemoteProtocolError, match="PUBACK, fixed header: flags are 0b0111"):
        decoder.next_event()


def test_a_packet_as_large_as_the_limit_is_taken() -> None:
    packet = Publish("a", b"x" * 994)
    decoder = Decoder(1000)
    decoder.receive_data(encode(packet))

    assert len(encode(packet)) == 1000
    assert decoder.next_event() == packet


def test_a_remaining_length_may_be_written_longer_than_needed() -> None:
    """MQTT 3.1.1 does not forbid it (5.0 does)."""
    assert decode(b"\xc0\x80\x80\x00") == [Pingreq()]


def test_a_decoder_holds_nothing_between_packets() -> None:
    decoder = Decoder(LIMIT)
    for cut in (b"\x30\x04\x00\x01", b"ax"):
        decoder.receive_data(cut)
        packet = decoder.next_event()

    assert packet == Publish("a", b"x")
    assert decoder.next_event() is None
    assert decoder._data == b""
    assert decoder._partial is None


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 120, 121, 122, 123, 124, 125, 126, 16_379, 16_380, 16_381])
def test_the_parts_of_a_fan_out_are_the_packet(qos: int, size: int) -> None:
    payload = b"x" * size
    head = publish_head((PUBLISH_QOS_0, PUBLISH_QOS_1)[qos], "t/é".encode(), size)

    assert head + b"\x01\x02" * qos + payload == encode(Publish("t/é", payload, qos, packet_id=0x102 * qos))


@pytest.mark.parametrize(
    "packet",
    [
        Publish("", b""),
        Publish("x" * 65_536, b""),
        Publish("\ud800", b""),
        Publish("a", b"", 1),
        Publish("a", b"", 1, packet_id=65_536),
        Publish("a", b"", 3, packet_id=1),
        Publish("a", b"", dup=True),
        Puback(0),
        Subscribe(1, subscriptions(("x" * 65_536, 0))),
        Connect("x" * 65_536),
        Connect("c", password=b"p"),
        Packet(),
    ],
)
def test_what_cannot_be_said_is_our_own_error(packet: Packet) -> None:
    with pytest.raises(LocalProtocolError):
        encode(packet)


def test_topic_names_are_checked_once_and_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "CACHED_NAMES", 10)
    names = TopicNames()

    for number in range(100):
        assert names[b"%d" % number] == str(number)
        assert len(names) <= 10
    assert names[b"99"] is names[b"99"]
    names[b"x" * 257]
    assert b"x" * 257 not in names


STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20)
FILTERS = st.lists(st.one_of(NAMES, st.just("+")), min_size=1, max_size=4).map("/".join)
IDS = st.integers(1, 65_535)
QOS = st.integers(0, 2)
ANY_PACKET: st.SearchStrategy[Packet] = st.one_of(
    st.builds(Publish, NAMES, st.binary(max_size=300), st.just(0), st.booleans()),
    st.builds(Publish, NAMES, st.binary(max_size=300), st.integers(1, 2), st.booleans(), st.booleans(), IDS),
    st.builds(
        Connect,
        STRINGS,
        st.booleans(),
        st.integers(0, 65_535),
        st.none() | st.builds(Will, NAMES, st.binary(max_size=20), QOS, st.booleans()),
        STRINGS,
        st.none() | st.binary(max_size=20),
    ),
    st.builds(
        Subscribe,
        IDS,
        st.lists(st.tuples(FILTERS, QOS).map(lambda pair: Subscription(*pair)), min_size=1, max_size=5).map(tuple),
    ),
    st.builds(Unsubscribe, IDS, st.lists(FILTERS, min_size=1, max_size=5).map(tuple)),
    st.builds(Suback, IDS, st.lists(st.sampled_from([0, 1, 2, 0x80]), max_size=5).map(tuple)),
    st.builds(Puback, IDS),
)


@given(st.lists(ANY_PACKET, max_size=5), st.integers(1, 40))
def test_packets_survive_the_wire(packets: list[Packet], step: int) -> None:
    assert decode(b"".join(map(encode, packets)), step=step) == packets


@given(st.binary(max_size=200), st.integers(1, 40))
def test_any_bytes_give_packets_or_a_protocol_error(data: bytes, step: int) -> None:
    try:
        packets = decode(data, step=step)
    except RemoteProtocolError:
        return
    assert all(isinstance(packet, Packet) for packet in packets)


@given(st.sampled_from([data for _, data in PACKETS if len(data) < 200]), st.data())
def test_damaged_packets_give_packets_or_a_protocol_error(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        packets = decode(bytes(damaged))
    except RemoteProtocolError:
        return
    assert all(isinstance(packet, Packet) for packet in packets)


def test_the_codec_imports_nothing_that_does_io() -> None:
    code = (
        "import sys; import trunkline_mqtt.decoder, trunkline_mqtt.encoder; "
        "print(sorted({'trio', 'socket', 'ssl', 'select', 'asyncio', 'trunkline.broker'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
