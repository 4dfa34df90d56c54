"""``trunkline topic``: make, list, describe, change and delete topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.client import run_client
from trunkline.cli.delete_records import delete_records
from trunkline.cli.options import debug_option, json_option, parse_pairs, server_option
from trunkline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trunkline_native.client import Bus, PartitionDescription, TopicDescription

__all__ = ["topic"]


@click.group()
def topic() -> None:
    """Make, list, describe, change and delete topics."""


topic.add_command(delete_records)


@topic.command()
@click.argument("name")
@click.option(
    "--partitions", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many partitions."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting, by Kafka's name (repeatable).")
@server_option
@json_option
@debug_option
def create(name: str, partitions: int, settings: tuple[str, ...], server: str, as_json: bool) -> None:
    """Make a topic. Fails if it is there already."""

    pairs = parse_pairs(settings, "--set")

    async def make(bus: Bus) -> TopicDescription:
        return await bus.create_topic(name, partitions=partitions, settings=pairs)

    made = run_client(server, make)
    if as_json:
        print_json(_as_json(made))
    else:
        click.echo(f"created {name} with {_count(len(made.partitions), 'partition')}")


@topic.command("list")
@server_option
@json_option
@debug_option
def list_topics(server: str, as_json: bool) -> None:
    """List topics by name."""

    async def fetch(bus: Bus) -> list[TopicDescription]:
        return await bus.list_topics()

    topics = run_client(server, fetch)
    if as_json:
        for found in topics:
            print_json(_as_json(found))
    else:
        rows = [(found.name, len(found.partitions), _records(found)) for found in topics]
        print_table(("TOPIC", "PARTITIONS", "RECORDS"), rows)


@topic.command()
@click.argument("name")
@server_option
@json_option
@debug_option
def describe(name: str, server: str, as_json: bool) -> None:
    """Show the partitions of a topic, who reads them by name, and all settings."""

    async def fetch(bus: Bus) -> TopicDescription:
        return await bus.describe_topic(name)

    found = run_client(server, fetch)
    if as_json:
        print_json(_as_json(found))
        return
    click.echo(f"{found.name}: {_count(len(found.partitions), 'partition')}, id {found.id}\n")
    print_table(
        ("PARTITION", "LOG START", "HIGH WATERMARK", "SIZE", "LEADER", "EPOCH"),
        [_partition_row(part) for part in found.partitions],
    )
    click.echo()
    if any(part.readers for part in found.partitions):
        print_table(("READER", "PARTITION", "NEXT OFFSET", "BEHIND"), _reader_rows(found))
        click.echo()
    for part in found.partitions:
        for reader, count in sorted(part.removed_unread.items()):
            click.echo(f"{found.name}/{part.index}: removed before {reader} had read them: {count}\n")
    print_table(("SETTING", "VALUE"), sorted(found.settings.items()))


@topic.command()
@click.argument("name")
@server_option
@json_option
@debug_option
def delete(name: str, server: str, as_json: bool) -> None:
    """Delete a topic and all of its records, for good."""

    async def remove(bus: Bus) -> None:
        await bus.delete_topic(name)

    run_client(server, remove)
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"deleted {name}")


@topic.command("set")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--reset", multiple=True, metavar="NAME", help="Put a setting back to its default (repeatable).")
@server_option
@json_option
@debug_option
def set_settings(name: str, settings: tuple[str, ...], reset: tuple[str, ...], server: str, as_json: bool) -> None:
    """Change settings of a topic, by Kafka's names; they take effect at once."""
    changes: dict[str, str | None] = {**parse_pairs(settings, "NAME=VALUE"), **dict.fromkeys(reset)}
    if not changes:
        raise click.UsageError("nothing to change: give NAME=VALUE or --reset NAME")

    async def change(bus: Bus) -> TopicDescription:
        return await bus.alter_topic(name, changes)

    changed = run_client(server, change)
    if as_json:
        print_json(_as_json(changed))
    else:
        print_table(("SETTING", "VALUE"), [(key, changed.settings[key]) for key in sorted(changes)])


@topic.command()
@click.argument("name")
@click.option(
    "--partitions", type=click.IntRange(min=1), required=True, metavar="N", help="Add partitions until there are N."
)
@server_option
@json_option
@debug_option
def alter(name: str, partitions: int, server: str, as_json: bool) -> None:
    """Give a topic more partitions. Keys are then spread over all of them."""

    async def change(bus: Bus) -> TopicDescription:
        return await bus.alter_topic(name, partitions=partitions)

    changed = run_client(server, change)
    if as_json:
        print_json(_as_json(changed))
    else:
        click.echo(f"{name} has {_count(len(changed.partitions), 'partition')}")


def _partition_row(part: PartitionDescription) -> tuple[object, ...]:
    leader = part.leader or "none"
    return (part.index, part.log_start_offset, part.high_watermark, part.size_bytes, leader, part.leader_epoch)


def _reader_rows(found: TopicDescription) -> list[tuple[object, ...]]:
    return [
        (reader, part.index, offset, max(part.high_watermark - offset, 0))
        for part in found.partitions
        for reader, offset in sorted(part.readers.items())
    ]


def _records(found: TopicDescription) -> int:
    return sum(part.high_watermark - part.log_start_offset for part in found.partitions)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_json(found: TopicDescription) -> Any:
    import msgspec

    return msgspec.to_builtins(found)
