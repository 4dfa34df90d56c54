"""MQTT over WebSocket (MQTT 5.0, 6), with and without TLS. wsproto and paho are the other side."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import wsproto
import wsproto.events as ws
from paho.mqtt.enums import MQTTProtocolVersion
from tests.mqtt.conftest import WAIT_S
from tests.mqtt.test_clients import VERSIONS, Paho

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, Limits, TlsConfig, TlsFiles
from trunkline.errors import ConfigurationError, PluginError
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import (
    MQTT_3_1_1,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)

pytestmark = pytest.mark.trio

LISTEN = {"mqtt-ws": "127.0.0.1:0"}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    config = BrokerConfig(limits=Limits(max_outbound_bytes=64 * 1024))
    async with open_broker(tmp_path, store="memory", listen={**LISTEN, "mqtt": "127.0.0.1:0"}, config=config) as opened:
        yield opened


class WebClient:
    """MQTT packets in WebSocket frames, as the test wants them cut, over a real socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.socket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self._decoder = Decoder()
        self._decoder.protocol_level = MQTT_3_1_1

    async def send(self, *events: ws.Event) -> None:
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(b"".join([self.socket.send(event) for event in events]))

    async def say(self, *packets: Packet) -> None:
        """A frame for each packet, in one write."""
        await self.send(*[ws.BytesMessage(encode(packet)) for packet in packets])

    async def open(self) -> None:
        await self.send(ws.Request(host="localhost", target="/mqtt", subprotocols=["mqtt"]))
        accepted = await self._next_event()
        assert isinstance(accepted, ws.AcceptConnection)
        assert accepted.subprotocol == "mqtt"

    async def _next_event(self) -> ws.Event | None:
        """None once the connection has ended."""
        with trio.fail_after(WAIT_S):
            while (event := next(self.socket.events(), None)) is None:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    return None
                if not data:
                    return None
                self.socket.receive_data(bytes(data))
            return event

    async def receive(self) -> Packet | None:
        """The next packet; None once the connection has ended."""
        while (packet := self._decoder.next_event()) is None:
            event = await self._next_event()
            if isinstance(event, ws.BytesMessage):
                self._decoder.receive_data(bytes(event.data))
            elif isinstance(event, ws.Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, ws.CloseConnection):
                self.close_code = event.code
            elif event is None:
                return None
        return packet

    async def until_closed(self) -> list[Packet]:
        found = []
        while (packet := await self.receive()) is not None:
            found.append(packet)
        return found


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[WebClient]:
    async with await trio.open_tcp_stream(*broker.addresses["mqtt-ws"]) as stream:
        client = WebClient(stream)
        await client.open()
        yield client


@pytest.fixture
async def connected(client: WebClient) -> WebClient:
    await client.say(Connect("web"))
    assert await client.receive() == Connack()
    return client


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_packets_and_frames_need_not_agree(client: WebClient, size: int) -> None:
    """[MQTT-6.0.0-2]: several packets in a frame, and packets over several frames, fragmented or not."""
    stream = b"".join(
        encode(packet)
        for packet in (
            Connect("web"),
            Subscribe(1, (Subscription("t", 1),)),
            Publish("t", b"x" * 3000, 1, packet_id=2),
            Pingreq(),
        )
    )
    cuts = [stream[at : at + size] for at in range(0, len(stream), size)]
    await client.send(
        *[ws.BytesMessage(cut, message_finished=at % 3 == 2 or cut is cuts[-1]) for at, cut in enumerate(cuts)]
    )

    got = [await client.receive() for _ in range(5)]
    assert got[:2] == [Connack(), Suback(1, (1,))]
    assert {type(packet) for packet in got[2:]} == {Publish, Puback, Pingresp}


async def test_packets_right_behind_the_request(broker: Broker) -> None:
    async with await trio.open_tcp_stream(*broker.addresses["mqtt-ws"]) as stream:
        client = WebClient(stream)
        hello = client.socket.send(ws.Request(host="localhost", target="/mqtt", subprotocols=["mqtt"]))
        payload = encode(Connect("eager"))
        await stream.send_all(hello + b"\x82" + bytes((0x80 | len(payload),)) + bytes(4) + payload)
        assert await client.receive() == Connack()


async def test_a_ping_is_answered_with_its_payload(connected: WebClient) -> None:
    await connected.send(ws.Ping(b"1"), ws.BytesMessage(encode(Pingreq())), ws.Ping(b"2"))
    assert await connected.receive() == Pingresp()
    await connected.say(Pingreq())
    assert await connected.receive() == Pingresp()
    assert connected.pongs == [b"1", b"2"]


async def test_text_ends_the_connection(connected: WebClient) -> None:
    """[MQTT-6.0.0-1]; what came before it counts."""
    await connected.send(ws.BytesMessage(encode(Pingreq())), ws.TextMessage("hello"))
    assert await connected.until_closed() == [Pingresp()]
    assert connected.close_code == 1003


async def test_a_frame_that_breaks_the_rules_ends_the_connection(connected: WebClient) -> None:
    await connected.stream.send_all(b"\x82\x02\xc0\x00")  # PINGREQ, not masked
    assert await connected.until_closed() == []
    assert connected.close_code == 1002


async def test_a_packet_that_breaks_the_rules_ends_the_connection(client: WebClient) -> None:
    await client.say(Pingreq())
    assert await client.until_closed() == []
    assert client.close_code == 1002


async def test_disconnecting(connected: WebClient) -> None:
    await connected.say(Disconnect())
    assert await connected.until_closed() == []
    assert connected.close_code == 1000


async def test_closing_the_websocket_without_disconnecting_publishes_the_will(broker: Broker) -> None:
    async with await trio.open_tcp_stream(*broker.addresses["mqtt-ws"]) as stream:
        client = WebClient(stream)
        await client.open()
        await client.say(Connect("mortal", will=Will("wills/mortal", b"gone", 1, False)))
        assert await client.receive() == Connack()
        await client.send(ws.CloseConnection(4000))
        assert await client.until_closed() == []
        assert client.close_code == 4000
    with trio.fail_after(WAIT_S):
        async for record in broker.read("mqtt"):
            assert (record.key, record.value) == (b"wills/mortal", b"gone")
            break


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n", b"404"), (encode(Connect("bare")) + b"\r\n\r\n", b"400")],
)
async def test_what_is_no_websocket_is_told_so_and_closed(broker: Broker, request_: bytes, status: bytes) -> None:
    async with await trio.open_tcp_stream(*broker.addresses["mqtt-ws"]) as stream:
        await stream.send_all(request_)
        with trio.fail_after(WAIT_S):
            answer = b"".join([bytes(data) async for data in stream])
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_a_request_that_is_not_completed_meets_the_deadline(tmp_path: Path) -> None:
    config = BrokerConfig(limits=Limits(handshake_timeout_s=0.1))
    async with (
        open_broker(tmp_path, store="memory", listen=LISTEN, config=config) as broker,
        await trio.open_tcp_stream(*broker.addresses["mqtt-ws"]) as stream,
    ):
        await stream.send_all(b"GET /mqtt HTTP/1.1\r\nHost: a\r\n")
        with trio.fail_after(WAIT_S):
            assert await stream.receive_some() == b""


async def test_a_slow_reader_gets_everything_later(broker: Broker, connected: WebClient) -> None:
    """Back-pressure of the transport below reaches the session, which reads the log again when there is room."""
    await connected.say(Subscribe(1, (Subscription("flood/#", 0),)))
    assert await connected.receive() == Suback(1, (0,))
    for number in range(300):
        await broker.publish("mqtt", bytes(20_000), key=b"flood/%d" % number)
    topics: list[str] = []
    while len(topics) < 300:
        packet = await connected.receive()
        assert isinstance(packet, Publish)
        topics.append(packet.topic)
    assert topics == [f"flood/{number}" for number in range(300)]


@contextmanager
def web_paho(
    port: int, client_id: str, prepare: Callable[[Any], Any] = lambda client: None, **more: Any
) -> Iterator[Paho]:
    client = Paho(port, client_id, transport="websockets", prepare=prepare, **more)
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_paho_over_websocket_with_paho_over_tcp(broker: Broker, version: MQTTProtocolVersion) -> None:
    ports = broker.addresses["mqtt-ws"][1], broker.addresses["mqtt"][1]

    def scenario() -> None:
        with web_paho(ports[0], "web", protocol=version) as web:
            bare = Paho(ports[1], "bare", protocol=version)
            for near, far in ((web, bare), (bare, web)):
                near.client.subscribe(f"to/{near.client._client_id.decode()}/#", 1)
                near.subscribed.get(timeout=WAIT_S)
                topic = f"to/{near.client._client_id.decode()}/x"
                for size in (0, 10, 200, 100_000):
                    far.publish(topic, bytes(size), 1)
                assert near.take(4) == [(topic, bytes(size), 1) for size in (0, 10, 200, 100_000)]
            bare.close()

    with trio.fail_after(3 * WAIT_S):
        await trio.to_thread.run_sync(scenario)


async def test_paho_over_websocket_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "broker.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = TlsConfig(door={"mqtt-ws": TlsFiles(certificate=str(tmp_path / "broker.pem"))})

    def scenario(port: int) -> None:
        with web_paho(port, "web", prepare=lambda client: client.tls_set_context(context)) as web:
            web.subscribe(("t", 1))
            web.publish("t", bytes(200_000), 1)
            assert web.take(1) == [("t", bytes(200_000), 1)]

    async with open_broker(tmp_path, store="memory", listen=LISTEN, config=BrokerConfig(tls=tls)) as broker:
        with trio.fail_after(3 * WAIT_S):
            await trio.to_thread.run_sync(scenario, broker.addresses["mqtt-ws"][1])


async def test_settings_in_the_wrong_table_are_refused(tmp_path: Path) -> None:
    config = BrokerConfig(door={"mqtt-ws": {"topic": "elsewhere"}})
    with pytest.raises(ConfigurationError, match=r"^door\.mqtt-ws: .* its settings are in \[door\.mqtt\]"):
        async with open_broker(tmp_path, store="memory", listen=LISTEN, config=config):
            pass


async def test_a_door_without_websocket_says_so() -> None:
    with pytest.raises(PluginError, match=r"listen\.native-ws: door 'native' cannot be reached over WebSocket"):
        async with open_broker(store="memory", listen={"native-ws": "127.0.0.1:0"}):
            pass


async def test_a_listener_for_tls_needs_a_certificate() -> None:
    reason = r"listen\.mqtt-ws-tls: it needs a certificate: set tls\.door\.mqtt-ws-tls\.certificate or tls\.certificate"
    with pytest.raises(ConfigurationError, match=reason):
        async with open_broker(store="memory", listen=LISTEN | {"mqtt-ws-tls": "127.0.0.1:0"}):
            pass
