"""``trunkline topic delete-records``: remove the oldest records of a topic at once."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table
from trunkline.cli.tail import parse_position

if TYPE_CHECKING:
    from trunkline_native.client import Bus, PartitionDescription, TopicDescription

__all__ = ["delete_records"]


@click.command("delete-records")
@click.argument("name")
@click.option("--before", metavar="WHERE", required=True,
              help="Keep what is from here on: an offset, a time (ISO 8601, or -1h, -2d ago), or latest.")  # fmt: skip
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="Only this one.  [default: all]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_option
@json_option
@debug_option
def delete_records(name: str, before: str, partition: int | None, yes: bool, server: str, as_json: bool) -> None:
    """Remove the oldest records of a topic, at once and for good, whatever its retention says.

    Shows on a terminal what would go, and asks. Elsewhere it wants --yes.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("this removes records for good; say --yes if that is meant")
    position = parse_position(before, datetime.now(UTC), "--before")
    if position == "earliest":
        raise click.BadParameter("earliest removes nothing", param_hint="--before")

    async def remove(bus: Bus) -> dict[int, int]:
        described = await bus.describe_topic(name)
        chosen = _chosen(described, partition)
        if isinstance(position, int) and len(chosen) > 1:
            raise click.UsageError(f"{name} has {len(chosen)} partitions; say with --partition whose offset that is")
        targets = {}
        for part in chosen:
            offset = position if isinstance(position, int) else None
            if isinstance(position, datetime):
                offset = await bus.offset_at(name, part.index, position)
            # None: all are meant, or no record is that late. Those that come meanwhile stay
            targets[part.index] = part.high_watermark if offset is None else offset
        if not yes:
            _ask(name, chosen, targets)
        return await bus.delete_records(name, targets)

    starts = run_client(server, remove)
    if as_json:
        for index, start in starts.items():
            print_json({"topic": name, "partition": index, "log_start_offset": start})
    else:
        print_table(("PARTITION", "LOG START"), list(starts.items()))


def _chosen(described: TopicDescription, partition: int | None) -> list[PartitionDescription]:
    if partition is None:
        return list(described.partitions)
    found = [part for part in described.partitions if part.index == partition]
    if not found:
        raise click.BadParameter(
            f"{described.name} has no partition {partition}, only 0 to {len(described.partitions) - 1}",
            param_hint="--partition",
        )
    return found


def _ask(name: str, chosen: list[PartitionDescription], targets: dict[int, int]) -> None:
    """Say what would go, and go on only after a yes."""
    for part in chosen:
        offset = targets[part.index]
        count = max(offset - part.log_start_offset, 0)
        click.echo(
            f"{name}/{part.index}: removes {count} offsets, from {part.log_start_offset} up to {offset}", err=True
        )
    click.confirm("Remove them for good?", abort=True, err=True)
