"""The client's side of a connection, without a socket; pamqp says what RabbitMQ would send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header

from trunkline.errors import RemoteProtocolError
from trunkline_amqp.methods import BasicQos
from trunkline_rabbitmq import events as e
from trunkline_rabbitmq import protocol as p
from trunkline_rabbitmq.addresses import parse_url

URL = parse_url("amqp://me:secret@example.com/v")
START = commands.Connection.Start(server_properties={"product": "RabbitMQ", "version": "3.10.8"})
TUNE = commands.Connection.Tune(2047, 131072, 60)


def encode(*frames: Any, channel: int = 1) -> bytes:
    """Methods of a connection go to channel 0 whatever ``channel`` says."""
    return b"".join(
        frame.marshal(each, 0 if type(each).__qualname__.startswith("Connection.") else channel) for each in frames
    )


GREETING = encode(START, TUNE, commands.Connection.OpenOk(), commands.Channel.OpenOk())


def client(*, max_body_bytes: int = 1000) -> p.ClientProtocol:
    return p.ClientProtocol(URL, name="a link", version="1", heartbeat_s=30, max_body_bytes=max_body_bytes)


def ready(**options: Any) -> p.ClientProtocol:
    found = client(**options)
    assert found.receive_data(GREETING) == [e.Ready("RabbitMQ 3.10.8")]
    found.data_to_send()
    return found


def sent(data: bytes) -> list[Any]:
    found = []
    while data:
        size, _, method = frame.unmarshal(data)
        found.append(method)
        data = data[size:]
    return found


def delivery(tag: int, content: bytes = b"hello", **properties: Any) -> bytes:
    method = commands.Basic.Deliver("tag", tag, False, "exchange", "key")
    head = header.ContentHeader(0, len(content), commands.Basic.Properties(**properties))
    return encode(method, head, *([body.ContentBody(content)] if content else []))


def test_a_greeting_logs_in_and_opens_a_channel() -> None:
    found = client()
    assert found.begin() == b"AMQP\0\0\x09\1"
    found.receive_data(GREETING)
    start_ok, tune_ok, opened, channel = sent(found.data_to_send())
    assert (start_ok.mechanism, start_ok.response) == ("PLAIN", "\0me\0secret")
    assert start_ok.client_properties["capabilities"]["authentication_failure_close"]
    assert (tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat) == (1, 131072, 30)
    assert opened.virtual_host == "v"
    assert isinstance(channel, commands.Channel.Open)


@pytest.mark.parametrize(
    ("theirs", "agreed"),
    [
        ((2047, 131072, 10), (131072, 10)),
        ((0, 0, 0), (131072, 30)),
        ((1, 4096, 60), (4096, 30)),
        ((1, 2**31, 1), (131072, 1)),
    ],
)
def test_limits_are_the_smaller_of_both(theirs: tuple[int, int, int], agreed: tuple[int, int]) -> None:
    found = client()
    found.receive_data(encode(START, commands.Connection.Tune(*theirs)))
    assert (found.frame_max, found.heartbeat_s) == agreed


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_messages_arrive_whatever_the_pieces(size: int) -> None:
    data = GREETING + delivery(1, b"", message_id="m") + delivery(2) + encode(commands.Basic.Ack(3, True))
    found = client()
    events = [event for at in range(0, len(data), size) for event in found.receive_data(data[at : at + size])]
    assert [type(event) for event in events] == [e.Ready, e.Delivered, e.Delivered, e.Confirmed]
    assert events[1:] == [
        e.Delivered(1, False, b"exchange", b"key", b"\x00\x80\x01m", b""),
        e.Delivered(2, False, b"exchange", b"key", b"\0\0", b"hello"),
        e.Confirmed(3, True, True),
    ]


def test_what_is_too_large_is_counted_and_not_kept() -> None:
    found = ready(max_body_bytes=10)
    large = encode(
        commands.Basic.Deliver("tag", 1, False, "exchange", "key"),
        header.ContentHeader(0, 25, commands.Basic.Properties()),
        body.ContentBody(b"." * 20),
        body.ContentBody(b"." * 5),
    )
    assert found.receive_data(large + delivery(2)) == [
        e.TooLarge(1, 25),
        e.Delivered(2, False, b"exchange", b"key", b"\0\0", b"hello"),
    ]


def test_a_returned_message_comes_with_the_reason() -> None:
    returned = encode(
        commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"),
        header.ContentHeader(0, 1, commands.Basic.Properties()),
        body.ContentBody(b"x"),
    )
    assert ready().receive_data(returned) == [e.Returned(312, "NO_ROUTE", b"key", b"\0\0", b"x")]


def test_a_nack_and_a_method_that_is_asked_for() -> None:
    events = ready().receive_data(encode(commands.Basic.Nack(7), commands.Basic.QosOk()))
    assert events[0] == e.Confirmed(7, False, False)
    assert isinstance(events[1], e.Answer)


def test_blocked_unblocked_flow_and_cancel() -> None:
    found = ready()
    events = found.receive_data(
        encode(
            commands.Connection.Blocked("low on disk"),
            commands.Connection.Unblocked(),
            commands.Channel.Flow(False),
            commands.Basic.Cancel("tag", True),
        )
    )
    assert events == [e.Blocked("low on disk"), e.Unblocked(), e.Flow(False), e.Cancelled("tag")]
    (flow,) = sent(found.data_to_send())
    assert isinstance(flow, commands.Channel.FlowOk)


@pytest.mark.parametrize("kind", [commands.Connection.Close, commands.Channel.Close])
def test_a_close_is_answered_and_nothing_after_it_counts(kind: Any) -> None:
    found = ready()
    data = encode(kind(404, "NOT_FOUND - no queue", 50, 10)) + delivery(1)
    assert found.receive_data(data) == [e.Closed(404, "NOT_FOUND - no queue")]
    (answer,) = sent(found.data_to_send())
    assert type(answer).__name__ == "CloseOk"
    assert found.state is p.State.CLOSED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"AMQP\0\1\0\0", "it does not speak AMQP 0-9-1, but 1.0.0"),
        (b"HTTP/1.1 400 Bad Request\r\n", "a frame of"),
        (encode(commands.Connection.Start(mechanisms="EXTERNAL")), "no user and password, only EXTERNAL"),
        (encode(START, commands.Connection.Secure("more")), "more than a user"),
        (encode(TUNE), "ConnectionTune came while waiting for its greeting"),
        (GREETING + GREETING, "ConnectionStart came while ready"),
        (GREETING + delivery(1)[:-13] + encode(commands.Basic.QosOk()), "expected a content body"),
    ],
)
def test_what_is_against_the_rules_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        client().receive_data(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_events_or_an_error(data: bytes) -> None:
    for found in (client(), ready()):
        try:
            found.receive_data(data)
        except RemoteProtocolError:
            continue


@given(st.data())
def test_a_byte_that_changed_gives_events_or_an_error(data: st.DataObject) -> None:
    whole = bytearray(GREETING + delivery(1, message_id="m", headers={"a": 1}) + encode(commands.Basic.Ack(1)))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        client().receive_data(bytes(whole))
    except RemoteProtocolError:
        return


def test_methods_and_the_end() -> None:
    found = ready()
    qos, close = sent(found.method(BasicQos(prefetch_count=7)) + found.goodbye())
    assert (qos.prefetch_count, close.reply_code) == (7, 200)
