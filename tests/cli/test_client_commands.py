"""topic, publish and tail against a broker in a process of its own."""

from __future__ import annotations

import json
import os
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

    returncode: int
    stdout: bytes
    stderr: bytes


Client = Callable[..., Result]


@pytest.fixture
def client(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Client:
    """Runs ``trunkline ARGS`` in this process, which is ten times quicker, against the module's broker."""
    monkeypatch.setenv("TRUNKLINE_SERVER", server.url)
    standard_input = tmp_path / "stdin"

    def run_client(*args: str, stdin: bytes = b"") -> Result:
        standard_input.write_bytes(stdin)
        with standard_input.open() as file, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", file)
            code = run(list(args))
        return Result(code, *capfdbinary.readouterr())

    return run_client


def values(client: Client, topic: str, *args: str) -> list[bytes]:
    """Everything in a topic, from partition 0 on."""
    result = client("tail", topic, "--no-follow", "--format", "{value}", *args)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def json_lines(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_topic_is_made_described_changed_listed_and_deleted(client: Client) -> None:
    made = client("topic", "create", "life", "--partitions", "3", "--set", "durability=os")
    assert (made.returncode, made.stdout) == (0, b"created life with 3 partitions\n")
    (described,) = json_lines(client("topic", "describe", "life", "--json").stdout)
    assert (len(described["partitions"]), described["settings"]["durability"]) == (3, "os")
    changed = client("topic", "set", "life", "segment.ms=5000", "--reset", "durability")
    assert changed.stdout == b"SETTING\tVALUE\ndurability\tfsync\nsegment.ms\t5000\n"
    assert client("topic", "alter", "life", "--partitions", "4").stdout == b"life has 4 partitions\n"
    (grown,) = json_lines(client("topic", "alter", "life", "--partitions", "4", "--json").stdout)
    assert len(grown["partitions"]) == 4
    assert b"lowered" in client("topic", "alter", "life", "--partitions", "3").stderr
    assert b"life\t4\t0\n" in client("topic", "list").stdout
    assert "life" in [found["name"] for found in json_lines(client("topic", "list", "--json").stdout)]
    assert client("topic", "delete", "life").stdout == b"deleted life\n"
    assert client("topic", "describe", "life").returncode == 1


def test_describe_shows_partitions_and_settings(client: Client) -> None:
    client("publish", "shown", "a", "b")
    lines = client("topic", "describe", "shown").stdout.decode().splitlines()
    assert lines[0].startswith("shown: 1 partition, id ")
    assert lines[3].split("\t")[:3] == ["0", "0", "2"]
    assert "durability\tfsync" in lines


def test_records_are_deleted_before_an_offset_a_time_or_the_end(client: Client) -> None:
    client("publish", "old", "a", "b", "c")
    assert client("topic", "delete-records", "old", "--before", "1", "--yes").stdout == b"PARTITION\tLOG START\n0\t1\n"
    assert client("topic", "delete-records", "old", "--before", "-1d", "--yes").stdout.endswith(b"0\t1\n")
    assert values(client, "old") == [b"b", b"c"]
    deleted = client("topic", "delete-records", "old", "--before", "2100-01-01", "--yes", "--json")
    assert json_lines(deleted.stdout) == [{"topic": "old", "partition": 0, "log_start_offset": 3}]
    client("publish", "old", "d")
    assert client("topic", "delete-records", "old", "--before", "latest", "--yes").returncode == 0
    assert values(client, "old") == []


def test_an_offset_to_delete_before_needs_a_partition_where_there_are_several(client: Client) -> None:
    client("topic", "create", "several", "--partitions", "2")
    client("publish", "several", "a", "b", "--partition", "1")
    assert client("topic", "delete-records", "several", "--before", "1", "--yes").returncode == 2
    assert client("topic", "delete-records", "several", "--before", "1", "--yes", "--partition", "2").returncode == 2
    deleted = client("topic", "delete-records", "several", "--before", "1", "--yes", "--partition", "1")
    assert deleted.stdout == b"PARTITION\tLOG START\n1\t1\n"


def test_deleting_records_asks_on_a_terminal(server: Any, client: Client) -> None:
    client("publish", "asked", "a", "b")
    command = [sys.executable, "-m", "trunkline.cli", "topic", "delete-records", "asked", "--before", "latest"]
    answers = [run_on_a_terminal([*command, "--server", server.url], answer) for answer in (b"n\n", b"y\n")]
    assert [code for code, _ in answers] == [130, 0]
    assert all(b"asked/0: removes 2 offsets, from 0 up to 2" in output for _, output in answers)
    assert values(client, "asked") == []


def run_on_a_terminal(command: list[str], answer: bytes) -> tuple[int, bytes]:
    """The exit code and stderr of a command whose standard input is a terminal where ``answer`` is typed."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=TIMEOUT_S, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stderr


def test_describe_shows_readers_and_what_was_removed_before_they_had_read_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BackgroundBroker(None, store="memory", listen={"native": "127.0.0.1:0"}) as broker:
        monkeypatch.setenv("TRUNKLINE_SERVER", broker.url)
        for _ in range(5):
            broker.publish("sensors", b"x")
        broker.broker.partition("sensors", 0).readers["billing"] = 1
        client("topic", "delete-records", "sensors", "--before", "3", "--yes")
        shown = client("topic", "describe", "sensors").stdout.decode().splitlines()
    assert "READER\tPARTITION\tNEXT OFFSET\tBEHIND" in shown
    assert "billing\t0\t1\t4" in shown
    assert "sensors/0: removed before billing had read them: 2" in shown


def test_making_a_topic_twice_fails(client: Client) -> None:
    assert client("topic", "create", "twice", "--json").returncode == 0
    again = client("topic", "create", "twice")
    assert (again.returncode, again.stderr) == (1, b"trunkline: topic twice is already there\n")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("topic", "create", "bad name"), 1),
        (("topic", "create", "bad", "--set", "segment.byte=5"), 1),
        (("topic", "create", "bad", "--set", "segment.bytes"), 2),
        (("topic", "create", "bad", "--partitions", "0"), 2),
        (("topic", "set", "bad"), 2),
        (("topic", "delete", "missing"), 1),
        (("topic", "delete-records", "missing", "--before", "0", "--yes"), 1),
        (("topic", "delete-records", "bad", "--before", "0"), 2),
        (("topic", "delete-records", "bad", "--before", "earliest", "--yes"), 2),
        (("topic", "delete-records", "bad", "--before", "yesterday", "--yes"), 2),
        (("tail", "missing", "--no-follow"), 1),
        (("tail", "t", "--format", "{nope}"), 2),
        (("publish", "t", "value", "--file", "file"), 2),
        (("publish", "t", "--header", "x"), 2),
        (("publish", "t", "--file", "/no/such/file"), 1),
        (("publish", "t", "v", "--partition", "7"), 1),
    ],
)
def test_what_fails_says_so_in_one_line(client: Client, args: tuple[str, ...], code: int) -> None:
    result = client(*args)
    assert (result.returncode, result.stdout) == (code, b"")
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"trunkline: ")


def test_a_format_and_json_exclude_each_other(client: Client) -> None:
    assert client("tail", "t", "--json", "--format", "{value}").returncode == 2


def test_errors_are_json_with_json(client: Client) -> None:
    result = client("topic", "describe", "missing", "--json")
    error = json.loads(result.stderr)
    assert (error["event"], error["code"]) == ("error", "UnknownTopic")


def test_a_traceback_comes_only_with_debug(client: Client) -> None:
    assert b"Traceback" not in client("topic", "describe", "missing").stderr
    assert b"Traceback" in client("topic", "describe", "missing", "--debug").stderr


def test_a_server_that_is_not_there_is_exit_code_3(client: Client) -> None:
    result = client("topic", "list", "--server", "trunkline://127.0.0.1:1")
    assert result.returncode == 3
    assert b"127.0.0.1:1 cannot be reached" in result.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:7700", "http://127.0.0.1:7700"])
def test_a_url_of_another_kind_is_a_usage_error(client: Client, url: str) -> None:
    assert client("topic", "list", "--server", url).returncode == 2


def test_values_are_published_in_order(client: Client) -> None:
    result = client("publish", "args", "one", "two", "three")
    assert result.stdout == b"published 3 records to args\n"
    assert values(client, "args") == [b"one", b"two", b"three"]


def test_key_headers_and_partition_arrive(client: Client) -> None:
    client("topic", "create", "full", "--partitions", "2")
    client("publish", "full", "v", "--key", "k", "--header", "a=1", "--header", "b=x=y", "--partition", "1")
    (found,) = json_lines(client("tail", "full", "--no-follow", "--json").stdout)
    assert found == {
        "topic": "full",
        "partition": 1,
        "offset": 0,
        "timestamp": found["timestamp"],
        "key": "k",
        "value": "v",
        "headers": [{"name": "a", "value": "1"}, {"name": "b", "value": "x=y"}],
    }


def test_publish_says_with_json_where_each_record_is(client: Client) -> None:
    result = client("publish", "where", "a", "b", "--json")
    assert json_lines(result.stdout) == [{"topic": "where", "partition": 0, "offset": offset} for offset in (0, 1)]


def test_standard_input_is_a_record_for_each_line(client: Client) -> None:
    assert client("publish", "stdin", stdin=b"a\n\nb\r\nlast").returncode == 0
    assert json_lines_values(client, "stdin") == ["a", "", "b\r", "last"]


def json_lines_values(client: Client, topic: str) -> list[str]:
    return [found["value"] for found in json_lines(client("tail", topic, "--no-follow", "--json").stdout)]


def test_standard_input_may_be_one_record(client: Client) -> None:
    assert client("publish", "whole", "--whole", stdin=b"a\nb\n").returncode == 0
    assert json_lines_values(client, "whole") == ["a\nb\n"]


def test_files_are_whole_records_unless_lines_are_asked_for(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"a\nb\n")
    assert client("publish", "files", "--file", str(file), "--file", "-", stdin=b"c").returncode == 0
    assert client("publish", "files", "--file", str(file), "--lines").returncode == 0
    assert json_lines_values(client, "files") == ["a\nb\n", "c", "a", "b"]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_batches_may_be_compressed(client: Client, compression: str) -> None:
    topic = f"packed-{compression}"
    client("publish", topic, "--compression", compression, stdin=b"same\n" * 1000)
    assert values(client, topic) == [b"same"] * 1000


def test_long_input_arrives_complete_and_in_order(client: Client) -> None:
    lines = [b"%d" % number for number in range(50_000)]
    assert client("publish", "long", stdin=b"\n".join(lines)).stdout == b"published 50000 records to long\n"
    assert values(client, "long") == lines


def test_a_record_that_is_refused_is_reported_with_what_was_published(client: Client) -> None:
    client("topic", "create", "small", "--set", "max.message.bytes=1000")
    result = client("publish", "small", stdin=b"ok\n" + b"x" * 2000)
    assert result.returncode == 1
    assert b"max.message.bytes=1000" in result.stderr
    assert b"(records published before it: 1)" in result.stderr
    assert values(client, "small") == [b"ok"]


def test_tail_follows_and_stops_at_its_limit(client: Client) -> None:
    client("publish", "limited", "1", "2", "3")
    result = client("tail", "limited", "--from", "earliest", "--limit", "2", "--format", "{value}")
    assert (result.returncode, result.stdout) == (0, b"1\n2\n")


@pytest.fixture(scope="module")
def chosen_from(server: Any) -> str:
    """A topic with three records."""
    with connect_blocking(server.url) as bus:
        for value, key in (("a", "plug-1"), ("b", "sensor-1"), ("c", None)):
            bus.publish("choose", value, key=key)
    return "choose"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--from", "2"), [b"c"]),
        (("--from", "-1h"), [b"a", b"b", b"c"]),
        (("--from", "2100-01-01"), []),
        (("--key", "sensor-*"), [b"b"]),
        (("--key", "*"), [b"a", b"b"]),
        (("--limit", "1"), [b"a"]),
    ],
)
def test_tail_chooses(client: Client, chosen_from: str, args: tuple[str, ...], expected: list[bytes]) -> None:
    assert values(client, chosen_from, *args) == expected


def follow(server: Any, topic: str) -> subprocess.Popen[bytes]:
    """A ``tail`` that has printed what there was and now waits."""
    command = [sys.executable, "-m", "trunkline.cli", "tail", topic, "--from", "earliest", "--server", server.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert b"first" in process.stdout.readline()
    return process


def test_tail_prints_what_comes(server: Any, client: Client) -> None:
    client("publish", "live", "first")
    with follow(server, "live") as process:
        client("publish", "live", "second")
        assert process.stdout is not None
        assert b"live/0@1  -  second" in process.stdout.readline()
        process.kill()


def test_an_interrupted_tail_is_exit_code_130_and_silent(server: Any, client: Client) -> None:
    client("publish", "stopped", "first")
    with follow(server, "stopped") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_goes_away_ends_tail_quietly(server: Any, client: Client) -> None:
    client("publish", "piped", stdin=b"first\n" * 50_000)
    with follow(server, "piped") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_input_that_comes_slowly_is_published_as_it_comes(server: Any, client: Client) -> None:
    command = [sys.executable, "-m", "trunkline.cli", "publish", "slow", "--server", server.url]
    client("topic", "create", "slow")
    tail = [sys.executable, "-m", "trunkline.cli", "tail", "slow", "--from", "earliest", "--server", server.url]
    read_end, write_end = os.pipe()
    with (
        subprocess.Popen(command, stdin=read_end, stdout=subprocess.DEVNULL) as publisher,
        subprocess.Popen(tail, stdout=subprocess.PIPE) as reader,
    ):
        os.close(read_end)
        for text in (b"one", b"two"):
            os.write(write_end, text + b"\n")
            assert reader.stdout is not None
            assert reader.stdout.readline().endswith(text + b"\n")
        os.close(write_end)
        assert publisher.wait(TIMEOUT_S) == 0
        reader.kill()
