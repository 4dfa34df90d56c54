"""``trunkline queue dead``: look at, replay and drop what a queue has given up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table
from trunkline.cli.queue_records import ask, record_as_json

if TYPE_CHECKING:
    from trunkline_native.client import Bus, DeadLetter

__all__ = ["dead"]

_limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="No more than so many, the oldest first."
)


@click.group()
def dead() -> None:
    """Look at, replay and drop the dead letters of a queue."""


@dead.command("list")
@click.argument("name")
@_limit_option
@click.option("--explain", is_flag=True, help="Say in a sentence why each was given up.")
@server_option
@json_option
@debug_option
def list_letters(name: str, limit: int | None, explain: bool, server: str, as_json: bool) -> None:
    """Show what a queue has given up: why, when, where it came from, and how often it had come back.

    With --json also the records themselves, as tail --json prints them.
    """

    async def fetch(bus: Bus) -> list[DeadLetter]:
        return [letter async for letter in bus.queue(name).dead_letters(limit=limit)]

    letters = run_client(server, fetch)
    if as_json:
        for letter in letters:
            print_json(_as_json(letter))
    elif explain:
        for letter in letters:
            click.echo(letter.explain())
    else:
        headings = ("AT", "REASON", "FROM", "CAME BACK", "REPLAYED", "WHEN", "KEY")
        print_table(headings, list(map(_row, letters)))


@dead.command()
@click.argument("name")
@click.option("--to", metavar="TOPIC", help="Publish them to this topic.  [default: the queue's home topic]")
@_limit_option
@server_option
@json_option
@debug_option
def replay(name: str, to: str | None, limit: int | None, server: str, as_json: bool) -> None:
    """Give dead letters back to the queue, and remove them; a header counts how often that was done.

    They go to its home topic, so that no other queue gets them again. If this is interrupted, some may come twice.
    """

    async def publish(bus: Bus) -> int:
        return await bus.queue(name).replay_dead_letters(limit=limit, to=to)

    count = run_client(server, publish)
    if as_json:
        print_json({"queue": name, "topic": to or name, "replayed": count})
    else:
        click.echo(f"replayed {_count(count)} to {to or name}")


@dead.command()
@click.argument("name")
@_limit_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_option
@json_option
@debug_option
def drop(name: str, limit: int | None, yes: bool, server: str, as_json: bool) -> None:
    """Remove dead letters for good. Asks on a terminal; elsewhere it wants --yes."""
    what = "every dead letter" if limit is None else f"up to {_count(limit)}"
    ask(f"Remove {what} of {name} for good?", yes=yes)

    async def remove(bus: Bus) -> int:
        return await bus.queue(name).drop_dead_letters(limit=limit)

    count = run_client(server, remove)
    if as_json:
        print_json({"queue": name, "dropped": count})
    else:
        click.echo(f"dropped {_count(count)} of {name}")


def _row(letter: DeadLetter) -> tuple[object, ...]:
    record = letter.record
    return (
        f"{record.topic}/{record.partition}@{record.offset}",
        letter.reason,
        f"{letter.topic}/{letter.partition}@{letter.offset}",
        letter.deliveries,
        letter.replayed,
        _when(letter.time),
        "-" if record.key is None else ascii(record.key.decode("utf-8", "backslashreplace"))[1:-1],
    )


def _when(time_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return str(time_ms)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "reason": letter.reason,
        "queue": letter.queue,
        "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        "sequence": letter.sequence,
        "deliveries": letter.deliveries,
        "replayed": letter.replayed,
        "time": letter.time,
        "record": record_as_json(letter.record),
    }


def _count(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
