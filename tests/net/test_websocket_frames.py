"""WebSocket's frames as bytes; wsproto is the other side."""

from __future__ import annotations

import contextlib

import pytest
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType

from trunkline.errors import RemoteProtocolError
from trunkline.net.websocket.frames import Closing, FrameDecoder, Ping, binary, closing, pong

KEY = b"\x0a\x0b\x0c\x0d"


def frame(first: int, payload: bytes = b"") -> bytes:
    """A small frame of a client."""
    masked = bytes(byte ^ KEY[at & 3] for at, byte in enumerate(payload))
    return bytes((first, 0x80 | len(payload))) + KEY + masked


def events(decoder: FrameDecoder, data: bytes) -> list[bytes | Ping | Closing]:
    decoder.receive_data(data)
    return list(iter(decoder.next_event, None))


def data_of(found: list[bytes | Ping | Closing]) -> bytes:
    return b"".join(event for event in found if isinstance(event, bytes))


def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65_535, 65_536, 200_001])
def test_a_message_of_any_size_both_ways(size: int) -> None:
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    peer = client()

    assert events(FrameDecoder(), peer.send(wsproto.events.BytesMessage(payload))) == [payload]
    peer.receive_data(binary(payload))
    assert b"".join(bytes(e.data) for e in peer.events() if isinstance(e, wsproto.events.BytesMessage)) == payload


@pytest.mark.parametrize("size", [7, 126, 300])
def test_frames_cut_anywhere(size: int) -> None:
    payload = bytes(range(256))[:size] * 2
    stream = client().send(wsproto.events.BytesMessage(payload)) + frame(0x89, b"are you there") + frame(0x82, b"next")

    for cut in range(len(stream) + 1):
        decoder = FrameDecoder()
        found = events(decoder, stream[:cut]) + events(decoder, stream[cut:])
        assert data_of(found) == payload + b"next"
        assert Ping(b"are you there") in found


def test_bytes_one_by_one() -> None:
    decoder = FrameDecoder()
    stream = client().send(wsproto.events.BytesMessage(b"hello" * 100)) + frame(0x88, b"\x03\xe8bye")
    found = [event for at in range(len(stream)) for event in events(decoder, stream[at : at + 1])]
    assert data_of(found) == b"hello" * 100
    assert found[-1] == Closing(1000)


def test_a_fragmented_message_with_a_ping_between() -> None:
    stream = frame(0x02, b"a") + frame(0x89) + frame(0x00, b"b") + frame(0x8A, b"pong") + frame(0x80, b"c")
    assert events(FrameDecoder(), stream + frame(0x82, b"d")) == [b"a", Ping(), b"b", b"c", b"d"]


def test_a_huge_frame_is_passed_on_as_it_comes() -> None:
    """Nothing is kept of it, so its length needs no limit."""
    decoder = FrameDecoder()
    head = b"\x82\xff" + (1 << 62).to_bytes(8) + b"\0\0\0\0"
    assert events(decoder, head + b"begin") == [b"begin"]
    for _ in range(100):
        assert events(decoder, b"x" * 65_536) == [b"x" * 65_536]
    assert len(decoder._data) == 65_536


@pytest.mark.parametrize(
    ("stream", "code", "problem"),
    [
        (b"\x82\x01abcdef", 1002, "not masked"),
        (b"\x82\x00", 1002, "not masked"),
        (frame(0x81, b"text"), 1003, "text"),
        (frame(0x01, b"te"), 1003, "text"),
        (frame(0xC2, b"x"), 1002, "reserved bits"),
        (frame(0xA2, b"x"), 1002, "reserved bits"),
        (frame(0x92, b"x"), 1002, "reserved bits"),
        *(
            (frame(0x80 | opcode), 1002, f"opcode {opcode} is reserved")
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ),
        (frame(0x80, b"x"), 1002, "where no message had begun"),
        (frame(0x00, b"x"), 1002, "where no message had begun"),
        (frame(0x02, b"x") + frame(0x82, b"y"), 1002, "before the one before it has ended"),
        (frame(0x02, b"x") + frame(0x81, b"y"), 1002, "before the one before it has ended"),
        (frame(0x09, b"x"), 1002, "control frame"),
        (b"\x89\xfe\x00\x7e" + KEY + bytes(126), 1002, "control frame"),
        (b"\x82\xfe\x00\x7d" + KEY, 1002, "shortest form"),
        (b"\x82\xff" + (65_535).to_bytes(8) + KEY, 1002, "shortest form"),
        (b"\x82\xff" + (1 << 63).to_bytes(8) + KEY, 1002, "highest bit"),
        (frame(0x88, b"\x03"), 1002, "code 03"),
        (frame(0x88, b"\x03\xe7"), 1002, "code 03e7"),
        (frame(0x88, b"\x03\xed"), 1002, "code 03ed"),
        (frame(0x88, b"\x13\x88"), 1002, "code 1388"),
        (frame(0x88, b"\x03\xe8\xff"), 1002, "not UTF-8"),
    ],
)
def test_what_may_not_come(stream: bytes, code: int, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem) as caught:
        events(FrameDecoder(), stream)
    assert caught.value.details["close_code"] == code


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_give_events_or_the_peer_s_error(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    with contextlib.suppress(RemoteProtocolError):
        for piece in pieces:
            events(decoder, piece)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (pong(b"hi"), wsproto.events.Pong(b"hi")),
        (closing(1002), wsproto.events.CloseConnection(1002, "")),
    ],
)
def test_control_frames_of_the_server(sent: bytes, read: wsproto.events.Event) -> None:
    peer = client()
    peer.receive_data(sent)
    assert list(peer.events()) == [read]
    assert (peer.state is ConnectionState.REMOTE_CLOSING) == (sent[0] == 0x88)
