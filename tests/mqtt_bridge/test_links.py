"""Links with real brokers: what arrives, as what, and how often."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
import trustme
from tests.mqtt.conftest import WAIT_S, RawClient, messages
from tests.mqtt_bridge.conftest import (
    Address,
    ConnectTo,
    MakeMosquitto,
    Mosquitto,
    OpenBridged,
    bridge_table,
    free_port,
    subscribe,
    until,
    until_running,
)

from trunkline.bridge import LinkStatus
from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline.config_sources import load_config
from trunkline.errors import ConfigurationError
from trunkline.records import ConsumerRecord, encode_headers
from trunkline_mqtt.packets import MQTT_3_1_1, Puback, Publish
from trunkline_mqtt.properties import Properties

pytestmark = pytest.mark.trio

EXAMPLE = Path(__file__).parents[2] / "examples" / "mqtt-bridge.toml"

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


async def stored(broker: Broker, count: int, topic: str = "mqtt") -> list[ConsumerRecord]:
    """The first records of a log topic, as soon as there are so many."""
    found: list[ConsumerRecord] = []
    with trio.fail_after(WAIT_S):
        async for record in broker.read(topic):
            found.append(record)
            if len(found) == count:
                break
    return found


async def publish(peer: RawClient, topic: str, payload: bytes, packet_id: int = 7, **more: object) -> None:
    sent = Publish(topic, payload, 1, packet_id=packet_id, **more)  # type: ignore[arg-type]
    await peer.send(sent)
    while not isinstance(await peer.receive(), Puback):
        pass


def status_of(broker: Broker, number: int = 0) -> LinkStatus:
    return broker.bridges.statuses()[0].links[number]


# -- in --------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_is_published_there_is_in_the_log_here(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str, qos: int
) -> None:
    link = {
        "direction": "in",
        "filter": "+/temp",
        "remote_prefix": "plant/",
        "local_prefix": "site/1/",
        "qos": qos,
    }
    async with bridged(mosquitto.address, {"up": link}, version=version) as broker:
        await until_running(broker)
        device = await connect_to(mosquitto.address, "device")
        await publish(device, "elsewhere/a/temp", b"0")
        for number in range(3):
            await publish(device, "plant/a/temp", b"%d" % number)

        found = await stored(broker, 3)
        assert [(record.key, record.value) for record in found] == [
            (b"site/1/a/temp", b"0"), (b"site/1/a/temp", b"1"), (b"site/1/a/temp", b"2"),
        ]  # fmt: skip
        assert ("trunkline.origin", b"mqtt/there") in found[0].headers
        assert ("mqtt.qos", b"%d" % min(qos, 1)) in found[0].headers  # what the device published with is the most
        (status,) = broker.bridges.statuses()
        assert [(each.name, each.direction, each.counters["messages"]) for each in status.links] == [("up", "in", 3)]


async def test_what_the_other_broker_says_of_itself_may_be_taken_under_another_name(
    mosquitto: Mosquitto, bridged: OpenBridged
) -> None:
    link = {"direction": "in", "filter": "broker/version", "remote_prefix": "$SYS/", "local_prefix": "there/"}
    async with bridged(mosquitto.address, {"up": link}) as broker:
        (record,) = await stored(broker, 1)
        assert record.key == b"there/broker/version"
        assert record.value is not None
        assert record.value.startswith(b"mosquitto version")


@VERSIONS
async def test_what_two_links_want_comes_once(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str
) -> None:
    """Mosquitto would send it once for each subscription; one of them is from an earlier configuration."""
    links = {"some": {"direction": "in", "filter": "a/#"}, "all": {"direction": "in", "filter": "#"}}
    async with bridged(mosquitto.address, {"some": links["some"]}, version=version) as broker:
        await until_running(broker)
    async with bridged(mosquitto.address, links, version=version) as broker:
        await until_running(broker, 2)
        device = await connect_to(mosquitto.address, "device")
        for number in range(3):
            await publish(device, "a/b", b"%d" % number)
        await publish(device, "end", b"end")
        await until(lambda: status_of(broker, 1).counters["messages"] >= 1)
        assert [record.value async for record in broker.read("mqtt", follow=False)] == [b"0", b"1", b"2", b"end"]


async def test_properties_and_the_retained_mark_come_along(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    async with bridged(mosquitto.address, {"up": {"direction": "in"}}) as broker:
        await until_running(broker)
        device = await connect_to(mosquitto.address, "device")
        said = Properties(content_type="text/plain", correlation=b"\x00\x01", user=(("who", "me"), ("who", "you")))
        await publish(device, "a", b"x", retain=True, properties=said)

        (record,) = await stored(broker, 1)
        assert {
            ("mqtt.retain", b"1"), ("mqtt.content-type", b"text/plain"), ("mqtt.correlation", b"\x00\x01"),
            ("who", b"me"), ("who", b"you"),
        } <= set(record.headers)  # fmt: skip
        await stored(broker, 1, "mqtt.retained")


async def test_the_other_broker_keeps_what_comes_while_this_one_is_away(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    device = await connect_to(mosquitto.address, "device")
    async with bridged(mosquitto.address, {"up": {"direction": "in"}}) as broker:
        await until_running(broker)
        await publish(device, "a", b"first")
        await stored(broker, 1)
    for number in range(150):  # more than it has in flight at a time
        await publish(device, "a", b"%d" % number)
    async with bridged(mosquitto.address, {"up": {"direction": "in"}}) as broker:
        found = await stored(broker, 151)
        assert [record.value for record in found] == [b"first", *(b"%d" % number for number in range(150))]


# -- out -------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_is_in_the_log_here_is_published_there(
    mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo, version: str, qos: int
) -> None:
    watcher = await connect_to(mosquitto.address, "watcher")
    await subscribe(watcher, "#", qos=2)
    link = {"direction": "out", "filter": "up/#", "remote_prefix": "site/", "qos": qos}
    async with bridged(mosquitto.address, {"down": link}, version=version) as broker:
        await until_running(broker)
        await broker.publish("mqtt", b"not wanted", key=b"other")
        for number in range(3):
            headers = [("mqtt.qos", b"2"), ("colour", b"red")]
            await broker.publish("mqtt", b"%d" % number, key=b"up/a", headers=headers)

        for number, message in enumerate(await messages(watcher, 3)):
            assert (message.topic, message.payload, message.qos) == ("site/up/a", b"%d" % number, qos)
            if version == "5":
                node = message.properties.user[-1]
                assert (message.properties.user[0], node[0]) == (("colour", "red"), "trunkline-hops")
        await until(lambda: not status_of(broker).lag)
        assert status_of(broker).counters["messages"] == 3


async def test_a_backlog_waits_in_the_log_while_the_other_broker_is_away(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    mosquitto = make_mosquitto()
    async with bridged(mosquitto.address, {"down": {"direction": "out"}}, window=20) as broker:
        await until(lambda: "cannot be reached" in status_of(broker).error)
    async with bridged(mosquitto.address, {"down": {"direction": "out", "start": "earliest"}}, window=20) as broker:
        for number in range(300):
            await broker.publish("mqtt", b"%d" % number, key=b"a")
        async with mosquitto.run():
            watcher = await connect_to(mosquitto.address, "watcher")
            await subscribe(watcher, "a")  # before or after the link is there: it may have begun
            await until_running(broker)
            await broker.publish("mqtt", b"end", key=b"a")
            last = b""
            while last != b"end":
                (message,) = await messages(watcher, 1)
                await watcher.send(Puback(message.packet_id))
                last = message.payload
            await until(lambda: not status_of(broker).lag)
            assert status_of(broker).counters["messages"] == 301


async def test_a_restart_of_the_other_broker_loses_nothing(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo
) -> None:
    mosquitto = make_mosquitto()
    async with bridged(mosquitto.address, {"down": {"direction": "out"}}, window=20) as broker:
        async with mosquitto.run():
            await until_running(broker)
            keeper = await connect_to(mosquitto.address, "keeper")
            await publish(keeper, "before", b"x")
        seen: set[bytes] = set()
        for round_ in range(3):
            async with mosquitto.run():
                watcher = await connect_to(mosquitto.address, "watcher")
                await subscribe(watcher, "a")
                await until_running(broker)
                for number in range(100 * round_, 100 * round_ + 100):
                    broker.topic("mqtt").partitions[0].stage_record(
                        broker.now_ms(), b"a", b"%d" % number, encode_headers([])
                    )
                while f"{100 * round_ + 60}".encode() not in seen:
                    (message,) = await messages(watcher, 1)
                    seen.add(message.payload)
                    await watcher.send(Puback(message.packet_id))
        async with mosquitto.run():
            watcher = await connect_to(mosquitto.address, "watcher")
            await subscribe(watcher, "a")
            await broker.publish("mqtt", b"end", key=b"a")
            while b"end" not in seen:
                (message,) = await messages(watcher, 1)
                seen.add(message.payload)
                await watcher.send(Puback(message.packet_id))
        status = status_of(broker)
        assert status.counters["connections"] >= 4
        await until(lambda: not status_of(broker).lag)


# -- both ways -------------------------------------------------------------------------------------


async def test_nothing_goes_round_in_circles(mosquitto: Mosquitto, bridged: OpenBridged, connect_to: ConnectTo) -> None:
    watcher = await connect_to(mosquitto.address, "watcher")
    await subscribe(watcher, "#")
    async with bridged(mosquitto.address, {"all": {"direction": "both"}}) as broker:
        await until_running(broker, 2)
        await broker.publish("mqtt", b"from here", key=b"a")
        (message,) = await messages(watcher, 1)
        await watcher.send(Puback(message.packet_id))
        device = await connect_to(mosquitto.address, "device")
        await publish(device, "a", b"from there")
        await stored(broker, 2)
        await broker.publish("mqtt", b"end", key=b"a")

        found = [message.payload, *(each.payload for each in await messages(watcher, 2))]
        assert found == [b"from here", b"from there", b"end"]
        assert [record.value for record in await stored(broker, 3)] == found
        assert status_of(broker, 1).counters["echoes"] == 1


async def test_a_loop_ends_where_the_message_has_been(
    tmp_path: Path, make_mosquitto: MakeMosquitto, connect_to: ConnectTo
) -> None:
    """Two connections with one Mosquitto, as if it were two brokers, so that only the hops say it."""
    mosquitto = make_mosquitto()
    links = {"in": {"direction": "in", "filter": "#"}, "out": {"direction": "out", "filter": "#", "broker": "again"}}
    table = bridge_table(mosquitto.address, {**links, "in": {**links["in"], "broker": "there"}})
    brokers = table["brokers"]
    assert isinstance(brokers, dict)
    brokers["again"] = {**brokers["there"], "client_id": "again"}
    config = BrokerConfig(listen={}, bridge={"mqtt": table})
    async with mosquitto.run(), open_broker(tmp_path / "data", config=config) as broker:
        await until_running(broker, 2)
        device = await connect_to(mosquitto.address, "device")
        await publish(device, "a", b"x")
        await until(lambda: bool(status_of(broker).counters.get("looped")))
        assert [record.value for record in await stored(broker, 1)] == [b"x"]
        assert broker.topic("mqtt").partitions[0].high_watermark == 1


async def test_with_amqtt(amqtt: Address, bridged: OpenBridged, connect_to: ConnectTo) -> None:
    watcher = await connect_to(amqtt, "watcher", MQTT_3_1_1)
    await subscribe(watcher, "from/#")
    links = {
        "up": {"direction": "in", "filter": "to/#"},
        "down": {"direction": "out", "filter": "#", "local_prefix": "mine/", "remote_prefix": "from/"},
    }
    async with bridged(amqtt, links, version="3.1.1") as broker:
        await until_running(broker, 2)
        await broker.publish("mqtt", b"down", key=b"mine/a")
        (message,) = await messages(watcher, 1)
        assert (message.topic, message.payload) == ("from/a", b"down")
        await watcher.send(Puback(message.packet_id))
        await publish(watcher, "to/b", b"up")
        assert [(record.key, record.value) for record in await stored(broker, 2)] == [
            (b"mine/a", b"down"),
            (b"to/b", b"up"),
        ]


async def test_the_example_does_what_its_page_says(mosquitto: Mosquitto, connect_to: ConnectTo, tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text(EXAMPLE.read_text().replace("127.0.0.1:1884", f"127.0.0.1:{mosquitto.address[1]}"))
    flags: dict[str, tuple[str, object]] = {"listen": ("--listen", {"mqtt": "127.0.0.1:0"})}
    async with open_broker(tmp_path / "data", config=load_config(file, flags=flags)) as broker:
        await until_running(broker, 2)
        there = await connect_to(mosquitto.address, "machine")
        await subscribe(there, "cmd/#")
        here = await connect_to(broker.addresses["mqtt"], "operator")
        await subscribe(here, "plant/1/#")
        await publish(there, "machines/7/temperature", b"20")
        (reading,) = await messages(here, 1)
        assert (reading.topic, reading.payload) == ("plant/1/7/temperature", b"20")
        await here.send(Puback(reading.packet_id), Publish("plant/1/cmd/stop", b"now", 1, packet_id=1))
        (command,) = await messages(there, 1)
        assert (command.topic, command.payload) == ("cmd/stop", b"now")


# -- what goes wrong -------------------------------------------------------------------------------


async def test_a_message_that_the_other_broker_refuses_waits(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\n")
    mosquitto = make_mosquitto(f"acl_file {rules}")
    async with bridged(mosquitto.address, {"down": {"direction": "out"}}) as broker:
        async with mosquitto.run():
            await until_running(broker)
            await broker.publish("mqtt", b"1", key=b"a")
            await until(lambda: status_of(broker).counters.get("refused", 0) >= 2)
            await until(lambda: "not authorized (0x87" in status_of(broker).error)
            assert status_of(broker).lag == 1
        rules.write_text("topic readwrite #\n")
        async with mosquitto.run():
            await until(lambda: status_of(broker).counters["messages"] == 1)


async def test_a_message_that_the_other_broker_refuses_may_be_dropped(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\ntopic write good/#\n")
    mosquitto = make_mosquitto(f"acl_file {rules}")
    link = {"direction": "out", "refused": "drop"}
    async with mosquitto.run(), bridged(mosquitto.address, {"down": link}) as broker:
        await until_running(broker)
        watcher = await connect_to(mosquitto.address, "watcher")
        await subscribe(watcher, "good/#")
        await broker.publish("mqtt", b"1", key=b"bad/a")
        await broker.publish("mqtt", b"2", key=b"good/a")
        (message,) = await messages(watcher, 1)
        assert message.payload == b"2"
        assert status_of(broker).counters["refused"] == 1


async def test_the_password_is_told_and_asked_for_and_shown_to_nobody(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    passwords = tmp_path / "passwords"
    passwords.write_text("ada:secret word\n")
    await trio.run_process(["mosquitto_passwd", "-U", str(passwords)], capture_stdout=True)
    passwords.chmod(0o644)
    secret = tmp_path / "secret"
    secret.write_text("secret word\n")
    mosquitto = make_mosquitto("allow_anonymous false", f"password_file {passwords}")
    host, port = mosquitto.address
    async with mosquitto.run():
        async with bridged(mosquitto.address, {"up": {"direction": "in"}}) as broker:
            await until(lambda: "not authorized" in status_of(broker).error)
        url = {"url": f"mqtt://ada:wrong%20word@{host}:{port}"}
        async with bridged(mosquitto.address, {"up": {"direction": "in"}}, **url) as broker:
            await until(lambda: "not authorized" in status_of(broker).error)
            assert "wrong" not in str(broker.bridges.statuses())
        url = {"url": f"mqtt://ada@{host}:{port}", "password_file": str(secret)}
        async with bridged(mosquitto.address, {"up": {"direction": "in"}}, **url) as broker:
            await until_running(broker)
    assert "wrong" not in caplog.text
    assert "secret word" not in caplog.text


async def test_tls_with_certificates_on_both_sides(
    make_mosquitto: MakeMosquitto, bridged: OpenBridged, connect_to: ConnectTo, tmp_path: Path
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("bridge@example.org")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "stranger", "chain", "key", "client")}
    authority.cert_pem.write_to_path(files["ca"])
    stranger.cert_pem.write_to_path(files["stranger"])
    server.cert_chain_pems[0].write_to_path(files["chain"])
    server.private_key_pem.write_to_path(files["key"])
    client.private_key_and_cert_chain_pem.write_to_path(files["client"])
    port = free_port()
    lines = f"listener {port} 127.0.0.1", f"certfile {files['chain']}", f"keyfile {files['key']}"
    mosquitto = make_mosquitto(*lines, f"cafile {files['ca']}", "require_certificate true")
    both = {"both": {"direction": "both"}}
    url = f"mqtts://127.0.0.1:{port}"
    async with mosquitto.run():
        async with bridged(mosquitto.address, both, url=url, ca_file=files["stranger"]) as broker:
            await until(lambda: "CERTIFICATE_VERIFY_FAILED" in status_of(broker).error)
        async with bridged(mosquitto.address, both, url=url, ca_file=files["ca"]) as broker:  # without its own
            await until(lambda: status_of(broker).counters["failures"])
            assert status_of(broker).counters["messages"] == 0
        trust = {"ca_file": files["ca"], "certificate": files["client"]}
        async with bridged(mosquitto.address, both, url=url, **trust) as broker:
            await until_running(broker, 2)
            watcher = await connect_to(mosquitto.address, "watcher")
            await subscribe(watcher, "down")
            await publish(watcher, "up", b"x" * 100_000)
            await broker.publish("mqtt", b"y" * 100_000, key=b"down")
            (message,) = await messages(watcher, 1)
            assert message.payload == b"y" * 100_000
            assert sorted(len(record.value or b"") for record in await stored(broker, 2)) == [100_000, 100_000]


@pytest.mark.parametrize("is_accepting", [True, False], ids=["accepts", "refuses"])
async def test_the_broker_closes_at_once_while_the_other_one_does_not_answer(
    bridged: OpenBridged, caplog: pytest.LogCaptureFixture, is_accepting: bool
) -> None:
    """There is nothing under way that could be waited for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        listener.setblocking(False)
        if not is_accepting:
            listener.close()
        async with bridged(address, {"both": {"direction": "both"}}, last_pause_s=60, first_pause_s=60) as broker:
            if is_accepting:
                await trio.lowlevel.wait_readable(listener)
            else:
                await until(lambda: status_of(broker).state == "waiting")
    assert "did not finish" not in caplog.text


async def test_links_that_the_configuration_names_no_more_are_forgotten(
    mosquitto: Mosquitto, bridged: OpenBridged
) -> None:
    async with bridged(mosquitto.address, {"one": {"direction": "out"}, "two": {"direction": "out"}}) as broker:
        await until_running(broker, 2)
        assert sorted(broker.sessions.names()) == ["bridge.mqtt:there/one", "bridge.mqtt:there/two"]
    async with bridged(mosquitto.address, {"two": {"direction": "out"}}) as broker:
        await until_running(broker)
        assert broker.sessions.names() == ["bridge.mqtt:there/two"]


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ({"direction": "in", "broker": "nobody"}, "there is no broker 'nobody'; there are: there"),
        ({"direction": "in", "filter": "a/#/b"}, "links.up.filter: with its prefix it is 'a/#/b'"),
        ({"direction": "in", "remote_prefix": "a/+/"}, "links.up.remote_prefix: a prefix is plain text"),
        ({"direction": "in", "local_prefix": "$SYS/"}, "topics that begin with $SYS"),
        ({"direction": "out", "remote_prefix": "$SYS/"}, "topics that begin with $SYS"),
        ({"direction": "in", "remote_prefix": "$share/g/"}, "topics that begin with $share"),
        ({"direction": "in", "topic": "no/topic"}, "links.up.topic"),
        ({"direction": "sideways"}, "direction"),
        ({"direction": "both"}, "links.up.in: links.up goes both ways and has this name for one of them"),
        ({"direction": "in", "qos": 3}, "qos"),
        ({"direction": "out", "dead_letter_topic": "no/topic"}, "links.up.dead_letter_topic"),
        ({"direction": "out", "dead_letter_topic": "mqtt"}, "the link itself sends what is in it"),
    ],
)
async def test_a_wrong_table_is_refused_at_start(bridged: OpenBridged, link: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with bridged(("127.0.0.1", 1), {"up": link, "up.in": {"direction": "out"}}):
            pass
    assert problem in str(caught.value)
    assert "bridge.mqtt" in str(caught.value)


async def test_a_bridge_of_mosquitto_s_connects_at_once_and_gets_nothing_back(
    connect_to: ConnectTo, make_mosquitto: MakeMosquitto
) -> None:
    async with open_broker(store="memory", listen={"mqtt": "127.0.0.1:0"}) as broker:
        address = broker.addresses["mqtt"]
        lines = ("connection up", f"address {address[0]}:{address[1]}", "topic # both 1")
        async with make_mosquitto(*lines).run() as mosquitto:
            await until(lambda: broker.statistics().doors["mqtt"]["subscriptions"])
            there, here = await connect_to(mosquitto.address, "there"), await connect_to(address, "here")
            for peer in (there, here):
                await subscribe(peer, "t/#")
            await publish(await connect_to(mosquitto.address, "device"), "t/1", b"from Mosquitto")
            assert [message.payload for message in await messages(here, 1)] == [b"from Mosquitto"]
            await publish(await connect_to(address, "device"), "t/2", b"to it")
            assert [message.payload for message in await messages(there, 2)] == [b"from Mosquitto", b"to it"]
            assert [message.payload for message in await messages(here, 1)] == [b"to it"]


async def test_two_clients_with_one_identifier_at_one_broker_are_refused(tmp_path: Path) -> None:
    table = {"url": "mqtt://127.0.0.1:1", "client_id": "me"}
    config = BrokerConfig(listen={}, bridge={"mqtt": {"brokers": {"one": table, "two": table}}})
    with pytest.raises(ConfigurationError, match=r"brokers\.two\.client_id: brokers\.one has it too"):
        async with open_broker(tmp_path / "data", config=config):
            pass


@pytest.mark.parametrize("url", ["http://a", "mqtt://", "mqtt://a/b", "mqtt://a:secret@b:port", "a:1883"])
async def test_a_wrong_url_is_refused_without_the_password(bridged: OpenBridged, url: str) -> None:
    with pytest.raises(ConfigurationError, match="it is no URL of an MQTT broker") as caught:
        async with bridged(("127.0.0.1", 1), {}, url=url):
            pass
    assert "secret" not in str(caught.value)
