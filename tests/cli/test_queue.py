"""``trunkline queue`` against a broker in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from trunkline import connect_blocking
from trunkline.cli.root import run

WAIT_S = 30.0


class Result(NamedTuple):
    """What a command did."""

    returncode: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Client = Callable[..., Result]


@pytest.fixture
def client(server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Client:
    """Runs ``trunkline queue ARGS`` in this process against the module's broker."""
    monkeypatch.setenv("TRUNKLINE_SERVER", server.url)

    def run_client(*args: str) -> Result:
        code = run(["queue", *args])
        return Result(code, *capfd.readouterr())

    return run_client


@pytest.fixture
def bus(server: Any) -> Iterator[Any]:
    with connect_blocking(server.url) as connected:
        yield connected


def test_a_queue_is_made_described_changed_listed_and_deleted(client: Client) -> None:
    made = client(
        "create", "emails", "--source", "jobs", "--source", "more", "--filter", "mail.#", "--header", "a=b",
        "--header", "c=d", "--any-header", "--set", "max.length=100",
    )  # fmt: skip
    assert made == Result(0, "created emails\n", "")
    assert client("create", "emails").returncode == 1
    (described,) = client("describe", "emails", "--json").json
    assert described["settings"]["max.length"] == "100"
    assert described["sources"][0] == {
        "topic": "jobs", "filter": "mail.#", "syntax": "amqp", "headers": {"a": "b", "c": "d"}, "match": "any",
        "start": described["sources"][0]["start"],
    }  # fmt: skip
    shown = client("describe", "emails").out
    assert "jobs\tkey mail.# (amqp) with a=b or c=d\t" in shown
    assert "emails\tall\tearliest\n" in shown
    assert "\nready\t0\n" in shown
    changed = client("set", "emails", "delivery.limit=3", "--reset", "max.length")
    assert changed.out == "SETTING\tVALUE\ndelivery.limit\t3\nmax.length\t-1\n"
    assert "emails\t0\t0\t0\t0\n" in client("list").out
    assert "emails" in [found["name"] for found in client("list", "--json").json]
    assert client("describe", "emails", "--explain").out.count("\n") >= 1
    assert client("delete", "emails", "--if-unused", "--if-empty").out == "deleted emails, which had 0 records\n"
    assert client("describe", "emails").returncode == 1


def test_records_are_peeked_at_moved_purged_and_taken_anew(client: Client, bus: Any) -> None:
    client("create", "work")
    for number in range(5):
        bus.queue("work").publish(f"v{number}", key="k")
    peeked = client("peek", "work", "--limit", "2", "--after", "0", "--json").json
    assert [(entry["sequence"], entry["state"], entry["value"], entry["topic"]) for entry in peeked] == [
        (1, "ready", "v1", "work"),
        (2, "ready", "v2", "work"),
    ]
    line = client("peek", "work", "--limit", "1").out
    assert line.startswith("0  ready  0  ")
    assert line.endswith("work/0@0  k  v0\n")
    assert client("move", "work", "elsewhere", "--limit", "2").out == "moved 2 records from work to elsewhere\n"
    assert client("move", "work", "elsewhere", "--limit", "1", "--json").json == [
        {"queue": "work", "topic": "elsewhere", "moved": 1}
    ]
    refused = client("purge", "work")
    assert refused.returncode == 2
    assert "Say --yes if that is meant" in refused.err
    assert client("purge", "work", "--yes").out == "purged 2 records from work\n"
    assert client("reset", "work", "--to", "earliest", "--yes").out == "work begins at earliest; 0 records forgotten\n"
    assert client("purge", "work", "--yes", "--json").json == [{"queue": "work", "purged": 5}]
    assert client("reset", "work", "--to", "latest", "--yes", "--json").json == [
        {"queue": "work", "position": "latest", "forgotten": 0}
    ]


def test_dead_letters_are_listed_replayed_and_dropped(client: Client, bus: Any) -> None:
    client("create", "tasks")
    assert client("dead", "list", "tasks").out == "AT\tREASON\tFROM\tCAME BACK\tREPLAYED\tWHEN\tKEY\n"
    for number in range(3):
        bus.queue("tasks").publish(f"v{number}", key=f"k{number}")
    with bus.queue("tasks") as jobs, bus.tail("tasks.dead", start="earliest") as dead:
        for _ in range(3):
            next(jobs).reject("no such address")
        for _ in range(3):
            next(dead)
    lines = client("dead", "list", "tasks").out.splitlines()
    assert lines[1].split("\t")[:5] == ["tasks.dead/0@0", "no such address", "tasks/0@0", "0", "0"]
    assert lines[1].endswith("\tk0")
    assert client("dead", "list", "tasks", "--limit", "1", "--explain").out == (
        "tasks.dead/0@0 was tasks/0@0: queue tasks gave it up because its consumer rejected it, and said: "
        "no such address.\n"
    )
    (letter,) = client("dead", "list", "tasks", "--limit", "1", "--json").json
    assert (letter["source"], letter["record"]["value"]) == ({"topic": "tasks", "partition": 0, "offset": 0}, "v0")
    assert client("dead", "replay", "tasks", "--limit", "1").out == "replayed 1 dead letter to tasks\n"
    assert bus.queue("tasks").peek()[0].record.headers == (("trunkline.replayed", b"1"),)
    assert client("dead", "replay", "tasks", "--limit", "1", "--to", "mended", "--json").json == [
        {"queue": "tasks", "topic": "mended", "replayed": 1}
    ]
    assert client("dead", "drop", "tasks").returncode == 2
    assert client("dead", "drop", "tasks", "--yes").out == "dropped 1 dead letter of tasks\n"
    assert client("dead", "drop", "tasks", "--yes", "--json").json == [{"queue": "tasks", "dropped": 0}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "x", "--filter", "a.#"), 2, "name one with --source"),
        (("create", "x", "--set", "max.length"), 2, "not of the form NAME=VALUE"),
        (("create", "x", "--set", "size=1"), 1, "there are dead.letter.topic, delivery.limit"),
        (("create", "x", "--source", "y", "--filter", "a/#/b", "--syntax", "mqtt"), 1, "filter 'a/#/b'"),
        (("create", "no spaces"), 1, "no spaces"),
        (("set", "x"), 2, "nothing to change"),
        (("peek", "nothing"), 1, "nothing"),
        (("reset", "x", "--to", "whenever", "--yes"), 2, "whenever"),
    ],
)
def test_what_cannot_be_done_is_explained(client: Client, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = client(*arguments)
    assert (result.returncode, said in result.err) == (code, True), result.err
