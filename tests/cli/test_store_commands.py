"""store verify, dump and convert on the data of brokers that are gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trunkline import connect_blocking
from trunkline.cli.root import run
from trunkline.testing.background import BackgroundBroker

TIMEOUT_S = 30.0


class Result(NamedTuple):
    """What a command did."""

    code: int
    lines: list[str]
    errors: str

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


Command = Callable[..., Result]


@pytest.fixture
def store(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``trunkline store ARGS`` in this process."""

    def call(*args: str | Path) -> Result:
        code = run(["store", *map(str, args)])
        out, errors = capfdbinary.readouterr()
        return Result(code, out.decode().splitlines(), errors.decode())

    return call


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two topics in segments, one of them with two partitions, from a broker that was closed."""
    data = tmp_path_factory.mktemp("original")
    with BackgroundBroker(data, store="segments", listen={}) as broker:
        broker.create_topic("orders", partitions=2, settings={"segment.bytes": "1024"})
        for number in range(20):
            headers = [("n", b"%d" % number), ("raw", b"\xff")]
            broker.publish(
                "orders", b"value %d" % number * 10, key=b"k", headers=headers, partition=0, timestamp=number
            )
        broker.publish("orders", None, key=b"\xff", partition=1, timestamp=1_000)
        broker.create_topic("invoices", settings={"storage": "segments"})
    return data


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data")


def log_file(data: Path, number: int = 0) -> Path:
    return sorted((data / "segments" / "orders-0").glob("*.log"))[number]


def flip(path: Path, position: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1
    path.write_bytes(contents)


def tear(data: Path) -> Path:
    """Leave what a broker leaves that dies while it appends; the file."""
    path = log_file(data, -1)
    with path.open("ab") as file:
        file.write(path.read_bytes()[:70])
    return path


# -- verify ---------------------------------------------------------------------------------------


def test_a_directory_without_faults(store: Command, data: Path) -> None:
    assert store("verify", data) == (0, ["checked 3 logs: no fault"], "")
    assert store("verify", data / "segments").lines == ["checked 3 logs: no fault"]
    assert store("verify", data / "segments" / "orders-0").lines == ["checked 1 log: no fault"]


def test_a_fault_is_told_with_file_byte_and_offset(store: Command, data: Path) -> None:
    path = log_file(data, 1)
    flip(path, 100)
    offset = int(path.stem)
    result = store("verify", data)
    assert result.code == 1
    assert result.lines[0].startswith(f"orders/0: {path}: byte 0: offset {offset}: the batch's CRC is ")
    assert result.lines[-1] == "checked 3 logs: 1 fault"
    found = {(log["topic"], log["partition"]): log["faults"] for log in store("verify", data, "--json").objects}
    (fault,) = found.pop(("orders", 0))
    assert (fault["file"], fault["position"], fault["offset"]) == (str(path), 0, offset)
    assert not any(found.values())


def test_repair_cuts_a_torn_tail(store: Command, data: Path) -> None:
    path = tear(data)
    size = path.stat().st_size
    before = store("dump", data).lines
    told = store("verify", data)
    assert (told.code, path.stat().st_size) == (1, size)
    assert "a torn tail, never acknowledged; the broker cuts it off at start" in told.lines[0]
    repaired = store("verify", data, "--repair")
    assert (repaired.code, path.stat().st_size) == (0, size - 70)
    assert repaired.lines[0].endswith("(a torn tail, never acknowledged; cut off)")
    assert store("verify", data).code == 0
    assert store("dump", data).lines == before


def test_repair_leaves_damage_alone_and_torn_tails_beside_it(store: Command, data: Path) -> None:
    torn = tear(data)
    flip(log_file(data), 100)
    before = torn.read_bytes()
    result = store("verify", data, "--repair")
    assert (result.code, len(result.lines), torn.read_bytes()) == (1, 3, before)


def test_a_missing_log_and_a_missing_store_are_faults(store: Command, data: Path) -> None:
    shutil.rmtree(data / "segments" / "orders-1")
    result = store("verify", data)
    assert (result.code, result.lines[0].startswith("segments: orders/1: ")) == (1, True)
    shutil.rmtree(data / "segments")
    assert store("verify", data, "--json").objects[0]["faults"][0]["file"] == str(data / "segments")


def test_what_a_killed_broker_leaves_has_no_faults(store: Command, start: Callable[..., Any], tmp_path: Path) -> None:
    server = start()
    with connect_blocking(server.url) as bus:
        for number in range(100):
            bus.send("orders", f"{number}", key="k")
    server.process.kill()
    server.process.wait()
    assert store("verify", tmp_path / "data").lines == ["checked 1 log: no fault"]
    assert [found["value"] for found in store("dump", tmp_path / "data").objects] == [f"{n}" for n in range(100)]


def test_a_directory_in_use_is_refused(store: Command, start: Callable[..., Any], tmp_path: Path) -> None:
    start()
    for command, *args in (("verify",), ("verify", "--repair"), ("dump",), ("convert", "--to", "sqlite")):
        result = store(command, tmp_path / "data", *args)
        assert (result.code, "is in use by" in result.errors) == (1, True)


@pytest.mark.parametrize("command", [("verify",), ("dump",), ("convert", "--to", "sqlite")])
def test_a_directory_without_logs_is_refused(store: Command, tmp_path: Path, command: tuple[str, ...]) -> None:
    assert store(command[0], tmp_path, *command[1:]).code == 2
    assert store(command[0], tmp_path / "missing", *command[1:]).code == 2
    assert list(tmp_path.iterdir()) == []


def test_foreign_directories_that_are_called_like_logs_are_none(store: Command, tmp_path: Path) -> None:
    (tmp_path / "etc" / "dbus-1").mkdir(parents=True)
    (tmp_path / "etc" / "dbus-1" / "session.conf").touch()
    result = store("verify", tmp_path / "etc")
    assert (result.code, "holds no logs" in result.errors) == (2, True)


def test_a_copy_of_a_log_or_store_is_looked_at_without_its_data_directory(
    store: Command, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "segments", tmp_path / "copy")
    assert store("verify", tmp_path / "copy").lines == ["checked 3 logs: no fault"]
    assert store("verify", tmp_path / "copy" / "orders-1", "--store", "segments").lines == ["checked 1 log: no fault"]
    assert [found["offset"] for found in store("dump", tmp_path / "copy" / "orders-1").objects] == [0]


# -- dump -----------------------------------------------------------------------------------------


def test_dump_prints_what_tail_prints(store: Command, data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    dumped = store("dump", data)
    assert dumped.objects[0]["headers"] == [{"name": "n", "value": "0"}, {"name": "raw", "value_base64": "/w=="}]
    assert (dumped.objects[-1]["key_base64"], dumped.objects[-1]["value"]) == ("/w==", None)
    with BackgroundBroker(data, store="segments", listen={"native": "127.0.0.1:0"}) as broker:
        assert run(["tail", "orders", "--no-follow", "--json", "--server", broker.url]) == 0
    tailed = capfdbinary.readouterr().out.decode().splitlines()
    assert sorted(tailed) == sorted(dumped.lines)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--topic", "invoices"), []),
        (("--partition", "1"), [(1, 0)]),
        (("--topic", "orders", "--partition", "0", "--from", "18"), [(0, 18), (0, 19)]),
        (("--from", "3", "--limit", "2"), [(0, 3), (0, 4)]),
    ],
)
def test_dump_chooses(store: Command, data: Path, args: tuple[str, ...], expected: list[tuple[int, int]]) -> None:
    found = store("dump", data, *args).objects
    assert [(record["partition"], record["offset"]) for record in found] == expected


def test_dump_shows_the_headers_of_batches(store: Command, data: Path) -> None:
    (batch,) = store("dump", data, "--batches", "--partition", "1").objects
    assert (batch["base_offset"], batch["last_offset"], batch["records"], batch["compression"]) == (0, 0, 1, "none")
    assert batch["crc32c"] == (data / "segments/orders-1" / f"{0:020d}.log").read_bytes()[17:21].hex()


def test_dump_passes_over_what_cannot_be_read(store: Command, data: Path) -> None:
    flip(log_file(data), 100)
    result = store("dump", data, "--partition", "0")
    assert result.code == 1
    assert [found["offset"] for found in result.objects] == list(range(1, 20))
    assert result.errors.startswith("trunkline: orders/0: the batch at offset 0 cannot be read")


def test_dump_changes_nothing(store: Command, data: Path) -> None:
    tear(data)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"}
    assert len(store("dump", data).lines) == 21
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"} == before


# -- convert --------------------------------------------------------------------------------------


def test_convert_there_and_back(store: Command, data: Path) -> None:
    before = store("dump", data).lines
    moved = store("convert", data, "--to", "sqlite")
    assert (moved.code, moved.errors) == (0, "")
    assert moved.lines == ["invoices: moved from segments to sqlite", "orders: moved from segments to sqlite"]
    assert store("dump", data).lines == before
    assert store("verify", data).lines == ["checked 3 logs: no fault"]
    assert store("convert", data, "--to", "sqlite").lines == ["nothing to do: no topic is in another store than sqlite"]
    (back,) = store("convert", data, "--to", "segments", "--topic", "orders", "--json").objects
    assert back == {"topic": "orders", "partitions": 2, "from": "sqlite", "to": "segments"}
    assert sorted(store("dump", data).lines) == sorted(before)
    settings = json.loads((data / "metadata.json").read_text())["entries"]["topics/invoices"]["value"]["settings"]
    assert settings == {"storage": "sqlite"}


def test_convert_to_what_is_not_there(store: Command, data: Path) -> None:
    assert store("convert", data, "--to", "paper").code == 2
    assert store("convert", data, "--to", "sqlite", "--topic", "missing").code == 1
    assert store("verify", data).code == 0


def test_convert_draws_a_bar_on_a_terminal(data: Path) -> None:
    program = (
        "import sys, trunkline.cli.progress as progress; from trunkline.cli.root import run;"
        "progress._SHOW_AFTER_S = 0; sys.exit(run(sys.argv[1:]))"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", program, "store", "convert", str(data), "--to", "sqlite"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=TIMEOUT_S, check=False)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"orders/0" in shown
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"orders: moved from segments to sqlite")


def test_an_interrupted_conversion_is_finished_by_the_next(store: Command, data: Path) -> None:
    before = store("dump", data).lines
    command = [sys.executable, "-m", "trunkline.cli", "store", "convert", str(data), "--to", "sqlite", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["topic"] == "invoices"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert store("dump", data).lines == before
    assert store("convert", data, "--to", "sqlite").code == 0
    assert store("dump", data).lines == before
