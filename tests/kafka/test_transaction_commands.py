"""``trunkline transactions``, and what it asks of the door."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import confluent_kafka
import pytest
from confluent_kafka import admin

from trunkline import connect_blocking
from trunkline.cli.root import run
from trunkline.errors import UnknownTransactionalId, UnsupportedRequest
from trunkline.testing.background import BackgroundBroker

WAIT_S = 20.0


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Result]


@pytest.fixture(scope="module")
def running() -> Iterator[BackgroundBroker]:
    with BackgroundBroker(store="memory", listen=dict.fromkeys(("native", "kafka"), "127.0.0.1:0")) as opened:
        yield opened


@pytest.fixture(scope="module")
def producer(running: BackgroundBroker) -> confluent_kafka.Producer:
    """``billing`` has a transaction open in ``orders/0``, with three records, and one of another behind it."""
    host, port = running.addresses["kafka"]
    server = {"bootstrap.servers": f"{host}:{port}"}
    client = admin.AdminClient(server)
    client.create_topics([admin.NewTopic("orders", 1, 1)])["orders"].result(WAIT_S)
    for name in ("quiet", "billing"):
        made = confluent_kafka.Producer({**server, "transactional.id": name, "transaction.timeout.ms": 600_000})
        made.init_transactions(WAIT_S)
    made.begin_transaction()
    for _ in range(3):
        made.produce("orders", b"x")
    assert made.flush(WAIT_S) == 0
    other = confluent_kafka.Producer(server)
    other.produce("orders", b"behind")
    assert other.flush(WAIT_S) == 0
    return made


@pytest.fixture
def command(
    running: BackgroundBroker,
    producer: confluent_kafka.Producer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``trunkline transactions ARGS`` in this process."""
    monkeypatch.setenv("TRUNKLINE_SERVER", running.url)

    def run_command(*args: str) -> Result:
        code = run(["transactions", *args])
        return Result(code, *capfd.readouterr())

    return run_command


def test_transactions_are_listed(command: Command) -> None:
    rows = command("list", "--json").rows
    assert [(row["transactional_id"], row["state"]) for row in rows] == [("billing", "ongoing"), ("quiet", "empty")]
    assert rows[0]["timeout_s"] == 600
    assert [row["transactional_id"] for row in command("list", "--open", "--json").rows] == ["billing"]
    assert "billing" in command("list").out


def test_a_list_comes_in_pages(running: BackgroundBroker, producer: confluent_kafka.Producer) -> None:
    with connect_blocking(running.url) as bus:
        first = bus.ask_door("kafka", "transactions", limit=1)
        assert ([row["transactional_id"] for row in first["transactions"]], first["next"]) == (["billing"], "billing")
        rest = bus.ask_door("kafka", "transactions", limit=1, after="billing")
        assert ([row["transactional_id"] for row in rest["transactions"]], rest["next"]) == (["quiet"], None)


def test_one_is_described_with_what_it_holds_back(command: Command) -> None:
    (row,) = command("describe", "billing", "--json").rows
    assert row["partitions"] == [{"topic": "orders", "partition": 0, "first_offset": 0, "held_back": 4}]
    assert "orders" in command("describe", "billing").out
    assert command("describe", "nobody").code != 0


def test_nonsense_is_refused(running: BackgroundBroker, producer: confluent_kafka.Producer) -> None:
    with connect_blocking(running.url) as bus:
        with pytest.raises(UnsupportedRequest, match="knows transactions"):
            bus.ask_door("kafka", "nonsense")
        with pytest.raises(UnsupportedRequest, match="transactional_id"):
            bus.ask_door("kafka", "abort")
        with pytest.raises(UnknownTransactionalId):
            bus.ask_door("kafka", "abort", transactional_id="nobody")


def test_what_is_open_is_aborted_once(command: Command, producer: confluent_kafka.Producer) -> None:
    done = command("abort", "billing")
    assert (done.code, done.out) == (0, "aborted billing\n")
    again = command("abort", "billing")
    assert again.code == 1
    assert "no open transaction" in again.err
    with pytest.raises(confluent_kafka.KafkaException):
        producer.commit_transaction(WAIT_S)
