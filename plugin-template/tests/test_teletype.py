"""The door keeps the promises of every door, and its lines mean what the codec's drawing says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import hypothesis.strategies as st
import pytest
from hypothesis import given
from trunkline.errors import RemoteProtocolError
from trunkline.plugins import PluginHost
from trunkline.testing import Peer, ProtocolCompliance, Refused
from trunkline.testing.background import BackgroundBroker

import trunkline_teletype
from trunkline_teletype.codec import (
    Create,
    LineDecoder,
    Ping,
    Publish,
    Quit,
    Request,
    Subscribe,
    encode_publish,
)


class TestTeletypeDoor(ProtocolCompliance):
    door = "teletype"

    @pytest.fixture
    def plugin(self) -> object:
        return trunkline_teletype

    def hello(self, peer: Peer) -> None:
        peer.send(b"PING\n")
        receive_ok(peer)

    def send_record(self, peer: Peer, key: bytes, value: bytes) -> None:
        peer.send(encode_publish(self.topic, key, value))

    def receive_acknowledgement(self, peer: Peer) -> None:
        receive_ok(peer)

    def subscribe(self, peer: Peer) -> None:
        peer.send(f"SUB {self.topic}\n".encode())
        receive_ok(peer)

    def receive_records(self, peer: Peer) -> Sequence[tuple[bytes | None, bytes | None]]:
        word, _, _, _, key, *value = peer.receive_until(b"\n").removesuffix(b"\n").split(b" ", 5)
        assert word == b"MSG"
        return [(None if key == b"-" else unquote_to_bytes(key), unquote_to_bytes(value[0]) if value else None)]

    def mistake(self) -> bytes:
        return b"SHOUT loudly\n"

    def oversized(self) -> bytes:
        return b"PUB compliance key "


def receive_ok(peer: Peer) -> None:
    while (line := peer.receive_until(b"\n")).startswith(b"BYE"):
        """The answer is still to come."""
    if not line.startswith(b"OK"):
        raise Refused(line)


REQUESTS: list[tuple[bytes, Request]] = [
    (b"PUB orders alice 4 apples\n", Publish("orders", b"alice", b"4 apples")),
    (b"PUB orders alice \r\n", Publish("orders", b"alice", b"")),
    (b"PUB orders alice\n", Publish("orders", b"alice", None)),
    (b"PUB orders - %00%0A%25\n", Publish("orders", None, b"\x00\n%")),
    (b"PUB orders %2D%20 x\n", Publish("orders", b"- ", b"x")),
    (b"SUB orders\n", Subscribe("orders", from_start=False)),
    (b"SUB orders earliest\n", Subscribe("orders", from_start=True)),
    (b"CREATE orders\n", Create("orders")),
    (b"PING\r\n", Ping()),
    (b"QUIT\n", Quit()),
]


def decode(*pieces: bytes) -> list[Request]:
    decoder = LineDecoder(1000)
    found = []
    for piece in pieces:
        decoder.receive_data(piece)
        while (request := decoder.next_event()) is not None:
            found.append(request)
    return found


@pytest.mark.parametrize(("line", "request_"), REQUESTS, ids=lambda value: str(value)[:30])
def test_lines_are_requests_wherever_they_are_cut(line: bytes, request_: Request) -> None:
    for cut in range(len(line)):
        assert decode(line[:cut], line[cut:]) == [request_]


@given(st.none() | st.binary(), st.none() | st.binary())
def test_any_key_and_value_survives(key: bytes | None, value: bytes | None) -> None:
    assert decode(encode_publish("orders", key, value)) == [Publish("orders", key, value)]


@given(st.lists(st.binary(max_size=30) | st.sampled_from([line for line, _ in REQUESTS])))
def test_anything_else_is_refused(pieces: list[bytes]) -> None:
    with suppress(RemoteProtocolError):
        decode(*pieces, b"\n")


@pytest.mark.parametrize("line", [b"\n", b"pub a b c\n", b"SUB a latest\n", b"PING now\n", b"PUB a\n", b"x" * 1001])
def test_these_are_no_requests(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(line)


@pytest.fixture
def broker(trunkline_broker_factory: Callable[..., BackgroundBroker]) -> BackgroundBroker:
    host = PluginHost()
    host.add("teletype", trunkline_teletype)
    return trunkline_broker_factory(listen={"teletype": "127.0.0.1:0"}, plugins=host)


def test_a_conversation(broker: BackgroundBroker) -> None:
    with Peer(broker.addresses["teletype"]) as client:
        for request, answer in [
            (b"SUB orders", b"ERR UnknownTopic"),
            (b"CREATE orders", b"OK\n"),
            (b"CREATE orders", b"ERR TopicExists"),
            (b"PUB orders alice 4 apples", b"OK 0 0\n"),
            (b"SUB orders earliest", b"OK\nMSG orders 0 0 alice 4 apples\n"),
            (b"QUIT", b"OK\n"),
        ]:
            client.send(request + b"\n")
            for line in answer.splitlines():
                assert client.receive_until(b"\n").startswith(line)
        client.wait_ended()
    assert [record.value for record in broker.read("orders")] == [b"4 apples"]


def test_a_deleted_topic_ends_its_subscribers(broker: BackgroundBroker) -> None:
    broker.create_topic("orders")
    with Peer(broker.addresses["teletype"]) as client:
        client.send(b"SUB orders\n")
        receive_ok(client)
        broker.run(broker.broker.delete_topic, "orders")
        assert client.receive_until(b"\n").startswith(b"BYE")
        client.wait_ended()
