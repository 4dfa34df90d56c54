"""User properties go short ways through the broker: what comes out is what looking at everything gives."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trunkline.errors import RemoteProtocolError
from trunkline.records import Header, Record, encode_headers
from trunkline_mqtt import bridge, user_properties
from trunkline_mqtt.encoder import encode_publish_properties
from trunkline_mqtt.fields import Fields
from trunkline_mqtt.packets import MQTT_5
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.said import Said

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["", "trace", "é", "\0", "x" * 65, "x" * 70_000, "mqtt.x", "mqtt..x", "mqtt.retain"]),
)
SAYABLE = TEXTS.filter(lambda text: len(text) < 65_536)  # in a field's two bytes of length
PAIRS = st.lists(st.tuples(SAYABLE, SAYABLE), max_size=5)


def block(pairs: list[tuple[str, str]]) -> bytes:
    """The properties without their length in front."""
    fields = [text.encode() for pair in pairs for text in pair]
    lengths = [len(field).to_bytes(2) + field for field in fields]
    return b"".join(b"\x26" + name + value for name, value in zip(lengths[::2], lengths[1::2], strict=True))


def read_closely(data: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Where the user properties at the beginning end, and they, field by field."""
    fields, pairs, at = Fields("PUBLISH", data, 0, len(data), MQTT_5), [], 0
    try:
        while fields.byte("identifier") == 0x26:
            pairs.append((fields.string("name"), fields.string("value")))
            at = fields.position
    except RemoteProtocolError:
        pass
    return at, pairs


@given(PAIRS, st.integers(0, 60), st.integers(0, 255), st.integers(0, 60))
@example([("k", "v")], 0, 0x26, 0)
@example([("k", "v"), ("k", "w")], 11, 0xFF, 0)
@settings(max_examples=300, deadline=None)
def test_pairs_are_read_up_to_the_first_that_is_wrong(
    pairs: list[tuple[str, str]], position: int, byte: int, missing: int
) -> None:
    data = bytearray(block(pairs))
    if position < len(data):
        data[position] = byte
    del data[max(0, len(data) - missing) :]

    found: list[tuple[str, str]] = []
    end = user_properties.read_pairs(bytes(data), 0, len(data), found)

    assert (end, found) == read_closely(bytes(data))


def test_pairs_end_where_the_properties_do_though_the_packet_goes_on() -> None:
    data = block([("a", "b"), ("c", "d")])
    for end in range(len(data)):
        found: list[tuple[str, str]] = []
        assert user_properties.read_pairs(data, 0, end, found) == (end >= 7) * 7
        assert found == [("a", "b")] * (end >= 7)


def test_a_packet_may_have_a_thousand_user_properties() -> None:
    limit = user_properties.MAX_USER_PROPERTIES
    pairs = [("k", "v")] * limit
    data = encode_publish_properties(Properties(user=tuple(pairs)))
    assert Fields("PUBLISH", data, 0, len(data), MQTT_5).properties().user == tuple(pairs)

    data = encode_publish_properties(Properties(user=(*pairs, ("k", "v"))))
    with pytest.raises(RemoteProtocolError, match="user: comes more than 1000 times"):
        Fields("PUBLISH", data, 0, len(data), MQTT_5).properties()


NAMES = st.one_of(TEXTS, st.sampled_from(["mqtt.expires", "mqtt.content-type", "mqtt.qos", "mqtt.client"]))
VALUES = st.one_of(st.none(), st.binary(max_size=4), TEXTS.map(str.encode))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@given(HEADERS, st.booleans(), st.sampled_from([b"0", b"1", b"2", b"9", None]))
@settings(max_examples=400, deadline=None)
def test_what_a_record_says_is_passed_on_as_if_it_had_been_looked_at(
    headers: list[Header], is_ours: bool, qos: bytes | None
) -> None:
    if is_ours:
        headers = [("mqtt.client", b"c"), ("mqtt.qos", qos), *headers]
    record = Record(7, 5000, b"t", b"payload", tuple(headers))

    short, close = bridge.message_of(record), bridge._convert_all(b"t", record)

    for what in ("topic", "payload", "qos", "client", "is_retained", "expires_ms"):
        assert getattr(short, what) == getattr(close, what)
    assert short.packed() == close.packed()
    assert short.properties == close.properties


def test_more_headers_than_a_packet_may_have_user_properties_are_passed_on_all() -> None:
    pairs = tuple((f"k{number}", "v") for number in range(user_properties.MAX_USER_PROPERTIES + 1))
    headers = [("mqtt.client", b"c"), ("mqtt.qos", b"1"), *((name, value.encode()) for name, value in pairs)]

    message = bridge.message_of(Record(7, 5000, b"t", b"", tuple(headers)))

    assert message.properties.user == pairs


def test_names_are_forgotten_before_they_fill_memory() -> None:
    limit = user_properties.KNOWN_NAMES
    for number in range(2 * limit + 1):
        user_properties.read_pairs(raw := block([(f"n{number}", "")]), 0, len(raw), [])
        assert user_properties.pack_headers([(f"n{number}", b"")]) == raw
    long = "n" * (user_properties.KNOWN_NAME_BYTES + 1)
    assert user_properties.pack_headers([(long, b"")]) == block([(long, "")])

    assert 0 < len(user_properties._names) <= limit
    assert 0 < len(user_properties._heads) <= limit
    assert long not in user_properties._heads


WHAT_IS_SAID = st.builds(
    Properties,
    payload_format=st.sampled_from([None, 0, 1]),
    message_expiry_s=st.sampled_from([None, 0, 60, 2**32 - 1]),
    content_type=st.sampled_from([None, "text"]),
    correlation=st.sampled_from([None, b"\0"]),
    user=st.one_of(PAIRS.map(tuple), st.just((("k", "v"),) * 70)),
)


@given(st.one_of(st.just(NO_PROPERTIES), WHAT_IS_SAID), st.sampled_from([0, 1, 2]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_headers_are_those_of_a_plain_message_and_more(properties: Properties, qos: int, is_retained: bool) -> None:
    plain = tuple(bridge.headers_of("client", qos))

    said = Said(plain, encode_headers(plain), qos, properties, 5000, is_retained=is_retained)

    whole = bridge.headers_of("client", qos, is_retained=is_retained, properties=properties, now_ms=5000)
    assert said.headers == tuple(whole)
    assert said.block == encode_headers(whole)
    assert said.client == b"client"
