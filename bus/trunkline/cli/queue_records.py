"""``trunkline queue purge``, ``move``, ``peek`` and ``reset``: what is done to a queue's records."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json
from trunkline.cli.tail import parse_position

if TYPE_CHECKING:
    from trunkline_native.client import Bus, PeekedRecord

__all__ = ["ask", "move", "peek", "purge", "reset"]


def ask(question: str, *, yes: bool) -> None:
    """Go on only after a yes: said before, or now on a terminal. Raises a usage error where nobody can say it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say --yes if that is meant")
    click.confirm(question, abort=True, err=True)


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_option
@json_option
@debug_option
def purge(name: str, yes: bool, server: str, as_json: bool) -> None:
    """Forget every record that is ready. They stay in their topics; what consumers hold is theirs.

    Asks on a terminal; elsewhere it wants --yes.
    """
    ask(f"Forget every record that is ready in {name}?", yes=yes)

    async def forget(bus: Bus) -> int:
        return await bus.queue(name).purge()

    count = run_client(server, forget)
    if as_json:
        print_json({"queue": name, "purged": count})
    else:
        click.echo(f"purged {_count(count)} from {name}")


@click.command()
@click.argument("name")
@click.argument("topic")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="No more than so many.")
@server_option
@json_option
@debug_option
def move(name: str, topic: str, limit: int | None, server: str, as_json: bool) -> None:
    """Publish the records that are ready to TOPIC, the oldest first, and take them out of the queue.

    The home topic of another queue has that queue's name.
    """

    async def publish(bus: Bus) -> int:
        return await bus.queue(name).move(topic, limit=limit)

    count = run_client(server, publish)
    if as_json:
        print_json({"queue": name, "topic": topic, "moved": count})
    else:
        click.echo(f"moved {_count(count)} from {name} to {topic}")


@click.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, metavar="N",
              help="No more than so many.")  # fmt: skip
@click.option("--after", type=click.IntRange(min=0), metavar="SEQUENCE", help="Only those behind this one.")
@server_option
@json_option
@debug_option
def peek(name: str, limit: int, after: int | None, server: str, as_json: bool) -> None:
    """Print the oldest records of a queue without taking them.

    A line has the sequence, the state (ready, unacked or delayed), how often the record was delivered before,
    and then what tail prints. JSON objects have these besides what tail --json has.
    """

    async def look(bus: Bus) -> list[PeekedRecord]:
        return await bus.queue(name).peek(limit, after=after)

    for found in run_client(server, look):
        place = {"sequence": found.sequence, "state": found.state, "deliveries": found.deliveries}
        if as_json:
            print_json(place | record_as_json(found.record))
        else:
            from trunkline.cli.records import format_for_people

            click.echo("  ".join(map(str, place.values())) + f"  {format_for_people(found.record).decode()}")


@click.command()
@click.argument("name")
@click.option("--to", "where", required=True, metavar="WHERE",
              help="earliest, latest, an offset, or a time: ISO 8601, or -10m, -1h, -2d ago.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_option
@json_option
@debug_option
def reset(name: str, where: str, yes: bool, server: str, as_json: bool) -> None:
    """Let a queue begin anew at a place in its sources: forget what it has, and take what lies there from then on.

    Asks on a terminal; elsewhere it wants --yes.
    """
    position = parse_position(where, datetime.now(UTC), "--to")
    ask(f"Forget what {name} has, and begin anew at {where}?", yes=yes)

    async def begin(bus: Bus) -> int:
        return await bus.queue(name).reset(position)

    count = run_client(server, begin)
    if as_json:
        print_json({"queue": name, "position": where, "forgotten": count})
    else:
        click.echo(f"{name} begins at {where}; {_count(count)} forgotten")


def record_as_json(record: Any) -> dict[str, Any]:
    """What ``tail --json`` prints of a record."""
    import msgspec

    from trunkline.cli.records import format_json

    fields: dict[str, Any] = msgspec.json.decode(format_json(record))
    return fields


def _count(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
