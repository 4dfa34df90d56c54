"""``trunkline group`` against a broker in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from trunkline import connect_blocking
from trunkline.cli.root import run


class Result(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


Client = Callable[..., Result]


@pytest.fixture
def client(server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Client:
    """Runs ``trunkline ARGS`` in this process against the module's broker."""
    monkeypatch.setenv("TRUNKLINE_SERVER", server.url)

    def run_client(*args: str) -> Result:
        capfd.readouterr()
        code = run(list(args))
        return Result(code, *capfd.readouterr())

    return run_client


def json_lines(output: str) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def fill(server: Any, topic: str, count: int = 10) -> None:
    with connect_blocking(server.url) as bus:
        for number in range(count):
            bus.send(topic, str(number), timestamp=number * 1000)


def test_a_group_is_reset_listed_described_and_deleted(server: Any, client: Client) -> None:
    fill(server, "life")
    reset = client("group", "reset", "audit", "--to", "4", "--topic", "life")
    assert (reset.returncode, reset.stdout) == (0, "TOPIC\tPARTITION\tOLD\tNEW\nlife\t0\t-\t4\n")
    assert "audit\tsimple\tEmpty\t0\n" in client("group", "list").stdout
    assert "audit" in [found["name"] for found in json_lines(client("group", "list", "--json").stdout)]
    described = client("group", "describe", "audit").stdout
    assert described.startswith("audit: Empty, 0 members, simple, generation 0, lag 6\n")
    assert "life\t0\t4\t0\t10\t6\t-\n" in described
    assert client("group", "delete", "audit").stdout == "deleted audit\n"
    gone = client("group", "describe", "audit")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "there is no group 'audit'" in gone.stderr


def test_reset_takes_times_and_offsets_and_shows_first_what_it_would_do(server: Any, client: Client) -> None:
    fill(server, "times")
    client("group", "reset", "replay", "--to", "latest", "--topic", "times")
    dry = client("group", "reset", "replay", "--to", "1970-01-01T00:00:06Z", "--dry-run")
    assert dry.stdout.endswith("times\t0\t10\t6\n")
    assert "nothing was changed" in dry.stderr
    done = client("group", "reset", "replay", "--to", "earliest", "--topic", "times", "--partition", "0", "--json")
    assert json_lines(done.stdout) == [
        {"group": "replay", "topic": "times", "partition": 0, "old": 10, "new": 0, "dry_run": False}
    ]
    assert client("group", "reset", "replay", "--to", "earliest", "--partition", "0").returncode == 2
    assert client("group", "reset", "replay", "--to", "someday").returncode == 2
    assert client("group", "reset", "nobody", "--to", "earliest").returncode == 1
    forgotten = client("group", "delete", "replay", "--topic", "times", "--json")
    assert json_lines(forgotten.stdout) == [{"deleted": "replay", "topic": "times"}]


def test_a_live_group_is_described_and_keeps_its_offsets(server: Any, client: Client) -> None:
    fill(server, "live", 5)
    with (
        connect_blocking(server.url, client_name="till") as bus,
        bus.group("tills").subscribe("live", instance_id="till-1") as records,
    ):
        assert next(records).offset == 0
        records.commit()
        described = client("group", "describe", "tills").stdout
        assert described.startswith("tills: Stable, 1 member, assigned by sticky, generation 1, lag 4\n")
        assert "\ttill-1\ttill\t" in described
        assert "live/0\t-\n" in described
        assert "last rebalance: " in described
        (as_json,) = json_lines(client("group", "describe", "tills", "--json").stdout)
        assert (as_json["lag"], as_json["members"][0]["instance_id"]) == (4, "till-1")
        sentences = client("group", "describe", "tills", "--explain").stdout.splitlines()
        assert sentences[0].startswith("tills is stable with 1 member")
        for command in (["reset", "tills", "--to", "earliest"], ["delete", "tills"]):
            refused = client("group", *command)
            assert refused.returncode == 1
            assert "till-1" in refused.stderr, "it names the members that are in the way"
