"""``trunkline group reset``: have a group go on elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table
from trunkline.cli.tail import parse_position

if TYPE_CHECKING:
    from trunkline_native.client import Bus, OffsetChange

__all__ = ["reset"]


@click.command()
@click.argument("name")
@click.option("--to", "position", metavar="WHERE", required=True,
              help="earliest, latest, an offset, or a time: ISO 8601, or -10m, -1h, -2d ago.")  # fmt: skip
@click.option("--topic", metavar="NAME", help="Only in this topic.  [default: all it has committed something in]")
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N",
              help="Only in this partition of the topic (repeatable).")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Change nothing, only show what would be.")
@server_option
@json_option
@debug_option
def reset(
    name: str,
    position: str,
    topic: str | None,
    partitions: tuple[int, ...],
    dry_run: bool,
    server: str,
    as_json: bool,
) -> None:
    """Have a group go on elsewhere; only while it has no members.

    With --topic the group need not exist yet: what reads under its name begins there.
    """
    if partitions and topic is None:
        raise click.UsageError("--partition needs --topic: partitions are those of one topic")
    where = parse_position(position, datetime.now(UTC), "--to")

    async def change(bus: Bus) -> dict[tuple[str, int], OffsetChange]:
        return await bus.group(name).reset(where, topic, partitions=partitions or None, dry_run=dry_run)

    changes = run_client(server, change)
    if as_json:
        for (found, partition), moved in changes.items():
            row = {"topic": found, "partition": partition, "old": moved.old, "new": moved.new, "dry_run": dry_run}
            print_json({"group": name, **row})
        return
    print_table(
        ("TOPIC", "PARTITION", "OLD", "NEW"),
        [
            (found, partition, "-" if moved.old is None else moved.old, moved.new)
            for (found, partition), moved in changes.items()
        ],
    )
    if dry_run:
        click.echo("nothing was changed (--dry-run)", err=True)
