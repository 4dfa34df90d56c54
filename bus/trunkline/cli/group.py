"""``trunkline group``: list, describe, reset and delete consumer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trunkline.cli.client import run_client
from trunkline.cli.group_reset import reset
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trunkline_native.client import Bus, GroupDescription, GroupSummary

__all__ = ["group"]


@click.group()
def group() -> None:
    """List, describe, reset and delete consumer groups."""


group.add_command(reset)


@group.command("list")
@server_option
@json_option
@debug_option
def list_groups(server: str, as_json: bool) -> None:
    """List groups by name."""

    async def fetch(bus: Bus) -> list[GroupSummary]:
        return await bus.list_groups()

    groups = run_client(server, fetch)
    if as_json:
        import msgspec

        for found in groups:
            print_json(msgspec.to_builtins(found))
    else:
        rows = [(found.name, found.kind, found.state, found.members) for found in groups]
        print_table(("GROUP", "KIND", "STATE", "MEMBERS"), rows)


@group.command()
@click.argument("name")
@click.option("--explain", is_flag=True, help="Say in sentences how it is, and why.")
@server_option
@json_option
@debug_option
def describe(name: str, explain: bool, server: str, as_json: bool) -> None:
    """Show the members of a group, who reads which partition, and how far it is behind."""

    async def fetch(bus: Bus) -> GroupDescription:
        return await bus.group(name).describe()

    found = run_client(server, fetch)
    if as_json:
        import msgspec

        print_json({**msgspec.to_builtins(found), "lag": found.lag})
    elif explain:
        for sentence in found.explanation:
            click.echo(sentence)
    else:
        from trunkline.cli.group_tables import print_group

        print_group(found)


@group.command()
@click.argument("name")
@click.option("--topic", metavar="NAME", help="Forget only what it has committed in this topic.")
@server_option
@json_option
@debug_option
def delete(name: str, topic: str | None, server: str, as_json: bool) -> None:
    """Forget a group and what it has committed; only while it has no members."""

    async def remove(bus: Bus) -> None:
        await bus.group(name).delete(topic)

    run_client(server, remove)
    if as_json:
        print_json({"deleted": name, "topic": topic})
    else:
        click.echo(f"deleted {name}" if topic is None else f"deleted what {name} had committed in {topic}")
