"""Whatever a client sends, in whatever order, its connection answers or refuses; it never fails otherwise."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from tests.mqtt.conftest import HeldTopic, RememberingTransport

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
    topic, transport = HeldTopic(), RememberingTransport()
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
