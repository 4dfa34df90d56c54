"""``trunkline bridge``: how the bridges to other systems go."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trunkline.bridge import BridgeStatus, LinkStatus
    from trunkline_native.client import Bus

__all__ = ["bridge"]


@click.group()
def bridge() -> None:
    """Look at the bridges to other systems."""


@bridge.command()
@click.argument("name", required=False)
@click.option("--link", "links", metavar="LINK", multiple=True, help="Only this link (repeatable).")
@server_option
@json_option
@debug_option
def status(name: str | None, links: tuple[str, ...], server: str, as_json: bool) -> None:
    """Show each link: what it moves, how it goes, what waits, and what went wrong. Without NAME, of all bridges.

    Exits with 1 if a bridge or a link that was asked for is not there.
    """

    async def fetch(bus: Bus) -> list[BridgeStatus]:
        return await bus.list_bridges()

    bridges = [found for found in run_client(server, fetch) if name in (None, found.name)]
    if name is not None and not bridges:
        raise click.ClickException(
            f"the broker has no bridge {name!r}; its configuration needs a table [bridge.{name}]"
        )
    rows = [(found, link) for found in bridges for link in found.links if not links or link.name in links]
    missing = set(links) - {link.name for _, link in rows}
    if missing:
        raise click.ClickException(f"there is no link {', '.join(sorted(missing))}")
    if as_json:
        for found in bridges:
            _print_as_json(found, links)
    else:
        _print_tables(bridges, rows)


def _print_as_json(found: BridgeStatus, links: tuple[str, ...]) -> None:
    import msgspec

    shown = tuple(link for link in found.links if not links or link.name in links)
    print_json(msgspec.to_builtins(msgspec.structs.replace(found, links=shown)))


def _print_tables(bridges: list[BridgeStatus], rows: list[tuple[BridgeStatus, LinkStatus]]) -> None:
    print_table(
        ("BRIDGE", "LINK", "FROM", "TO", "STATE", "MESSAGES", "LAG"),
        [
            (
                found.name,
                link.name,
                link.source,
                link.destination,
                link.state,
                link.counters.get("messages", 0),
                "-" if link.lag is None else link.lag,
            )
            for found, link in rows
        ],
    )
    for found, link in rows:
        if link.error:
            when = datetime.datetime.fromtimestamp(link.error_ms / 1000, datetime.UTC).astimezone()
            click.echo(f"\n{found.name} {link.name}, {when.isoformat(' ', 'seconds')}: {link.error}")
    for found in bridges:
        if found.error:
            click.echo(f"\n{found.name} has failed {found.failures} times, last with {found.error}")
