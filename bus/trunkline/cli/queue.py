"""``trunkline queue``: make, list, describe, change and delete queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, parse_pairs, server_option
from trunkline.cli.output import print_json, print_table
from trunkline.cli.queue_dead import dead
from trunkline.cli.queue_records import move, peek, purge, reset

if TYPE_CHECKING:
    from trunkline_native.client import Bus, QueueDescription, QueueSource

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Make, list, describe, change and delete queues, and deal with their records."""


for command in (purge, move, peek, reset, dead):
    queue.add_command(command)


@queue.command()
@click.argument("name")
@click.option("--source", "topics", multiple=True, metavar="TOPIC",
              help="Take records from this topic, beside the home topic NAME (repeatable).")  # fmt: skip
@click.option("--filter", "pattern", default="#", show_default=True, metavar="PATTERN",
              help="Of the sources, only records whose key matches.")  # fmt: skip
@click.option("--syntax", type=click.Choice(["amqp", "mqtt"]), default="amqp", show_default=True,
              help="Of PATTERN: a.*.# or a/+/#.")  # fmt: skip
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE",
              help="Of the sources, only records with this header (repeatable).")  # fmt: skip
@click.option("--any-header", is_flag=True, help="One of several headers is enough.")
@click.option("--from", "start", type=click.Choice(["latest", "earliest"]), default="latest", show_default=True,
              help="Where the sources begin.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="A setting, as in max.length=1000 (repeatable).")  # fmt: skip
@server_option
@json_option
@debug_option
def create(
    name: str,
    topics: tuple[str, ...],
    pattern: str,
    syntax: Any,
    headers: tuple[str, ...],
    any_header: bool,
    start: Any,
    settings: tuple[str, ...],
    server: str,
    as_json: bool,
) -> None:
    """Make a queue. Fails if it is there already."""
    pairs = parse_pairs(settings, "--set")
    wanted_headers = parse_pairs(headers, "--header")
    if not topics and (pattern != "#" or wanted_headers):
        raise click.UsageError("--filter and --header are about sources: name one with --source")

    async def make(bus: Bus) -> QueueDescription:
        from trunkline_native.client import QueueSource

        match: Any = "any" if any_header else "all"
        sources = [QueueSource(topic, pattern, syntax, wanted_headers, match, start) for topic in topics]
        return await bus.create_queue(name, sources=sources, settings=pairs)

    made = run_client(server, make)
    if as_json:
        print_json(_as_json(made))
    else:
        click.echo(f"created {name}")


@queue.command("list")
@server_option
@json_option
@debug_option
def list_queues(server: str, as_json: bool) -> None:
    """List queues by name."""

    async def fetch(bus: Bus) -> list[QueueDescription]:
        return await bus.list_queues()

    queues = run_client(server, fetch)
    if as_json:
        for found in queues:
            print_json(_as_json(found))
    else:
        rows = [(found.name, found.ready, found.unacked, found.delayed, found.consumers) for found in queues]
        print_table(("QUEUE", "READY", "UNACKED", "DELAYED", "CONSUMERS"), rows)


@queue.command()
@click.argument("name")
@click.option("--explain", is_flag=True, help="Say in sentences what it waits for, and why records were given up.")
@server_option
@json_option
@debug_option
def describe(name: str, explain: bool, server: str, as_json: bool) -> None:
    """Show what a queue takes, how many records it has, and all settings."""

    async def fetch(bus: Bus) -> QueueDescription:
        return await bus.queue(name).describe(explain=explain)

    found = run_client(server, fetch)
    if as_json:
        print_json(_as_json(found))
        return
    if explain:
        for sentence in found.explanation:
            click.echo(sentence)
        return
    click.echo(f"{found.name}: id {found.id}{found.origin and f', {found.origin}'}\n")
    home = [] if any(source.topic == name for source in found.sources) else [(name, "all", "earliest")]
    print_table(("SOURCE", "RECORDS", "FROM"), [*home, *map(_source_row, found.sources)])
    click.echo()
    print_table(("COUNT", ""), [(key.replace("_", " "), count) for key, count in found.statistics.items()])
    click.echo()
    print_table(("SETTING", "VALUE"), sorted(found.settings.items()))


@queue.command("set")
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--reset", "defaults", multiple=True, metavar="NAME",
              help="Put a setting back to its default (repeatable).")  # fmt: skip
@server_option
@json_option
@debug_option
def set_settings(name: str, settings: tuple[str, ...], defaults: tuple[str, ...], server: str, as_json: bool) -> None:
    """Change settings of a queue; they take effect at once."""
    changes: dict[str, str | None] = {**parse_pairs(settings, "NAME=VALUE"), **dict.fromkeys(defaults)}
    if not changes:
        raise click.UsageError("nothing to change: give NAME=VALUE or --reset NAME")

    async def change(bus: Bus) -> QueueDescription:
        return await bus.queue(name).alter(changes)

    changed = run_client(server, change)
    if as_json:
        print_json(_as_json(changed))
    else:
        print_table(("SETTING", "VALUE"), [(key, changed.settings[key]) for key in sorted(changes)])


@queue.command()
@click.argument("name")
@click.option("--if-unused", is_flag=True, help="Only if nobody consumes it.")
@click.option("--if-empty", is_flag=True, help="Only if it has no records.")
@server_option
@json_option
@debug_option
def delete(name: str, if_unused: bool, if_empty: bool, server: str, as_json: bool) -> None:
    """Delete a queue. The records stay in their topics, its home topic too."""

    async def remove(bus: Bus) -> int:
        return await bus.queue(name).delete(if_unused=if_unused, if_empty=if_empty)

    count = run_client(server, remove)
    if as_json:
        print_json({"deleted": name, "records": count})
    else:
        click.echo(f"deleted {name}, which had {count} record{'' if count == 1 else 's'}")


def _source_row(source: QueueSource) -> tuple[str, str, str]:
    parts = [] if source.filter == "#" else [f"key {source.filter} ({source.syntax})"]
    joint = " or " if source.match == "any" else " and "
    if source.headers:
        parts.append(joint.join(f"{name}={value}" for name, value in source.headers.items()))
    start = source.start
    begin = start if isinstance(start, str) else ", ".join(f"{part}@{offset}" for part, offset in start.items())
    return source.topic, " with ".join(parts) or "all", begin


def _as_json(found: QueueDescription) -> Any:
    import msgspec

    return msgspec.to_builtins(found, str_keys=True)
