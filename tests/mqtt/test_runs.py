"""Runs of PUBLISH packets with QoS 0 go through the broker together: the same comes out as for each by itself."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import PartitionBench
from tests.core.test_live import LiveBench
from tests.mqtt.conftest import RememberingTransport

from trunkline.errors import RemoteProtocolError
from trunkline.records import BatchBuilder, encode_headers
from trunkline.testing.scripted_store import ScriptedStore
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5,
    Connect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    PublishRun,
    Subscribe,
    Subscription,
)
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt.routes import Route
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings, RouteSettings

# -- the decoder -----------------------------------------------------------------------------------

TOPICS = st.sampled_from(["a", "b", "a/b", "é"])
SIZES = st.sampled_from([0, 1, 2, 100, 119, 120, 121, 122, 123, 124, 125, 126, 127, 300, 16_379, 16_380, 16_400])
PLAIN = st.builds(lambda topic, size: Publish(topic, b"x" * size), TOPICS, SIZES)
OTHERS = st.one_of(
    st.builds(Publish, TOPICS, st.just(b"r"), retain=st.just(True)),
    st.builds(Publish, TOPICS, st.just(b"1"), st.just(1), packet_id=st.integers(1, 9)),
    st.just(Pingreq()),
    st.just(Puback(3)),
)


def events(decoder: Decoder, data: bytes, step: int) -> list[Packet]:
    found = []
    for at in range(0, len(data), step):
        decoder.receive_data(data[at : at + step])
        while decoder.has_more and (packet := decoder.next_event()) is not None:
            found.append(packet)
    return found


@given(
    packets=st.lists(st.one_of(PLAIN, PLAIN, PLAIN, OTHERS), max_size=12),
    level=st.sampled_from([MQTT_3_1_1, MQTT_5]),
    step=st.sampled_from([1 << 20, 1000, 130, 7]),
)
@settings(max_examples=150, deadline=None)
def test_a_run_is_its_packets_and_their_bytes(packets: list[Packet], level: int, step: int) -> None:
    data = b"".join(encode(packet, level) for packet in packets)
    decoder = Decoder()
    decoder.protocol_level, decoder.gives_runs = level, True

    found: list[Packet] = []
    for packet in events(decoder, data, step):
        if type(packet) is PublishRun:
            topics = packet.topics if len(packet.topics) > 1 else packet.topics * len(packet.payloads)
            singly = [Publish(*said) for said in zip(topics, packet.payloads, strict=True)]
            encoded = [encode(one, level) for one in singly]
            assert packet.data == b"".join(encoded)
            assert packet.ends == [*accumulate(map(len, encoded))]
            found += singly
        else:
            found.append(packet)

    assert found == packets
    assert not decoder.held_bytes


def test_packets_of_one_topic_that_come_together_are_one_run() -> None:
    decoder = Decoder()
    decoder.gives_runs = True
    packets = [Publish("t", b"x" * size) for size in (1, 2, 200, 20_000)]

    decoder.receive_data(b"".join(map(encode, [*packets, packets[0], Publish("u", b""), Publish("u", b"")])))

    runs = []
    while (packet := decoder.next_event()) is not None:
        runs.append((packet.topics, len(packet.payloads)) if type(packet) is PublishRun else packet)
    assert runs == [
        (["t"], 3),
        packets[3],
        (["t"], 1),
        (["u"], 2),
    ]  # the length of 20,000 has three bytes; u was not known

    decoder.receive_data(
        b"".join(map(encode, [Publish("t", b"1"), Publish("t", b"2"), Publish("u", b"3"), packets[0]]))
    )
    run = decoder.next_event()
    assert type(run) is PublishRun
    assert (run.topics, run.payloads) == (["t", "t", "u", "t"], [b"1", b"2", b"3", b"x"])
    assert decoder.next_event() is None


@pytest.mark.parametrize(
    ("level", "data"),
    [
        (MQTT_3_1_1, b"\x30\x85\x00\x00\x01txx"),  # a length written longer than needed, which only 5.0 forbids
        (MQTT_5, b"\x30\x06\x00\x01t\x80\x00x"),  # and so that of no properties
    ],
)
def test_bytes_that_the_encoder_would_not_write_are_not_passed_on(level: int, data: bytes) -> None:
    decoder = Decoder()
    decoder.protocol_level, decoder.gives_runs = level, True
    decoder.receive_data(data * 2 + encode(Publish("t", b"x"), level))
    found = []
    try:
        while (packet := decoder.next_event()) is not None:
            found.append(packet)
    except RemoteProtocolError:
        assert level == MQTT_5
    else:
        assert [type(packet) for packet in found] == [Publish, Publish, PublishRun]


def test_a_packet_over_the_limit_is_refused_in_a_run_too() -> None:
    decoder = Decoder(200)
    decoder.gives_runs = True
    decoder.receive_data(encode(Publish("t", b"x")) * 2 + encode(Publish("t", b"x" * 300)))

    run = decoder.next_event()
    assert type(run) is PublishRun
    assert run.payloads == [b"x", b"x"]
    with pytest.raises(RemoteProtocolError, match="the limit here is 200"):
        decoder.next_event()


# -- records ---------------------------------------------------------------------------------------


@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.lists(SIZES, min_size=1, max_size=70)), min_size=1, max_size=4),
    key_sizes=st.sampled_from([[0, 1], [1], [63, 64], [5, 9000]]),
    headers=st.sampled_from([(), (("mqtt.client", b"c" * 60), ("mqtt.qos", b"0"))]),
)
@settings(max_examples=60, deadline=None)
def test_a_run_of_records_is_encoded_as_each_of_them(
    runs: list[tuple[int, list[int]]], key_sizes: list[int], headers: tuple[tuple[str, bytes], ...]
) -> None:
    together, singly, block = BatchBuilder(), BatchBuilder(), encode_headers(headers)
    for timestamp, sizes in runs:
        keys = [b"k" * key_sizes[at % len(key_sizes)] for at in range(len(sizes))]
        together.append_run(timestamp, keys, [b"v" * size for size in sizes], block)
        for key, size in zip(keys, sizes, strict=True):
            singly.append(timestamp, key, b"v" * size, block)

    assert together.build() == singly.build()
    assert (together.count, together.size_bytes, together.max_timestamp) == (
        singly.count,
        singly.size_bytes,
        singly.max_timestamp,
    )
    assert together.size_bytes == len(together.build())


def bench(**topic_settings: str) -> PartitionBench:
    return PartitionBench(ScriptedStore(), topic_settings, lambda: 5000)


def test_a_run_that_does_not_fit_is_left_to_be_staged_one_by_one() -> None:
    opened = bench(**{"max.message.bytes": "1000"})
    assert opened.partition.stage_run(1, [b"k"] * 2, [b"1", b"2"], b"\0")
    assert not opened.partition.stage_run(1, [b"k"] * 20, [b"v" * 100] * 20, b"\0")
    assert opened.partition.staged_end_offset == 2
    opened.commit()
    assert [(record.offset, record.value) for record in opened.stored] == [(0, b"1"), (1, b"2")]


def test_where_a_gate_looks_at_each_record_there_are_no_runs() -> None:
    class Gate:
        def check_record(self, size_bytes: int, key: bytes | None, headers_block: bytes) -> None:
            raise AssertionError("nobody is asked of a run")

        def check_batch(self, header: Any, batch: Any) -> None: ...

    opened = bench()
    opened.partition.gates.append(Gate())
    assert not opened.partition.stage_run(1, [b"k"] * 2, [b"1", b"2"], b"\0")


# -- the whole way ---------------------------------------------------------------------------------

SUBSCRIBERS: list[tuple[int, list[tuple[Subscription, int]], dict[str, Any]]] = [
    (MQTT_3_1_1, [(Subscription("#", 0), 0)], {}),
    (MQTT_3_1_1, [(Subscription("#", 1), 0), (Subscription("a", 0), 0)], {}),
    (MQTT_3_1_1, [(Subscription("b", 0), 0)], {}),
    (MQTT_5, [(Subscription("#", 0), 0)], {}),
    (MQTT_5, [(Subscription("#", 1), 0), (Subscription("a/+", 2), 0)], {}),
    (MQTT_5, [(Subscription("#", 1), 7), (Subscription("a", 0), 8)], {}),
    (MQTT_5, [(Subscription("#", 0, no_local=True), 0)], {}),
    (MQTT_5, [(Subscription("#", 0, retain_as_published=True), 0)], {}),
    (MQTT_5, [(Subscription("#", 0), 0)], {"topic_alias_maximum": 2}),
    (MQTT_5, [(Subscription("#", 0), 0)], {"maximum_packet_size": 60}),
]
"""Version, filters with their subscription identifiers, properties of CONNECT."""


class Room:
    """A server in memory, a publisher and everybody in SUBSCRIBERS; what the disk does the test says."""

    def __init__(self, level: int, *, gives_runs: bool, logs_all: bool = True) -> None:
        self.live = LiveBench(bench())
        rules = [RouteSettings(filter="#")]
        if not logs_all:
            rules.insert(0, RouteSettings(filter="b", log="qos>0"))
        self.server = MqttServer(
            MqttSettings(),
            self.live.bench.topic,
            (self.live.tail,),
            now_ms=lambda: 5000,
            new_client_id=lambda: "new",
            routes=[Route(rule, "orders") for rule in rules],
        )
        self.level = level
        self.heard: list[RememberingTransport] = []
        self.connections: list[MqttConnection] = []
        for topic in ("a", "b"):
            self.server.topic_names[topic.encode()]  # known, so that runs may have both
        for number, (version, filters, properties) in enumerate(SUBSCRIBERS):
            connection = self._connect(f"s{number}", version, self._transport(), **properties)
            for packet_id, (subscription, identifier) in enumerate(filters, 1):
                wanted = Properties(subscription_identifiers=(identifier,)) if identifier else NO_PROPERTIES
                connection.receive_data(encode(Subscribe(packet_id, (subscription,), wanted), version))
            self.heard[-1].written.clear()
        self.publisher = self._connect("p", level, RememberingTransport())
        self.publisher._decoder.gives_runs = gives_runs
        if level == MQTT_5:
            self.publish([Publish("a", b"      ", properties=SAID["s"])])
            self.commit()
            for transport in self.heard:
                transport.written.clear()

    def _transport(self) -> RememberingTransport:
        self.heard.append(RememberingTransport())
        return self.heard[-1]

    def _connect(
        self, client_id: str, level: int, transport: RememberingTransport, **properties: Any
    ) -> MqttConnection:
        connection = MqttConnection(self.server, transport)
        wanted = Properties(**properties) if properties else NO_PROPERTIES
        connection.receive_data(encode(Connect(client_id, protocol_level=level, properties=wanted)))
        self.connections.append(connection)
        return connection

    def publish(self, packets: list[Publish]) -> None:
        self.publisher.receive_data(b"".join(encode(packet, self.level) for packet in packets))

    def commit(self) -> None:
        self.live.bench.commit()
        self.live.settle()


def numbered(kinds: list[tuple[str, int]], level: int, start: int) -> list[Publish]:
    """Messages whose payloads begin with their number."""
    found = []
    for number, (kind, size) in enumerate(kinds, start):
        payload = b"%06d" % number + b"x" * size
        topic = kind[0]
        if kind.endswith("1"):
            found.append(Publish(topic, payload, 1, packet_id=number + 1))
        elif kind.endswith("r"):
            found.append(Publish(topic, payload, retain=True))
        elif level == MQTT_5 and (said := SAID.get(kind[1:])) is not None:
            found.append(Publish("" if kind == "a-" else topic, payload, properties=said))
        elif level == MQTT_5 and kind.endswith("u"):
            found.append(Publish(topic, payload, properties=Properties(user=(("trace", f"{number}"), ("mqtt.x", "é")))))
        else:
            found.append(Publish(topic, payload))
    return found


SAID = {
    "p": Properties(content_type="text", response_topic="b", correlation=b"\0", user=(("x", "1"), ("x", "2"))),
    "f": Properties(payload_format=1),
    "x": Properties(message_expiry_s=60, content_type="text"),
    "s": Properties(topic_alias=1),
    "-": Properties(topic_alias=1),  # which stands for "a", as "as" has said
}

KINDS = st.tuples(
    st.sampled_from(["a", "a", "a", "b", "b", "a1", "ar", "ap", "ap", "bp", "af", "ax", "au", "as", "a-", "a-"]),
    st.sampled_from([0, 0, 1, 50, 120, 130]),
)
READS = st.lists(st.lists(KINDS, min_size=1, max_size=8), min_size=1, max_size=4)


@given(reads=READS, level=st.sampled_from([MQTT_3_1_1, MQTT_5]), commits=st.integers(0, 15), logs_all=st.booleans())
@settings(max_examples=150, deadline=None)
def test_everybody_gets_the_same_bytes_and_the_log_too(
    reads: list[list[tuple[str, int]]], level: int, commits: int, logs_all: bool
) -> None:
    together, singly = (Room(level, gives_runs=gives_runs, logs_all=logs_all) for gives_runs in (True, False))
    for room in (together, singly):
        number = 0
        for at, kinds in enumerate(reads):
            room.publish(numbered(kinds, level, number))
            number += len(kinds)
            if commits >> at & 1:
                room.commit()
        room.commit()

    for (version, _, _), ours, theirs in zip(SUBSCRIBERS, together.heard, singly.heard, strict=True):
        assert b"".join(ours.written) == b"".join(theirs.written)
        assert ours.take(version) == theirs.take(version)
    assert together.live.bench.stored == singly.live.bench.stored
    assert together.server.statistics() == singly.server.statistics()


@given(
    reads=READS,
    level=st.sampled_from([MQTT_3_1_1, MQTT_5]),
    congested=st.integers(0, 15),
    commits=st.integers(0, 15),
)
@settings(max_examples=60, deadline=None)
def test_who_is_slow_now_and_then_gets_everything_once_and_in_order(
    reads: list[list[tuple[str, int]]], level: int, congested: int, commits: int
) -> None:
    room = Room(level, gives_runs=True)
    number = 0
    for at, kinds in enumerate(reads):
        for transport in room.heard:
            transport.is_congested = bool(congested >> at & 1)
        if not congested >> at & 1:
            for connection in room.connections:
                connection.writable()
        room.publish(numbered(kinds, level, number))
        number += len(kinds)
        if commits >> at & 1:
            room.commit()
    for transport in room.heard:
        transport.is_congested = False
    room.commit()
    for connection in room.connections:
        connection.writable()
    room.live.settle()

    for (version, filters, properties), transport in zip(SUBSCRIBERS, room.heard, strict=True):
        got = [int(packet.payload[:6]) for packet in transport.take(version) if isinstance(packet, Publish)]
        if "maximum_packet_size" in properties or (len(filters) == 1 and filters[0][0].topic_filter == "b"):
            assert got == sorted(set(got))
        else:
            assert got == list(range(number))


def test_a_run_goes_on_to_a_subscriber_of_the_same_version_as_it_came() -> None:
    room = Room(MQTT_3_1_1, gives_runs=True)
    data = b"".join(encode(Publish("a", b"%d" % number)) for number in range(10))
    room.publisher.receive_data(data)

    assert room.heard[0].written == [data]
    assert len(room.heard[3].written) == 1


def test_properties_are_passed_on_in_the_order_in_which_they_came() -> None:
    room = Room(MQTT_5, gives_runs=True)
    one = b"\x30\x14\x00\x01a\x0e\x26\x00\x01x\x00\x01y\x03\x00\x04text.."  # the encoder begins with the content type
    room.publisher.receive_data(one * 3)

    assert room.heard[3].written == [one * 3]
    assert room.heard[0].take() == [Publish("a", b"..")] * 3


def test_a_message_that_is_too_large_for_the_log_ends_the_run_there(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(MQTT_3_1_1, gives_runs=True)
    partition, subscriber = room.live.bench.partition, room.heard[0]
    partition.topic.settings = bench(**{"max.message.bytes": "200"}).topic.settings
    room.publish([Publish("a", b"1"), Publish("a", b"2" * 120), Publish("a", b"3")])

    assert [packet.payload for packet in subscriber.take() if isinstance(packet, Publish)] == [b"1"]
    assert room.publisher._transport.is_closing
    assert "orders/0" in caplog.text
