"""doctor and plugin list, run in this process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trunkline.cli.checks import Finding, check_data, check_open_files, check_plugins, check_ports
from trunkline.cli.root import run
from trunkline.config import BrokerConfig
from trunkline.lock import lock_directory
from trunkline.plugins import DEFAULT_PLUGINS, PluginHost, installed_plugins


def statuses(findings: Any) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration with which nothing should be wrong here."""
    file = tmp_path / "trunkline.toml"
    file.write_text(f"data = 'data'\n[listen]\nnative = '127.0.0.1:{free_port()}'\n[limits]\nmax_connections = 10\n")
    return file


def test_a_sound_machine_has_no_failures(config_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--config", str(config_file)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    checks = {line.split(":")[0].split(maxsplit=1)[1] for line in lines}
    assert checks >= {
        "configuration",
        "python",
        "packages",
        "open files",
        "plugins",
        "data directory",
        "fsync",
        "ports",
    }


@pytest.mark.parametrize(
    ("table", "exit_code", "line"),
    [
        ("[bridge.mqtt.brokers.a]\nurl = 'mqtt://h'\n", 0, "ok    bridges: mqtt"),
        ("[bridge.mqtt.brokers.a]\nurl = 'http://h'\n", 1, "bridge.mqtt.brokers.a.url: it is no URL of an MQTT"),
        ("[bridge.mqtt]\nnods = 1\n", 1, "nods"),
        ("[bridge.nothing]\n", 1, "fail  bridges:"),
    ],
)
def test_tables_of_bridges_are_checked(
    config_file: Path, capfd: pytest.CaptureFixture[str], table: str, exit_code: int, line: str
) -> None:
    config_file.write_text(config_file.read_text() + table)
    assert run(["doctor", "--config", str(config_file)]) == exit_code
    assert line in capfd.readouterr().out


def test_doctor_leaves_nothing_behind(config_file: Path) -> None:
    run(["doctor", "--config", str(config_file)])
    assert list(config_file.parent.iterdir()) == [config_file]


def test_json_is_an_object_for_each_check(config_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--config", str(config_file), "--json"])
    for line in capfd.readouterr().out.splitlines():
        assert json.loads(line).keys() == {"status", "check", "message", "advice"}


def test_a_wrong_configuration_is_a_failure_and_the_rest_is_checked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text("storag = 'x'")
    assert run(["doctor", "--config", str(file), "--data", str(tmp_path / "data")]) == 1
    output = capfd.readouterr().out
    assert "did you mean storage?" in output
    assert "data directory" in output


def test_a_port_in_use_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = BrokerConfig(listen={"native": f"127.0.0.1:{taken.getsockname()[1]}"})
        (finding,) = check_ports(config, PluginHost(), is_running=False)
        assert (finding.status, "--listen native=" in finding.advice) == ("fail", True)
        (expected,) = check_ports(config, PluginHost(), is_running=True)
        assert expected.status == "warn"


def test_an_exposed_listener_is_a_failure() -> None:
    (finding,) = check_ports(BrokerConfig(listen={"native": "0.0.0.0:0"}), PluginHost(), is_running=False)
    assert finding.status == "fail"
    assert "--insecure" in finding.message


def test_a_running_broker_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with lock_directory(tmp_path / "data"):
        run(["doctor", "--data", str(tmp_path / "data")])
    assert "is in use by a running broker" in capfd.readouterr().out


def test_a_data_directory_that_is_a_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert statuses(check_data(tmp_path / "file" / "data", is_running=False)) == {"data directory": "fail"}


def test_a_low_limit_on_open_files_is_a_warning() -> None:
    (finding,) = check_open_files(10**9)
    assert (finding.status, "ulimit -n" in finding.advice) == ("warn", True)


@pytest.mark.parametrize(
    "make", [lambda: BrokerConfig(plugins=["nope"]), lambda: BrokerConfig(storage="nope"),
             lambda: BrokerConfig(listen={"nope": "127.0.0.1:1"})]
)  # fmt: skip
def test_a_plugin_that_is_named_and_does_not_load_is_a_failure(make: Callable[[], BrokerConfig]) -> None:
    (finding,) = check_plugins(make(), PluginHost())
    assert finding == Finding("fail", "plugins", finding.message, "see `trunkline plugin list`")


def test_a_table_for_a_door_that_there_is_not_is_a_failure() -> None:
    wrong, plugins = check_plugins(BrokerConfig(door={"mqqt": {"max_inflight": 5}}), PluginHost())
    assert (wrong.status, wrong.check, "door.mqqt" in wrong.message) == ("fail", "configuration", True)
    assert plugins.status == "ok"


def test_plugin_list_names_what_is_installed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plugin", "list", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capfd.readouterr().out.splitlines())}
    assert rows.keys() == {plugin.name for plugin in installed_plugins()}
    assert all(rows[name]["default"] and rows[name]["failure"] is None for name in DEFAULT_PLUGINS)
    assert (rows["segments"]["stores"], rows["native"]["doors"]) == (["segments"], ["native"])


def test_plugin_list_is_a_table_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plugin", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["NAME", "DISTRIBUTION", "VERSION", "STORES", "DOORS", "BRIDGES", "STATE"]
    assert any(line.startswith("mqtt\ttrunkline\t") for line in lines)
