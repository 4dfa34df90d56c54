"""Whatever a client sends, in whatever order, its connection answers or refuses; it never fails otherwise."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from trunkline.door import Transport
from trunkline.errors import RemoteProtocolError
from trunkline_mqtt.connection import MqttConnection
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    Auth,
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
    Unsubscribe,
    Will,
)
from trunkline_mqtt.properties import Properties
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.settings import MqttSettings


class CommittingTopic:
    """A topic with one partition that commits what is staged at once when told to."""

    def __init__(self) -> None:
        self.name = "mqtt"
        self.partitions = (self,)
        self.staged: list[tuple[Any, object]] = []

    def partition_for(self, key: bytes) -> CommittingTopic:
        return self

    def stage_record(
        self, timestamp: int, key: bytes, value: bytes, headers: bytes, receiver: Any = None, token: object = None
    ) -> None:
        assert timestamp > 0
        assert key
        self.staged.append((receiver, token))

    def stage_run(self, timestamp: int, keys: list[bytes], values: list[bytes], headers: bytes) -> bool:
        self.staged += [(None, None)] * len(values)
        return True

    def commit(self) -> None:
        for receiver, token in self.staged:
            if receiver is not None:
                receiver.append_done(token, 0)
        self.staged.clear()


class NullTransport(Transport):
    """Counts what is written."""

    def __init__(self) -> None:
        self.peer = "test:1"
        self.local = ("test", 2)
        self.idle_timeout_s = math.inf
        self.is_congested = False
        self.is_closing = False
        self.written_bytes = 0

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)

    def established(self) -> None:
        pass

    def close(self) -> None:
        self.is_closing = True

    def abort(self) -> None:
        self.is_closing = True


IDS = st.integers(1, 3)
TOPICS = st.sampled_from(["a", "a/b", "$SYS/a"])
FILTERS = st.sampled_from(["a", "a/+", "#", "$share/g/a", "/" * 200])
PROPERTIES = st.builds(
    Properties,
    topic_alias=st.none() | st.integers(1, 40),
    message_expiry_s=st.none() | st.just(0),
    payload_format=st.none() | st.just(1),
    subscription_identifiers=st.sampled_from([(), (), (1,)]),
    user=st.just((("mqtt.qos", "1"),)),
)
SAID: st.SearchStrategy[Packet | bytes] = st.one_of(
    st.builds(Connect, st.sampled_from(["", "c", "x" * 2000]), st.booleans(), st.integers(0, 9)),
    st.builds(Connect, st.just("c"), will=st.builds(Will, TOPICS, st.binary(max_size=3), st.integers(0, 2))),
    st.builds(Publish, TOPICS, st.binary(max_size=9)),
    st.builds(Publish, TOPICS, st.binary(max_size=9), st.integers(1, 2), st.booleans(), packet_id=IDS),
    st.builds(Publish, st.just("a"), st.just(b""), properties=PROPERTIES),
    st.builds(Subscribe, IDS, st.lists(st.tuples(FILTERS, st.integers(0, 2)), min_size=1, max_size=3).map(tuple)),
    st.builds(Unsubscribe, IDS, st.lists(FILTERS, min_size=1, max_size=3).map(tuple)),
    st.builds(Puback, IDS),
    st.builds(Pubrel, IDS),
    st.builds(Pubrec, IDS, st.sampled_from([0, 0x80])),
    st.builds(Pubcomp, IDS),
    st.just(Auth()),
    st.just(Pingreq()),
    st.just(Disconnect()),
    st.just(Suback(1, ())),
    st.binary(max_size=20),
)


@given(st.sampled_from([0, 3, 4, 5]), st.lists(SAID, max_size=12), st.lists(st.integers(1, 30), max_size=20))
def test_a_connection_answers_or_refuses(level: int, said: list[Packet | bytes], cuts: list[int]) -> None:
    topic, transport = CommittingTopic(), NullTransport()
    server = MqttServer(MqttSettings(), topic, (), now_ms=lambda: 1, new_client_id=lambda: "made-up")  # type: ignore[arg-type]
    connection = MqttConnection(server, transport)
    greeting: list[Packet | bytes] = [Connect("c", protocol_level=level)] if level else []
    data = b"".join(part if isinstance(part, bytes) else encode(part, level or 4) for part in greeting + said)
    error = None
    try:
        for cut in [*cuts, len(data)]:
            if data and not transport.is_closing:
                connection.receive_data(data[:cut] or data)
                data = data[cut:]
                topic.commit()
    except RemoteProtocolError as refusal:
        error = refusal
    topic.commit()
    connection.closed(error)

    assert not server.clients
    assert connection._next_answer is None
