"""AMQP's bytes, with pamqp as the independent judge of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pamqp.heartbeat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline_amqp import methods
from trunkline_amqp.content import (
    Content,
    ContentAssembler,
    decode_header,
    encode_content,
    encode_header,
)
from trunkline_amqp.errors import AmqpError
from trunkline_amqp.fields import (
    MAX_DEPTH,
    Timestamp,
    decode_table,
    encode_short_string,
    encode_table,
    encode_value,
    table_spans,
)
from trunkline_amqp.frames import (
    ACKS,
    BODY,
    FRAME_OVERHEAD,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    MESSAGE,
    METHOD,
    AckRun,
    Frame,
    FrameSplitter,
    MessageSplitter,
    WholeMessage,
    encode_frame,
)
from trunkline_amqp.hot_methods import (
    Delivery,
    Publication,
    decode_ack,
    decode_deliver,
    decode_publish,
    encode_ack,
    encode_deliver,
    encode_nack,
    encode_publish,
)
from trunkline_amqp.properties import NO_PROPERTIES, Properties, decode_properties, encode_properties

FEW = settings(max_examples=60, deadline=None)

names = st.text(max_size=60).filter(
    lambda text: len(text.encode("utf-8", "surrogatepass")) <= 255 and text.isprintable()
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=20).filter(str.isprintable),
        st.binary(max_size=20),
        st.integers(0, 2**33).map(Timestamp),
        st.builds(
            lambda number, places: Decimal(number).scaleb(-places), st.integers(-(2**31), 2**31 - 1), st.integers(0, 9)
        ),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(names, values, max_size=5)
plain_tables = st.dictionaries(
    names, st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=9).filter(str.isprintable), max_size=4
)


def split(data: bytes, *, max_frame_bytes: int = 131072, step: int | None = None) -> list[Frame]:
    splitter = FrameSplitter(max_frame_bytes)
    step = step or max(len(data), 1)
    return [frame for start in range(0, len(data), step) for frame in splitter.receive_data(data[start : start + step])]


def judge(data: bytes) -> tuple[int, int, Any]:
    """What pamqp reads: size, channel, frame."""
    return pamqp.frame.unmarshal(data)


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 64, 1000])
def test_frames_are_found_however_they_are_cut(step: int) -> None:
    frames = [(METHOD, 1, b"abcd"), (HEADER, 65535, b""), (BODY, 1, b"x" * 100), (HEARTBEAT, 0, b"")]
    data = b"".join(encode_frame(*frame) for frame in frames)
    assert data.endswith(HEARTBEAT_FRAME)
    assert split(data, step=step) == frames


def test_the_largest_frame_is_taken_and_a_larger_one_refused_by_its_head() -> None:
    assert split(encode_frame(BODY, 1, b"x" * 4088), max_frame_bytes=4096)
    with pytest.raises(AmqpError) as caught:
        split(encode_frame(BODY, 1, b"x" * 4089)[:8], max_frame_bytes=4096)
    assert (caught.value.reply_code, caught.value.is_hard) == (501, True)


def test_what_precedes_a_broken_frame_is_given_before_it_is_complained_of() -> None:
    broken = encode_frame(METHOD, 2, b"abcd")[:-1] + b"\x00"
    frames = FrameSplitter(4096).receive_data(encode_frame(METHOD, 1, b"good") + broken)
    assert next(frames) == (METHOD, 1, b"good")
    with pytest.raises(AmqpError, match="501 FRAME_ERROR - a frame ends with 0x00"):
        next(frames)


def test_a_frame_that_arrives_byte_by_byte_is_not_joined_at_each_of_them() -> None:
    splitter = FrameSplitter(2**20)
    data = encode_frame(BODY, 1, bytes(200_000))
    for position in range(len(data) - 1):
        assert not list(splitter.receive_data(data[position : position + 1]))
    assert [len(payload) for _, _, payload in splitter.receive_data(data[-1:])] == [200_000]


def taken_apart(frames: list[Frame | WholeMessage | AckRun]) -> list[Frame]:
    """Messages and acknowledgements as the frames that they came in."""
    found: list[Frame] = []
    for kind, channel, payload in frames:
        if kind == ACKS:
            found += [split(encode_ack(channel, tag))[0] for tag in range(payload[0], payload[1])]  # type: ignore[arg-type]  # by its kind
        elif isinstance(payload, tuple):
            method, properties, body = payload  # type: ignore[misc]  # by its kind
            header = encode_header(len(body), properties)
            found += [(METHOD, channel, method), (HEADER, channel, header), (BODY, channel, body)]
        else:
            found.append((kind, channel, payload))
    return found


@FEW
@given(st.data())
def test_a_server_sees_the_same_whether_messages_come_whole_or_not(data: st.DataObject) -> None:
    """Frames of messages, right and wrong ones, cut anywhere."""
    pieces = st.one_of(
        st.builds(
            lambda body, key: encode_publish(1, b"", key, NO_PROPERTIES, body, 4096),
            st.binary(max_size=5000),
            st.binary(max_size=5),
        ),
        st.builds(encode_frame, st.sampled_from([METHOD, HEADER, BODY]), st.integers(1, 2), st.binary(max_size=20)),
        st.just(encode_frame(METHOD, 1, b"\x00\x3c\x00\x28\x00\x00\x00\x00\x00")),
        st.integers(0, 3).map(lambda size: encode_frame(HEADER, 1, encode_header(size, NO_PROPERTIES))),
        st.binary(max_size=3).map(lambda body: encode_frame(BODY, 1, body)),
        st.builds(
            lambda channel, first, count, multiple: b"".join(
                [encode_ack(channel, first + number, number == multiple) for number in range(count)]
            ),
            st.integers(1, 2),
            st.integers(0, 3),
            st.integers(1, 4),
            st.integers(0, 9),
        ),
    )
    sent = b"".join(data.draw(st.lists(pieces, max_size=8)))
    splitter = MessageSplitter(4096)
    frames: list[Frame | WholeMessage | AckRun] = []
    position = 0
    while position < len(sent):
        stop = data.draw(st.integers(position + 1, len(sent)))
        frames += splitter.receive_data(sent[position:stop])
        position = stop
    assert taken_apart(frames) == split(sent, max_frame_bytes=4096)


def test_acknowledgements_in_order_come_as_one() -> None:
    acks = b"".join([encode_ack(3, tag) for tag in (7, 8, 9)])
    assert list(MessageSplitter(4096).receive_data(acks + encode_ack(3, 9))) == [
        (ACKS, 3, (7, 10)),
        (METHOD, 3, encode_ack(3, 9)[7:-1]),
    ]


def test_a_message_that_arrives_whole_comes_as_one() -> None:
    data = encode_publish(7, b"logs", b"kern", NO_PROPERTIES, b"body", 4096)
    (message,) = MessageSplitter(4096).receive_data(data)
    assert message == (MESSAGE, 7, (b"\x00\x3c\x00\x28\x00\x00\x04logs\x04kern\x00", NO_PROPERTIES, b"body"))


# -- tables ----------------------------------------------------------------------------------------


@FEW
@given(tables)
def test_a_table_comes_back_as_it_was_written(table: dict[str, Any]) -> None:
    encoded = encode_table(table)
    decoded = decode_table(encoded)
    assert decoded == table
    assert encode_table(decoded) == encoded


@FEW
@given(plain_tables)
def test_pamqp_reads_the_same_table(table: dict[str, Any]) -> None:
    frame = encode_frame(METHOD, 1, methods.encode_method(methods.QueueDeclare(arguments=table)))
    assert judge(frame)[2].arguments == table


EVERY_TYPE: list[tuple[bytes, Any]] = [
    (b"t\x01", True),
    (b"b\xff", -1),
    (b"B\xff", 255),
    (b"s\xff\xff", -1),
    (b"u\xff\xff", 65535),
    (b"I\xff\xff\xff\xff", -1),
    (b"i\xff\xff\xff\xff", 2**32 - 1),
    (b"l" + b"\xff" * 8, -1),
    (b"L" + b"\xff" * 8, -1),
    (b"f\x3f\x80\x00\x00", 1.0),
    (b"d\x3f\xf0\x00\x00\x00\x00\x00\x00", 1.0),
    (b"D\x02\x00\x00\x00\x7b", Decimal("1.23")),
    (b"S\x00\x00\x00\x02hi", "hi"),
    (b"S\x00\x00\x00\x01\xff", "\udcff"),
    (b"x\x00\x00\x00\x02hi", b"hi"),
    (b"A\x00\x00\x00\x03t\x00V", [False, None]),
    (b"F\x00\x00\x00\x03\x01aV", {"a": None}),
    (b"T\x00\x00\x00\x00\x00\x00\x00\x07", Timestamp(7)),
    (b"V", None),
]


@pytest.mark.parametrize(("encoded", "value"), EVERY_TYPE, ids=lambda value: repr(value)[:12])
def test_every_type_of_value_is_read(encoded: bytes, value: Any) -> None:
    entry = b"\x01k" + encoded
    table = len(entry).to_bytes(4) + entry
    assert decode_table(table) == {"k": value}
    assert type(decode_table(table)["k"]) is type(value)
    assert list(table_spans(table)) == [("k", 4, len(table))]


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\x00\x00\x00\x05\x01a",  # shorter than it says
        b"\x00\x00\x00\x02\x01a",  # a name and no value
        b"\x00\x00\x00\x03\x01aZ",  # no such type
        b"\x00\x00\x00\x04\x01aB",  # one byte too few
        b"\x00\x00\x00\x07\x01aS\xff\xff\xff\xff",
        b"\x00\x00\x00\x07\x01aF\x00\x00\x00\x01\x00",  # the inner table ends past the outer one
        b"\x00\x00\x00\x03\x01aV!",
        b"\xff\xff\xff\xff",
    ],
)
def test_a_table_that_cannot_be_read_is_a_syntax_error(table: bytes) -> None:
    with pytest.raises(AmqpError) as caught:
        decode_table(table)
    assert (caught.value.reply_code, caught.value.is_hard) == (502, True)


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + len(value).to_bytes(4) + value
    entry = b"\x01a" + value
    return len(entry).to_bytes(4) + entry


def test_tables_are_nested_only_so_deep() -> None:
    assert decode_table(nested(MAX_DEPTH))
    with pytest.raises(AmqpError, match="nested 64 deep"):
        decode_table(nested(20_000))


@pytest.mark.parametrize("value", [2**63, object(), Decimal("1e20"), Decimal("NaN"), Decimal("12345678901")])
def test_what_no_table_holds_is_not_written(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode_value(value)


def test_a_short_string_is_short() -> None:
    assert encode_short_string("ä" * 127) == b"\xfe" + "ä".encode() * 127
    with pytest.raises(ValueError, match="255"):
        encode_short_string("ä" * 128)


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_syntax_error(data: bytes) -> None:
    assert outcome(decode_table, data) in ("read", 502)


# -- methods ---------------------------------------------------------------------------------------


def test_there_are_all_methods_that_pamqp_knows() -> None:
    theirs = {(index >> 16, index & 0xFFFF) for index in pamqp.commands.INDEX_MAPPING}
    assert theirs - set(methods.METHODS) == set()
    assert set(methods.METHODS) - theirs == {(30, 10), (30, 11)}  # of earlier versions


_STRATEGIES = {
    "octet": st.integers(0, 255),
    "short": st.integers(0, 65535),
    "long": st.integers(0, 2**32 - 1),
    "long_long": st.integers(0, 2**63 - 1),
    "bit": st.booleans(),
    "short_string": st.from_regex(r"[a-z0-9._-]{0,40}", fullmatch=True),
    "long_string": st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True).map(str.encode),
    "table": plain_tables,
}


def arbitrary(method: type[methods.Method]) -> st.SearchStrategy[methods.Method]:
    fields = {name: _STRATEGIES[kind] for name, kind in methods._fields(method) if not name.startswith("reserved")}
    return st.builds(method, **fields)


@pytest.mark.parametrize("kind", methods.METHODS.values(), ids=lambda kind: kind.__name__)
def test_a_method_comes_back_as_it_was_written(kind: type[methods.Method]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(arbitrary(kind))
    def check(method: methods.Method) -> None:
        payload = methods.encode_method(method)
        assert methods.decode_method(payload) == method
        for size in range(4, len(payload)):
            with pytest.raises(AmqpError) as caught:
                methods.decode_method(payload[:size])
            assert (caught.value.class_id, caught.value.method_id) == kind.ids
        with pytest.raises(AmqpError, match="1 bytes too many"):
            methods.decode_method(payload + b"\x00")

    check()


UNJUDGED = {(20, 10), (20, 11), (60, 100)}  # pamqp wants 0 for a reserved string, or warns of the method


JUDGED = [kind for kind in methods.METHODS.values() if kind.ids not in UNJUDGED | {(30, 10), (30, 11)}]


@pytest.mark.parametrize("kind", JUDGED, ids=lambda kind: kind.__name__)
def test_pamqp_reads_the_same_method(kind: type[methods.Method]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(arbitrary(kind))
    def check(method: methods.Method) -> None:
        data = encode_frame(METHOD, 7, methods.encode_method(method))
        size, channel, theirs = judge(data)
        assert (size, channel) == (len(data), 7)
        for (name, field), attribute in zip(methods._fields(kind), theirs.attributes(), strict=True):
            ours = getattr(method, name)
            found = getattr(theirs, attribute)
            if not name.startswith("reserved"):
                assert found == (ours.decode() if field == "long_string" and isinstance(found, str) else ours)
        if not any(field == "table" for _, field in methods._fields(kind)):  # it sorts, and takes the smallest types
            assert pamqp.frame.marshal(theirs, 7) == data

    check()


def test_a_method_that_there_is_not_is_a_hard_error() -> None:
    with pytest.raises(AmqpError, match=r"503 COMMAND_INVALID - there is no method 60\.99") as caught:
        methods.decode_method(b"\x00\x3c\x00\x63")
    assert caught.value.is_hard


# -- properties ------------------------------------------------------------------------------------

short_strings = st.none() | st.from_regex(r"[a-z/0-9-]{1,40}", fullmatch=True)
all_properties = st.builds(
    Properties,
    content_type=short_strings,
    content_encoding=short_strings,
    headers=st.none() | plain_tables,
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=short_strings,
    reply_to=short_strings,
    expiration=short_strings,
    message_id=short_strings,
    timestamp=st.none() | st.integers(0, 2**32 - 1),  # pamqp takes larger ones for milliseconds
    type=short_strings,
    user_id=short_strings,
    app_id=short_strings,
    cluster_id=short_strings,
)


@FEW
@given(all_properties)
def test_properties_come_back_and_pamqp_reads_the_same(properties: Properties) -> None:
    raw = encode_properties(properties)
    assert decode_properties(raw) == properties
    header: Any = pamqp.frame.unmarshal(encode_frame(HEADER, 1, encode_header(5, raw)))[2]
    theirs = header.properties
    assert header.body_size == 5
    for name in Properties.__struct_fields__:
        ours = getattr(properties, name)
        name = {"type": "message_type"}.get(name, name)
        if name == "timestamp" and ours is not None:
            assert int(theirs.timestamp.timestamp()) == ours
        elif ours not in (None, {}):
            assert getattr(theirs, name) == ours


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x00\x01", b"\x00\x02", b"\x80\x00", b"\x80\x00\x05abc", b"\x00\x00!"])
def test_properties_that_cannot_be_read_are_a_syntax_error(raw: bytes) -> None:
    with pytest.raises(AmqpError, match="502"):
        decode_properties(raw)


# -- messages --------------------------------------------------------------------------------------

keys = st.binary(max_size=255)


@FEW
@given(keys, keys, st.booleans(), st.binary(max_size=9000), st.sampled_from([4096, 131072]))
def test_a_published_message_comes_back(key: bytes, exchange: bytes, mandatory: bool, body: bytes, size: int) -> None:
    data = encode_publish(3, exchange, key, NO_PROPERTIES, body, size, mandatory=mandatory)
    content = assemble(split(data, max_frame_bytes=size), 3)
    assert content.body == body
    assert content.properties == NO_PROPERTIES
    assert decode_publish(content.method) == Publication(exchange, key, mandatory, False)


@FEW
@given(keys, keys, keys, st.integers(0, 2**64 - 1), st.booleans())
def test_a_delivery_comes_back(tag: bytes, exchange: bytes, key: bytes, number: int, redelivered: bool) -> None:
    delivery = Delivery(tag, number, redelivered, exchange, key)
    content = assemble(split(encode_deliver(3, delivery, NO_PROPERTIES, b"x", 4096)), 3)
    assert decode_deliver(content.method) == delivery


def test_pamqp_reads_the_same_messages() -> None:
    raw = encode_properties(Properties(delivery_mode=2, headers={"a": 1}))
    theirs: list[tuple[int, Any]] = []
    data = encode_publish(1, b"logs", b"kern.info", raw, b"hello", 4096, mandatory=True)
    data += encode_deliver(1, Delivery(b"ctag", 2**40, True, b"logs", b"kern"), raw, b"", 4096)
    data += encode_ack(1, 5, True) + encode_nack(1, 6, requeue=False) + HEARTBEAT_FRAME
    while data:
        size, channel, frame = judge(data)
        data = data[size:]
        theirs.append((channel, frame))
    kinds = pamqp.commands.Basic
    publish, header, body, deliver, empty, ack, nack, heartbeat = (frame for _, frame in theirs)
    assert isinstance(publish, kinds.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("logs", "kern.info", True)
    assert isinstance(header, pamqp.header.ContentHeader)
    assert (header.body_size, header.properties.headers) == (5, {"a": 1})
    assert isinstance(body, pamqp.body.ContentBody)
    assert body.value == b"hello"
    assert isinstance(deliver, kinds.Deliver)
    assert (deliver.consumer_tag, deliver.delivery_tag, deliver.redelivered) == ("ctag", 2**40, True)
    assert isinstance(empty, pamqp.header.ContentHeader)
    assert empty.body_size == 0
    assert isinstance(ack, kinds.Ack)
    assert (ack.delivery_tag, ack.multiple) == (5, True)
    assert isinstance(nack, kinds.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (6, False, False)
    assert isinstance(heartbeat, pamqp.heartbeat.Heartbeat)


def assemble(frames: list[Frame], channel: int, limit: int = 2**20) -> Content:
    """The one message that these frames are."""
    assembler = ContentAssembler(limit)
    found = []
    for kind, number, payload in frames:
        assert number == channel
        if kind == METHOD:
            assembler.begin(payload)
        elif kind == HEADER:
            found.append(assembler.receive_header(payload))
        else:
            found.append(assembler.receive_body(payload))
    *unfinished, content = found
    assert unfinished == [None] * len(unfinished)
    assert content is not None
    assert assembler.is_idle
    return content


def test_an_acknowledgement_says_its_tag_and_its_bits() -> None:
    ((_, channel, payload),) = split(encode_nack(9, 7, multiple=True, requeue=True))
    assert channel == 9
    assert decode_ack(payload) == (7, 3)
    with pytest.raises(AmqpError, match="502"):
        decode_ack(payload[:-1])


@pytest.mark.parametrize("size", range(4, 14))
def test_a_publish_cut_anywhere_is_a_syntax_error(size: int) -> None:
    (_, _, payload), *_ = split(encode_publish(1, b"abc", b"de", NO_PROPERTIES, b"", 4096))
    assert decode_publish(payload) == Publication(b"abc", b"de", False, False)
    with pytest.raises(AmqpError, match="502"):
        decode_publish(payload[:size])
    with pytest.raises(AmqpError, match="502"):
        decode_publish(payload + b"\x00")


@FEW
@given(st.binary(max_size=60))
def test_any_bytes_are_a_hot_method_or_a_syntax_error(data: bytes) -> None:
    for decode in (decode_publish, decode_deliver, decode_ack):
        assert outcome(decode, b"\x00\x3c\x00\x28" + data) in ("read", 502)


def outcome(decode: Callable[[bytes], object], data: bytes) -> str | int:
    try:
        decode(data)
    except AmqpError as error:
        return error.reply_code
    return "read"


class TestAssembling:
    """AMQP 0-9-1, 4.2.6: a method with content, one header, then the body; nothing between on the same channel."""

    def test_a_body_longer_than_announced_is_a_frame_error(self) -> None:
        assembler = started(size=10)
        assert assembler.receive_body(b"12345678") is None
        assert assembler.left == 2
        with pytest.raises(AmqpError, match="501 FRAME_ERROR - a body that is 1 bytes longer"):
            assembler.receive_body(b"901")

    def test_what_is_announced_too_large_is_refused_before_it_comes(self) -> None:
        with pytest.raises(AmqpError, match="406") as caught:
            started(size=1001)
        assert not caught.value.is_hard

    def test_a_header_of_another_class_is_a_frame_error(self) -> None:
        assembler = ContentAssembler(1000)
        assembler.begin(b"method")
        with pytest.raises(AmqpError, match="501"):
            assembler.receive_header(b"\x00\x0a" + encode_header(0, NO_PROPERTIES)[2:])

    def test_frames_out_of_turn_are_unexpected(self) -> None:
        idle, begun, headed = ContentAssembler(1000), ContentAssembler(1000), started(size=5)
        begun.begin(b"method")
        header = encode_header(5, NO_PROPERTIES)
        calls: list[Callable[[], object]] = [
            lambda: idle.receive_header(header),
            lambda: idle.receive_body(b"1"),
            lambda: begun.receive_body(b"1"),
            lambda: begun.begin(b"method"),
            lambda: headed.receive_header(header),
            lambda: headed.begin(b"method"),
        ]
        for call in calls:
            with pytest.raises(AmqpError, match="505 UNEXPECTED_FRAME"):
                call()

    @pytest.mark.parametrize("size", [0, 13])
    def test_a_header_that_is_too_short_is_a_frame_error(self, size: int) -> None:
        with pytest.raises(AmqpError, match="501"):
            decode_header(encode_header(5, NO_PROPERTIES)[:size])


def started(size: int) -> ContentAssembler:
    assembler = ContentAssembler(1000)
    assembler.begin(b"method")
    assert assembler.receive_header(encode_header(size, NO_PROPERTIES)) is None
    return assembler


def test_an_empty_message_has_no_body_frame() -> None:
    kinds = [kind for kind, _, _ in split(encode_content(1, b"\x00\x3c\x00\x28", NO_PROPERTIES, b"", 4096))]
    assert kinds == [METHOD, HEADER]


@pytest.mark.parametrize("size", [4087, 4088, 4089, 8176, 8177])
def test_a_body_is_cut_for_the_frames_agreed_on(size: int) -> None:
    frames = split(encode_content(1, b"\x00\x3c\x00\x28", NO_PROPERTIES, bytes(size), 4096), max_frame_bytes=4096)
    sizes = [len(payload) for kind, _, payload in frames if kind == BODY]
    assert sum(sizes) == size
    assert max(sizes) + FRAME_OVERHEAD <= 4096
    assert len(sizes) == -(-size // 4088)
