"""``trunkline mqtt``, and what it asks of the door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from tests.mqtt.test_clients import WAIT_S, Paho, properties

from trunkline import connect_blocking
from trunkline.cli.root import run
from trunkline.errors import UnsupportedRequest
from trunkline.testing.background import BackgroundBroker


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundBroker]:
    with BackgroundBroker(store="memory", listen={"native": "127.0.0.1:0", "mqtt": "127.0.0.1:0"}) as opened:
        yield opened


@pytest.fixture
def command(
    server: BackgroundBroker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs ``trunkline mqtt ARGS`` in this process; afterwards no client is left."""
    monkeypatch.setenv("TRUNKLINE_SERVER", server.url)

    def run_command(*args: str) -> Result:
        code = run(["mqtt", *args])
        return Result(code, *capfd.readouterr())

    yield run_command
    run_command("purge", *[row["client_id"] for row in run_command("sessions", "--json").rows], "--offline-for", "0")
    assert run_command("sessions", "--json").rows == []


@pytest.fixture
def client(server: BackgroundBroker) -> Iterator[Callable[..., Paho]]:
    """Makes paho clients that do not come back by themselves."""
    clients = []

    def make(client_id: str, more: Callable[[Any], Any] = lambda paho: None, **options: Any) -> Paho:
        def prepare(paho: Any) -> None:
            paho.reconnect_delay_set(60, 60)
            more(paho)

        clients.append(Paho(server.addresses["mqtt"][1], client_id, prepare=prepare, **options))
        return clients[-1]

    yield make
    for one in clients:
        one.close()


def stored(seconds: int = 600) -> dict[str, Any]:
    """Options of a client whose session is stored."""
    kept = properties(PacketTypes.CONNECT, SessionExpiryInterval=seconds)
    return {"protocol": MQTTProtocolVersion.MQTTv5, "clean_start": False, "properties": kept}


def test_sessions_lists_who_is_connected_or_stored(command: Command, client: Callable[..., Paho]) -> None:
    client("clean").subscribe(("a", 0))
    away = client("away", **stored())
    away.subscribe(("b/#", 1), ("c", 2))
    away.close()
    client("publisher").publish("b/1", b"x", 1)

    found = {row["client_id"]: row for row in command("sessions", "--json").rows}

    assert {*found} == {"away", "clean", "publisher"}
    assert found["clean"] | {"peer": "?"} == {
        "client_id": "clean",
        "is_connected": True,
        "peer": "?",
        "protocol_level": 4,
        "is_stored": False,
        "filter_count": 1,
        "unacknowledged": 0,
        "lag_records": 0,
        "missed": 0,
        "expires_s": None,
        "offline_s": None,
    }
    assert found["clean"]["peer"].startswith("127.0.0.1:")
    assert (found["away"]["is_connected"], found["away"]["is_stored"], found["away"]["filter_count"]) == (
        False,
        True,
        2,
    )
    assert (found["away"]["lag_records"], found["away"]["expires_s"]) == (1, 600)
    assert found["away"]["offline_s"] >= 0
    assert [row["client_id"] for row in command("sessions", "--offline", "--json").rows] == ["away"]


def test_sessions_of_one_client_shows_its_filters(command: Command, client: Callable[..., Paho]) -> None:
    client("one").subscribe(("b/#", 1), ("a", 2))
    (row,) = command("sessions", "one", "--json").rows
    assert row["filters"] == ["a", "b/#"]
    table = command("sessions", "one").out
    assert "one\t127.0.0.1:" in table
    assert table.endswith("FILTER\na\nb/#\n")
    unknown = command("sessions", "nobody")
    assert (unknown.code, unknown.out) == (1, "")
    assert "no client 'nobody' is connected or has a session" in unknown.err


def test_kick_disconnects_and_keeps_the_session(command: Command, client: Callable[..., Paho]) -> None:
    kicked = client("unruly", **stored())
    assert command("kick", "unruly") == Result(0, "kicked unruly\n", "")
    assert kicked.disconnected.get(timeout=WAIT_S) == "Administrative action"
    (row,) = command("sessions", "--json").rows
    assert (row["client_id"], row["is_connected"], row["is_stored"]) == ("unruly", False, True)
    again = command("kick", "unruly")
    assert (again.code, again.out) == (1, "")
    assert "not connected: 'unruly'" in again.err


def test_purge_ends_sessions_and_connections(command: Command, client: Callable[..., Paho]) -> None:
    client("offline", **stored()).close()
    connected = client("connected", **stored())
    assert command("purge", "offline", "connected", "--json").rows == [
        {"client_id": "offline", "purged": True},
        {"client_id": "connected", "purged": True},
    ]
    assert connected.disconnected.get(timeout=WAIT_S) == "Administrative action"
    assert command("sessions", "--json").rows == []
    assert command("purge", "offline").code == 1


def test_purge_of_those_that_have_been_offline_for_long(command: Command, client: Callable[..., Paho]) -> None:
    client("offline", **stored()).close()
    client("connected", **stored())
    assert command("purge", "--offline-for", "3600") == Result(0, "", "")
    assert command("purge", "--offline-for", "0") == Result(0, "purged offline\n", "")
    assert [row["client_id"] for row in command("sessions", "--json").rows] == ["connected"]
    assert command("purge").code == 2


def test_who_was_connected_when_the_broker_was_killed_is_offline_since_its_start(tmp_path: Path) -> None:
    """Else ``purge --offline-for`` would never find it."""
    listen = {"native": "127.0.0.1:0", "mqtt": "127.0.0.1:0"}
    with BackgroundBroker(tmp_path / "data", store="segments", listen=listen) as server:
        lost = Paho(server.addresses["mqtt"][1], "lost", **stored())
        shutil.copytree(tmp_path / "data", tmp_path / "left")  # as a kill leaves it: CONNACK means that it is stored
        lost.close()
    with BackgroundBroker(tmp_path / "left", store="segments", listen=listen) as server:
        with connect_blocking(server.url) as bus:
            session = bus.ask_door("mqtt", "session", client_id="lost")
        assert (session["is_connected"], session["is_stored"]) == (False, True)
        assert 0 <= session["offline_s"] < 600


def test_a_purged_client_s_will_is_published(command: Command, client: Callable[..., Paho]) -> None:
    """MQTT 5.0, 3.1.2.5: at the latest when the session ends, whatever its delay."""
    watcher = client("watcher")
    watcher.subscribe(("wills/#", 1))
    delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=3600)
    client("mortal", lambda paho: paho.will_set("wills/mortal", b"gone", 1, properties=delay), **stored())
    assert command("purge", "mortal").code == 0
    assert watcher.take(1) == [("wills/mortal", b"gone", 1)]


def test_pages_and_requests_that_are_none(
    server: BackgroundBroker, command: Command, client: Callable[..., Paho]
) -> None:
    for name in "cab":
        client(name)
    with connect_blocking(server.url) as bus:
        first = bus.ask_door("mqtt", "sessions", limit=2)
        assert ([row["client_id"] for row in first["sessions"]], first["next"]) == (["a", "b"], "b")
        client("aa")  # after the list was begun
        rest = bus.ask_door("mqtt", "sessions", after="b", limit=2)
        assert ([row["client_id"] for row in rest["sessions"]], rest["next"]) == (["c"], None)
        again = bus.ask_door("mqtt", "sessions", after="a", limit=1)
        assert ([row["client_id"] for row in again["sessions"]], again["next"]) == (["aa"], "aa")
        assert bus.ask_door("mqtt", "kick", client_id="b")
        behind = bus.ask_door("mqtt", "sessions", after="aa", limit=1)
        assert (behind["sessions"], behind["next"]) == ([], "b")
        with pytest.raises(UnsupportedRequest, match="no door 'stomp' is open here; there are: mqtt, native"):
            bus.ask_door("stomp", "sessions")
        with pytest.raises(UnsupportedRequest, match="this door knows no request 'sessions'"):
            bus.ask_door("native", "sessions")
        with pytest.raises(UnsupportedRequest, match="it knows sessions, session, kick, purge"):
            bus.ask_door("mqtt", "dance")
        with pytest.raises(UnsupportedRequest, match=r"request 'sessions': Expected `int` <= 500"):
            bus.ask_door("mqtt", "sessions", limit=2000)
        with pytest.raises(UnsupportedRequest, match="missing required field `client_id`"):
            bus.ask_door("mqtt", "kick")
