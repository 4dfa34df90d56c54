"""``trunkline serve``: the ready line, signals, and why it would not start."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trunkline.addresses import parse_address

TIMEOUT_S = 30.0
Start = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def error_of(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a failed command wrote."""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("trunkline: ")
    assert result.stdout == b""
    return lines[0]


def test_the_ready_line_names_where_it_listens(start: Start, tmp_path: Path) -> None:
    server = start()
    assert server.ready == {
        "event": "ready",
        "addresses": server.ready["addresses"],
        "data": str(tmp_path / "data"),
        "store": "segments",
        "pid": server.process.pid,
    }
    address = parse_address(server.ready["addresses"]["native"])
    assert address.port != 0
    socket.create_connection(address, timeout=TIMEOUT_S).close()


def test_only_the_doors_named_by_listen_open(start: Start) -> None:
    assert list(start(listen="mqtt=127.0.0.1:0").ready["addresses"]) == ["mqtt"]


def test_the_ready_line_is_plain_without_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(tmp_path), "--listen", "mqtt=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        process.terminate()
    assert words[0] == "ready"
    assert words[1].startswith("mqtt=127.0.0.1:")
    assert words[2:] == [f"data={tmp_path}", "store=segments", f"pid={process.pid}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(start: Start, number: signal.Signals) -> None:
    server = start()
    server.process.send_signal(number)
    assert server.process.wait(TIMEOUT_S) == 0
    events = [json.loads(line) for line in server.close().splitlines()]
    assert [event["message"] for event in events][-1] == "closed"


STICKY_DOOR = """
import trio
from trunkline.door import Door
from trunkline.hookspecs import hookimpl

class StickyDoor(Door):
    def connect(self, transport):
        raise ConnectionRefusedError

    async def close(self):
        await trio.sleep_forever()

@hookimpl
def register_doors(register):
    register("sticky", lambda context: StickyDoor(), default_port=1)
"""


@pytest.fixture
def sticky_path(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with an installed plugin: a door that never closes."""
    metadata = tmp_path / "sticky-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sticky\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[trunkline]\nsticky = sticky_door\n")
    (tmp_path / "sticky_door.py").write_text(STICKY_DOOR)
    return str(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(start: Start, sticky_path: str, number: signal.Signals, code: int) -> None:
    server = start(listen="sticky=127.0.0.1:0", PYTHONPATH=sticky_path)
    server.process.terminate()
    assert "a second signal ends it at once" in server.process.stderr.readline()
    server.process.send_signal(number)
    assert server.process.wait(TIMEOUT_S) == code


def test_what_was_published_is_there_after_a_restart(start: Start, run: Run) -> None:
    first = start()
    assert run("publish", "orders", "kept", "--server", first.url).returncode == 0
    first.process.terminate()
    assert first.process.wait(TIMEOUT_S) == 0
    second = start()
    found = run("tail", "orders", "--no-follow", "--format", "{value}", "--server", second.url)
    assert found.stdout == b"kept\n"


def test_a_data_directory_in_use_is_refused(start: Start, run: Run, tmp_path: Path) -> None:
    server = start()
    result = run("serve", "--data", str(tmp_path / "data"), "--listen", "mqtt=127.0.0.1:0")
    assert result.returncode == 1
    message = error_of(result)
    assert f"{tmp_path / 'data'} is in use" in message
    assert str(server.process.pid) in message


def test_a_port_in_use_is_refused(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--data", str(tmp_path), "--listen", f"mqtt=127.0.0.1:{port}")
    assert result.returncode == 1
    assert f"mqtt: cannot listen on 127.0.0.1:{port}" in error_of(result)


def test_listening_beyond_loopback_needs_insecure(run: Run, start: Start, tmp_path: Path) -> None:
    result = run("serve", "--data", str(tmp_path), "--listen", "mqtt=0.0.0.0:0")
    assert result.returncode == 2
    assert "asks for no authentication" in error_of(result)
    assert start("--insecure", listen="mqtt=0.0.0.0:0").ready["addresses"]["mqtt"].startswith("0.0.0.0:")


def test_an_unknown_key_names_the_file_and_the_nearest_key(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text("[limits]\nmax_conections = 5\n")
    result = run("serve", "--config", str(file), "--data", str(tmp_path))
    assert result.returncode == 2
    expected = f"{file}: limits.max_conections: unknown key (value 5); did you mean max_connections?"
    assert error_of(result) == f"trunkline: {expected}"


def test_an_unknown_store_is_refused_with_the_nearest_name(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--data", str(tmp_path), "--store", "segmants", "--listen", "native=127.0.0.1:0")
    assert result.returncode == 2
    assert "did you mean 'segments'" in error_of(result)


def test_an_unknown_door_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--data", str(tmp_path), "--listen", "carrierpigeon=127.0.0.1:0")
    assert result.returncode == 2
    assert "unknown door 'carrierpigeon'" in error_of(result)


def test_a_data_directory_that_cannot_be_made_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("serve", "--data", str(tmp_path / "file" / "data"), "--listen", "native=127.0.0.1:0")
    assert result.returncode == 2
    assert str(tmp_path / "file" / "data") in error_of(result)


def test_a_data_directory_that_is_a_file_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("serve", "--data", str(tmp_path / "file"), "--listen", "native=127.0.0.1:0")
    assert result.returncode == 2
    assert error_of(result).endswith("file: is there already, and is no directory")


def test_errors_are_json_with_json(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--data", str(tmp_path), "--listen", "x", "--json")
    assert result.returncode == 2
    assert json.loads(result.stderr)["code"] == "BadParameter"


def test_the_configuration_comes_from_file_environment_and_flags(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text("data = 'from-file'\n[topics]\ndefaults = { durability = 'os' }\n")
    server = start("--config", str(file), "--data", str(tmp_path / "from-flag"))
    assert server.ready["data"] == str(tmp_path / "from-flag")


def test_the_limit_on_open_files_is_raised(start: Start) -> None:
    server = start(TRUNKLINE_LIMITS__MAX_CONNECTIONS="100")
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft >= min(hard, 1124)
