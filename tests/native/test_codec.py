"""Frames and bytes."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.errors import LocalProtocolError, RemoteProtocolError
from trunkline_native import frames as f
from trunkline_native import group_frames as g
from trunkline_native import queue_frames as q
from trunkline_native.codec import (
    CLOSED,
    NEED_DATA,
    FrameDecoder,
    encode,
    encode_data_head,
    encode_head,
    encode_produced,
)

OFFSETS = st.integers(0, 2**63 - 1)

QUEUE_SOURCE = q.QueueSourceState("jobs", "mail.#", "amqp", {"type": "letter"}, "any", "latest")

CLIENT_EXAMPLES: list[f.Header] = [
    f.Hello(0, [1, 2], "name", {"a": 1}),
    f.Ping(1),
    f.Produce(2**63 - 1, "orders", 3, 0),
    f.Metadata(3),
    f.Metadata(3, ["a", "b"], True),
    f.ListOffsets(4, "orders", 0, "earliest"),
    f.ListOffsets(4, "orders", 0, {"timestamp": 1_700_000_000_000}),
    f.CreateTopic(5, "orders", 12, {"segment.bytes": "1024"}),
    f.DeleteTopic(6, "orders"),
    f.AlterTopic(7, "orders", {"segment.bytes": None}),
    f.AlterTopic(7, "orders", {}, 12),
    f.NewProducer(8),
    f.OpenStream(9, 1, "orders", 0, 42, 1024),
    f.OpenStream(9, 1, "orders", 0, "latest", 0, "latest"),
    f.Credit(1, 100),
    f.CloseStream(1),
    f.DeleteRecords(10, "orders", 0, 2**40),
    f.DeleteRecords(10, "orders", 0, None),
    f.DescribeBridges(11),
    f.AskDoor(12, "mqtt", "sessions", {"limit": 10}),
    g.JoinGroup(1, 5, "billing", ("orders",)),
    g.JoinGroup(1, 5, "billing", (), "orders\\..*", "range", "m-1", "till-3", 6000, 30_000),
    g.LeaveGroup(2, 5),
    g.Heartbeat(3, 5),
    g.Revoked(4, 5),
    g.CommitOffsets(5, "billing"),
    g.CommitOffsets(5, "billing", 5),
    g.CommittedOffsets(6, "billing"),
    g.DescribeGroup(7, "billing"),
    g.ListGroups(8),
    g.ResetGroup(9, "billing", "orders", {"timestamp": 1_700_000_000_000}, [0, 2], True),
    g.DeleteGroup(10, "billing"),
    g.DeleteGroup(10, "billing", "orders"),
    q.CreateQueue(1, "emails"),
    q.CreateQueue(1, "emails", [QUEUE_SOURCE], {"max.length": "1000"}, True),
    q.DescribeQueues(2),
    q.DescribeQueues(2, ["emails"], True),
    q.DeleteQueue(3, "emails", True, True),
    q.PurgeQueue(4, "emails"),
    q.ResetQueue(5, "emails", {"timestamp": 1_700_000_000_000}),
    q.MoveRecords(6, "emails", "letters", 10),
    q.PeekQueue(7, "emails", 5, 2**40),
    q.AlterQueue(8, "emails", {"max.length": None}, [QUEUE_SOURCE]),
    q.Consume(9, 1, "emails", 100, -5, True, True),
    q.CancelConsumption(1),
    q.SetPrefetch(1, 0),
    q.Settle(1),
    q.Settle(1, 10),
    q.Release(1, 30_000, False),
    q.Reject(1, "not an address"),
    q.Extend(1, 60_000),
]
SERVER_EXAMPLES: list[f.Header] = [
    f.Failure(None, "RemoteProtocolError", "no"),
    f.Failure(1, "OffsetOutOfRange", "no", {"log_start_offset": 3}, False),
    f.Welcome(0, 1, "server", f.Limits(max_streams=7)),
    f.Done(1),
    f.Produced(1, 2**40),
    f.MetadataReply(1),
    f.ListedOffsets(1, None, 0, 5),
    f.ProducerMade(1, 1000, 0),
    f.StreamOpened(1, 5, None, 0, 9),
    f.DeletedRecords(10, 2**40),
    f.BridgesDescribed(11),
    f.DoorAnswered(12),
    f.Data(1, 100, 200),
    f.StreamEnd(1),
    f.Goodbye("bye"),
    g.JoinedGroup(1, "m-1", 7),
    g.OffsetsCommitted(6),
    g.GroupDescribed(7),
    g.GroupsListed(8),
    g.GroupReset(9),
    g.Assigned(5, 8),
    g.MemberFencedPush(5, "UnknownMember", "expired", {"group": "billing"}),
    q.QueuesDescribed(2),
    q.Counted(3, 2**40),
    q.Peeked(7, [q.PeekedEntry(2**40, "ready", 3, "jobs", 0)], True),
    q.Consuming(9, 60_000),
    q.Durable(10),
    q.DeliverySource(1, "jobs", 0),
    q.Deliver(1, 2),
    q.ConsumptionEnd(1),
    q.ConsumptionEnd(1, "UnknownQueue", "it was deleted", {"queue": "emails"}, False),
]
EXAMPLES = [(f.CLIENT_FRAMES, header) for header in CLIENT_EXAMPLES] + [
    (f.SERVER_FRAMES, header) for header in SERVER_EXAMPLES
]


def decode(data: bytes, kinds: object = f.CLIENT_FRAMES, limit: int = 2**20) -> list[f.Frame]:
    decoder = FrameDecoder(kinds, limit)  # type: ignore[arg-type]
    decoder.receive_data(data)
    found = []
    while isinstance(event := decoder.next_event(), f.Frame):
        found.append(event)
    return found


def raw(header: object, body: bytes = b"") -> bytes:
    """A frame around any header at all."""
    data = header if isinstance(header, bytes) else cbor2.dumps(header)
    return (2 + len(data) + len(body)).to_bytes(4, "big") + len(data).to_bytes(2, "big") + data + body


@pytest.mark.parametrize(("kinds", "header"), EXAMPLES)
@pytest.mark.parametrize("body", [b"", b"small", b"large" * 1000])
def test_what_is_encoded_is_decoded(kinds: object, header: f.Header, body: bytes) -> None:
    assert [(frame.header, bytes(frame.body)) for frame in decode(encode(header, body), kinds)] == [(header, body)]


def test_every_kind_has_an_example() -> None:
    assert {type(header) for header in CLIENT_EXAMPLES} == set(f.CLIENT_FRAMES.values())
    assert {type(header) for header in SERVER_EXAMPLES} == set(f.SERVER_FRAMES.values())


@given(request_id=OFFSETS, offset=OFFSETS, size=st.integers(0, 2**31))
def test_the_hand_written_encoders_agree_with_the_general_one(request_id: int, offset: int, size: int) -> None:
    assert encode_produced(request_id, offset) == encode(f.Produced(request_id, offset))
    assert encode_data_head(request_id, offset, offset, size) == encode_head(f.Data(request_id, offset, offset), size)


@pytest.mark.parametrize("edge", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1])
def test_hand_written_integers_at_their_edges(edge: int) -> None:
    assert encode_produced(edge, edge) == encode(f.Produced(edge, edge))


def test_frames_may_be_cut_anywhere() -> None:
    data = encode(f.Ping(1)) + encode(f.Produce(2, "orders", 0), b"batch" * 600) + encode(f.Ping(3))
    whole = decode(data)
    for cut in range(len(data)):
        decoder = FrameDecoder(f.CLIENT_FRAMES, 2**20)
        found = []
        for part in (data[:cut], data[cut:]):
            if part:
                decoder.receive_data(part)
            while isinstance(event := decoder.next_event(), f.Frame):
                found.append(event)
        assert found == whole


@settings(deadline=None)
@given(st.lists(st.sampled_from(CLIENT_EXAMPLES)), st.lists(st.integers(1, 4000), min_size=1))
def test_any_sequence_in_any_chunks(headers: list[f.Header], sizes: list[int]) -> None:
    data = b"".join(encode(header, b"x" * (number * 700)) for number, header in enumerate(headers))
    decoder = FrameDecoder(f.CLIENT_FRAMES, 2**20)
    found: list[f.Header] = []
    position = 0
    while position < len(data):
        size = sizes[len(found) % len(sizes)]
        decoder.receive_data(data[position : position + size])
        position += size
        while isinstance(event := decoder.next_event(), f.Frame):
            found.append(event.header)
    assert found == headers


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_frames_or_a_protocol_error(data: bytes) -> None:
    try:
        for frame in decode(data, limit=256):
            assert isinstance(frame.header, f.Header)
    except RemoteProtocolError:
        pass


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=10))
def test_arbitrary_headers_give_frames_or_a_protocol_error(header: object) -> None:
    with suppress(RemoteProtocolError):
        decode(raw(header))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((2**32 - 1).to_bytes(4, "big") + b"\0\1", id="huge length"),
        pytest.param((2**20 + 1).to_bytes(4, "big") + b"\0\1", id="one byte over the limit"),
        pytest.param(b"\0\0\0\5\0\4\x81\2", id="header longer than the frame"),
        pytest.param(b"\0\0\0\0\0\0", id="no room for the header length"),
        pytest.param(raw(b""), id="empty header"),
        pytest.param(raw([]), id="no kind"),
        pytest.param(raw({}), id="a map"),
        pytest.param(raw(["1"]), id="kind is text"),
        pytest.param(raw([True, 1]), id="kind is a bool"),
        pytest.param(raw([2]), id="a field is missing"),
        pytest.param(raw([2, "x"]), id="a field has the wrong type"),
        pytest.param(raw([2, -1]), id="a negative id"),
        pytest.param(raw([2, 2**63]), id="an id that is too large"),
        pytest.param(raw([3, 1, "t", 2**31]), id="a partition that is too large"),
        pytest.param(raw(b"\x9f\x02\x01\xff"), id="indefinite length"),
        pytest.param(raw(b"\x82\x02\xc2\x41\x01"), id="a big number's tag"),
        pytest.param(raw(b"\x82\x02\xd8\x23\x63(a)"), id="a regular expression's tag"),
        pytest.param(raw(b"\x82\x02\xd9\x12\x34\x01"), id="an unknown tag"),
        pytest.param(raw(b"\x81" * 200 + b"\x01"), id="nested too deep"),
        pytest.param(raw(b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"), id="an array of 2^63 items"),
        pytest.param(raw(b"\x82\x02\x61\xff"), id="text that is not UTF-8"),
        pytest.param(raw([1, 0, [1], "n", {5: 5}]), id="a map key that is no text"),
    ],
)
def test_broken_rules_are_protocol_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_a_length_is_refused_before_its_bytes_arrive() -> None:
    decoder = FrameDecoder(f.CLIENT_FRAMES, 1000)
    decoder.receive_data((1001).to_bytes(4, "big") + b"\0\1")
    with pytest.raises(RemoteProtocolError, match="1001 bytes is over the limit of 1000"):
        decoder.next_event()


def test_fields_that_are_missing_get_defaults_and_those_that_are_new_are_ignored() -> None:
    assert decode(raw([3, 1, "orders", 0]))[0].header == f.Produce(1, "orders", 0, 1)
    assert decode(raw([3, 1, "orders", 0, 0, "new", {}]))[0].header == f.Produce(1, "orders", 0, 0)


def test_a_partition_may_be_described_with_fewer_fields_or_more() -> None:
    fields = [0, "h:1", 2, 3, 4, [0], [0], 5, {"billing": 6}, {"billing": 7}]
    older = msgspec.convert(fields[:7], f.PartitionState)
    assert (older.isr, older.size_bytes, older.removed_unread, older.readers) == ([0], 0, {}, {})
    newer = msgspec.convert([*fields, "new"], f.PartitionState)
    assert (newer.size_bytes, newer.removed_unread, newer.readers) == (5, {"billing": 6}, {"billing": 7})


def test_a_kind_that_is_not_known_is_given_with_its_id() -> None:
    assert decode(raw([60, 7, "x"]))[0].header == f.Unknown(60, 7)
    assert decode(raw([60, "x"]))[0].header == f.Unknown(60, None)


def test_the_end_between_frames_is_an_event_and_within_one_an_error() -> None:
    decoder = FrameDecoder(f.CLIENT_FRAMES, 1000)
    decoder.receive_data(encode(f.Ping(1)))
    decoder.next_event()
    assert decoder.next_event() is NEED_DATA
    decoder.receive_data(b"\0\0")
    assert decoder.next_event() is NEED_DATA
    decoder.receive_data(b"")
    with pytest.raises(RemoteProtocolError, match="in the middle of a frame"):
        decoder.next_event()

    decoder = FrameDecoder(f.CLIENT_FRAMES, 1000)
    decoder.receive_data(b"")
    assert decoder.next_event() is CLOSED


def test_a_frame_may_trickle_in() -> None:
    data = encode(f.Produce(1, "orders", 0), b"x" * 20_000)
    decoder = FrameDecoder(f.CLIENT_FRAMES, 2**20)
    for position in range(0, len(data), 2):
        decoder.receive_data(data[position : position + 2])
        frame = decoder.next_event()
    assert isinstance(frame, f.Frame)
    assert bytes(frame.body) == b"x" * 20_000


def test_a_header_that_is_too_long_to_send_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode(f.Goodbye("x" * 70_000))
