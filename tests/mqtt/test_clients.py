"""Unmodified clients: paho-mqtt, and Mosquitto's command line programs."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytest
import trio
from paho.mqtt import properties as paho_properties
from paho.mqtt import subscribeoptions as paho_options
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from trunkline.broker import Broker

Properties: Any = paho_properties.Properties  # paho's modules for MQTT 5.0 have no types
SubscribeOptions: Any = paho_options.SubscribeOptions
VERSIONS = [MQTTProtocolVersion.MQTTv31, MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5]

pytestmark = pytest.mark.trio

WAIT_S = 20.0


class Paho:
    """A paho client whose callbacks fill queues; its network loop runs in a thread of paho's own."""

    def __init__(
        self,
        port: int,
        client_id: str,
        *,
        keepalive: int = 60,
        prepare: Callable[[Client], Any] | None = None,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        transport: Literal["tcp", "websockets"] = "tcp",
        **options: Any,
    ):
        self.messages: queue.Queue[Any] = queue.Queue()  # of MQTTMessage, whose properties have no types
        self.connected: queue.Queue[str] = queue.Queue()
        self.disconnected: queue.Queue[str] = queue.Queue()
        self.subscribed: queue.Queue[list[int]] = queue.Queue()
        self.greetings: queue.Queue[Any] = queue.Queue()
        self.client = client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=protocol, transport=transport)
        client.on_message = lambda _client, _userdata, message: self.messages.put(message)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda _c, _u, _flags, reason, _properties: self.disconnected.put(str(reason))
        client.on_subscribe = lambda _c, _u, _mid, codes, _properties: self.subscribed.put([c.value for c in codes])
        if prepare is not None:
            prepare(client)
        client.connect("127.0.0.1", port, keepalive, **options)
        client.loop_start()
        assert self.connected.get(timeout=WAIT_S) == "Success"

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self.greetings.put(properties)
        self.connected.put(str(reason))

    def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        self.client.subscribe(list(filters))
        return self.subscribed.get(timeout=WAIT_S)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Returns once a QoS 1 message is acknowledged, or a QoS 0 one is sent."""
        self.client.publish(topic, payload, qos).wait_for_publish(WAIT_S)

    def take(self, count: int) -> list[tuple[str, bytes, int]]:
        messages = [self.messages.get(timeout=WAIT_S) for _ in range(count)]
        return [(message.topic, bytes(message.payload), message.qos) for message in messages]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def paho(port: int, client_id: str = "", **options: Any) -> Iterator[Paho]:
    client = Paho(port, client_id, **options)
    try:
        yield client
    finally:
        client.close()


async def in_thread(broker: Broker, scenario: Callable[[int], Any]) -> Any:
    """Run a blocking scenario, which gets the port, beside the broker."""
    with trio.fail_after(3 * WAIT_S):
        return await trio.to_thread.run_sync(scenario, broker.addresses["mqtt"][1])


@pytest.mark.parametrize(("published", "subscribed"), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)])
async def test_paho_both_ways(broker: Broker, published: int, subscribed: int) -> None:
    delivered = min(published, subscribed)

    def scenario(port: int) -> None:
        with paho(port, "subscriber") as subscriber, paho(port, "publisher") as publisher:
            assert subscriber.subscribe(("greetings/#", subscribed)) == [subscribed]
            for number in range(100):
                publisher.publish(f"greetings/{number}", b"hello %d" % number, published)
            assert subscriber.take(100) == [(f"greetings/{n}", b"hello %d" % n, delivered) for n in range(100)]

    await in_thread(broker, scenario)


@pytest.mark.parametrize("publishing", VERSIONS)
@pytest.mark.parametrize("subscribing", VERSIONS)
async def test_paho_of_every_version_with_every_other(
    broker: Broker, publishing: MQTTProtocolVersion, subscribing: MQTTProtocolVersion
) -> None:
    def scenario(port: int) -> None:
        with (
            paho(port, "subscriber", protocol=subscribing) as subscriber,
            paho(port, "publisher", protocol=publishing) as publisher,
        ):
            if subscribing == MQTTProtocolVersion.MQTTv5:
                subscriber.client.subscribe([("greetings/#", SubscribeOptions(qos=2))])
            else:
                subscriber.client.subscribe("greetings/#", 2)
            assert subscriber.subscribed.get(timeout=WAIT_S) == [2]
            for qos in (0, 1, 2):
                publisher.publish(f"greetings/{qos}", b"hello", qos)
            assert subscriber.take(3) == [(f"greetings/{qos}", b"hello", qos) for qos in (0, 1, 2)]

    await in_thread(broker, scenario)


def properties(kind: int, **values: Any) -> Any:
    found = Properties(kind)
    for name, value in values.items():
        setattr(found, name, value)
    return found


async def test_paho_of_version_5_asks_and_answers(broker: Broker) -> None:
    """Request and response, with all that a message can say."""
    said: dict[str, Any] = {
        "PayloadFormatIndicator": 1,
        "MessageExpiryInterval": 600,
        "ContentType": "text/plain",
        "ResponseTopic": "answers",
        "CorrelationData": b"\0\x01",
        "UserProperty": [("k", "1"), ("k", "2")],
    }

    def scenario(port: int) -> None:
        v5 = {"protocol": MQTTProtocolVersion.MQTTv5}
        with paho(port, "", **v5) as asker, paho(port, "answerer", **v5) as answerer:
            assert asker.greetings.get(timeout=WAIT_S).AssignedClientIdentifier.startswith("auto-")
            asker.client.subscribe("answers", options=SubscribeOptions(qos=1))
            identifier = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=77)
            answerer.client.subscribe("questions/+", options=SubscribeOptions(qos=1), properties=identifier)
            for client in (asker, answerer):
                assert client.subscribed.get(timeout=WAIT_S) == [1]
            asker.client.publish("questions/1", b"why", 1, properties=properties(PacketTypes.PUBLISH, **said))
            question = answerer.messages.get(timeout=WAIT_S)
            heard = question.properties
            assert {name: getattr(heard, name) for name in said} | {"MessageExpiryInterval": 600} == said
            assert heard.SubscriptionIdentifier == [77]
            answer = properties(PacketTypes.PUBLISH, CorrelationData=heard.CorrelationData)
            answerer.client.publish(heard.ResponseTopic, b"because", 1, properties=answer)
            reply = asker.messages.get(timeout=WAIT_S)
            assert (reply.payload, reply.properties.CorrelationData) == (b"because", b"\0\x01")

    await in_thread(broker, scenario)


async def test_paho_of_version_5_hears_why_it_was_taken_over(broker: Broker) -> None:
    def scenario(port: int) -> None:
        v5 = {"protocol": MQTTProtocolVersion.MQTTv5}
        stay_away = {"prepare": lambda client: client.reconnect_delay_set(60, 60), **v5}
        with paho(port, "same", **stay_away) as first, paho(port, "same", **v5):
            assert first.disconnected.get(timeout=WAIT_S) == "Session taken over"

    await in_thread(broker, scenario)


async def test_paho_of_version_5_sends_and_takes_topic_aliases(broker: Broker) -> None:
    def scenario(port: int) -> None:
        v5 = {"protocol": MQTTProtocolVersion.MQTTv5}
        aliases = properties(PacketTypes.CONNECT, TopicAliasMaximum=10)
        with paho(port, "s", properties=aliases, **v5) as subscriber, paho(port, "p", **v5) as publisher:
            subscriber.client.subscribe("long/topic", options=SubscribeOptions(qos=1))
            subscriber.subscribed.get(timeout=WAIT_S)
            for topic in ("long/topic", ""):
                alias = properties(PacketTypes.PUBLISH, TopicAlias=3)
                publisher.client.publish(topic, b"x", 1, properties=alias).wait_for_publish(WAIT_S)
            first, second = (subscriber.messages.get(timeout=WAIT_S) for _ in range(2))
            assert (first.topic, first.properties.TopicAlias) == ("long/topic", 1)
            assert (second.topic, second.properties.TopicAlias) == ("", 1)

    await in_thread(broker, scenario)


async def test_paho_wildcards(broker: Broker) -> None:
    def scenario(port: int) -> None:
        with paho(port) as subscriber, paho(port) as publisher:
            assert subscriber.subscribe(("+/temperature", 1), ("kitchen/#", 0)) == [1, 0]
            for topic in ("kitchen/temperature", "hall/temperature", "hall/light", "kitchen", "kitchen/a/b", "$SYS/x"):
                publisher.publish(topic, b"1", 1)
            assert [topic for topic, _, _ in subscriber.take(4)] == [
                "kitchen/temperature",
                "hall/temperature",
                "kitchen",
                "kitchen/a/b",
            ]
            assert subscriber.messages.empty()

    await in_thread(broker, scenario)


async def test_a_paho_message_is_in_the_log_once_it_is_acknowledged(broker: Broker) -> None:
    def scenario(port: int) -> None:
        with paho(port, "device") as publisher:
            publisher.publish("a/b", b"x", 1)

    await in_thread(broker, scenario)

    (record,) = [record async for record in broker.read("mqtt", follow=False)]
    assert (record.key, record.value, record.headers) == (
        b"a/b",
        b"x",
        (("mqtt.client", b"device"), ("mqtt.qos", b"1")),
    )


async def test_paho_receives_what_was_published_in_process(broker: Broker) -> None:
    subscribed = trio.Event()

    def scenario(port: int) -> list[tuple[str, bytes, int]]:
        with paho(port) as subscriber:
            subscriber.subscribe(("a/#", 1))
            trio.from_thread.run_sync(subscribed.set)
            return subscriber.take(1)

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish() -> None:
            await subscribed.wait()
            await broker.publish("mqtt", b"from within", key=b"a/b")

        assert await in_thread(broker, scenario) == [("a/b", b"from within", 1)]


async def test_the_will_of_a_paho_client_that_vanishes(broker: Broker) -> None:
    def scenario(port: int) -> None:
        with paho(port) as watcher:
            watcher.subscribe(("wills/#", 1))
            with paho(port, "c", prepare=lambda client: client.will_set("wills/c", b"gone", 1)) as client:
                sock = client.client.socket()
                assert sock is not None
                client.client.reconnect_delay_set(60, 60)
                client.client._sock_close()  # as if the cable were pulled
                assert watcher.take(1) == [("wills/c", b"gone", 1)]

    await in_thread(broker, scenario)


async def test_taking_over_a_paho_client(broker: Broker) -> None:
    def scenario(port: int) -> None:
        stay_away = {"prepare": lambda client: client.reconnect_delay_set(60, 60)}
        with paho(port, "same", **stay_away) as first, paho(port, "same") as second:
            first.disconnected.get(timeout=WAIT_S)
            second.subscribe(("t", 1))
            second.publish("t", b"mine", 1)
            assert second.take(1) == [("t", b"mine", 1)]

    await in_thread(broker, scenario)


async def test_mosquitto_pub_into_the_log(broker: Broker, mosquitto_pub: str) -> None:
    port = str(broker.addresses["mqtt"][1])
    with trio.fail_after(WAIT_S):
        for qos in ("0", "1", "2"):
            await trio.run_process([mosquitto_pub, "-p", port, "-i", "mosq", "-t", "a/b", "-m", qos, "-q", qos])

    records = [record async for record in broker.read("mqtt", follow=False)]
    assert [(record.key, record.value, record.headers) for record in records] == [
        (b"a/b", qos, (("mqtt.client", b"mosq"), ("mqtt.qos", qos))) for qos in (b"0", b"1", b"2")
    ]


@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_sub_receives(broker: Broker, mosquitto_pub: str, mosquitto_sub: str, qos: str) -> None:
    port = str(broker.addresses["mqtt"][1])
    # stdbuf: mosquitto_sub would keep its lines while the output is a pipe
    command = ["stdbuf", "-oL", mosquitto_sub, "-d", "-p", port, "-t", "a/+", "-q", qos, "-C", "3", "-F", "got %t %p"]
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            output = ""
            while "SUBACK" not in output:
                output += (await process.stdout.receive_some()).decode()
            for number in range(3):
                await trio.run_process([mosquitto_pub, "-p", port, "-t", f"a/{number}", "-m", f"m{number}", "-q", qos])
            async for chunk in process.stdout:
                output += chunk.decode()

    lines = [line for line in output.splitlines() if line.startswith("got ")]
    assert lines == ["got a/0 m0", "got a/1 m1", "got a/2 m2"]


@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "5"])
async def test_mosquitto_s_programs_of_every_version(
    broker: Broker, mosquitto_pub: str, mosquitto_sub: str, version: str
) -> None:
    port = str(broker.addresses["mqtt"][1])
    common = ["-p", port, "-V", version, "-q", "2", "-t", "a"]
    command = ["stdbuf", "-oL", mosquitto_sub, "-d", *common, "-i", "s", "-C", "1", "-F", "got %t %p"]
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
            output = ""
            while "SUBACK" not in output:
                output += (await process.stdout.receive_some()).decode()
            await trio.run_process([mosquitto_pub, *common, "-i", "p", "-m", "hello"])
            async for chunk in process.stdout:
                output += chunk.decode()

    assert "got a hello" in output.splitlines()


@pytest.mark.parametrize("version", ["mqttv311", "5"])
async def test_mosquitto_rr_asks_and_is_answered(broker: Broker, mosquitto_rr: str, version: str) -> None:
    command = [
        mosquitto_rr,
        "-p",
        str(broker.addresses["mqtt"][1]),
        "-V",
        version,
        "-q",
        "1",
        "-t",
        "questions",
        "-e",
        "answers",
    ]

    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, [*command, "-m", "why"], stdout=subprocess.PIPE))
        with trio.fail_after(WAIT_S):
            async for record in broker.read("mqtt"):
                headers = dict(record.headers)
                assert (record.key, record.value) == (b"questions", b"why")
                assert headers.get("mqtt.response-topic") == (b"answers" if version == "5" else None)
                break
            await broker.publish("mqtt", b"because", key=b"answers")
            output = b"".join([bytes(chunk) async for chunk in process.stdout])
    assert output == b"because\n"
