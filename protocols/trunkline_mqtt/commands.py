"""``trunkline mqtt``: list the clients of the MQTT door, disconnect them, end their sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trunkline_native.client import Bus

__all__ = ["mqtt"]

_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5.0"}


@click.group()
def mqtt() -> None:
    """List the clients of the MQTT door, disconnect them, end their sessions."""


async def _all_sessions(bus: Bus) -> AsyncIterator[dict[str, Any]]:
    after: str | None = ""
    while after is not None:
        page = await bus.ask_door("mqtt", "sessions", after=after)
        for row in page["sessions"]:
            yield row
        after = page["next"]


@mqtt.command()
@click.argument("client_id", required=False)
@click.option("--offline", is_flag=True, help="Only those that are not connected.")
@server_option
@json_option
@debug_option
def sessions(client_id: str | None, offline: bool, server: str, as_json: bool) -> None:
    """List clients that are connected or have a stored session; with CLIENT_ID that one and its filters.

    LAG is how many records of the log lie ahead of a stored session, wanted or not.
    """

    async def fetch(bus: Bus) -> list[dict[str, Any]]:
        if client_id is not None:
            found = await bus.ask_door("mqtt", "session", client_id=client_id)
            return [] if found is None else [found]
        return [row async for row in _all_sessions(bus) if not (offline and row["is_connected"])]

    rows = run_client(server, fetch)
    if client_id is not None and not rows:
        raise click.ClickException(f"no client {client_id!r} is connected or has a session")
    if as_json:
        for row in rows:
            print_json(row)
        return
    print_table(
        ("CLIENT", "CONNECTED", "VERSION", "STORED", "FILTERS", "UNACKED", "LAG", "MISSED", "OFFLINE", "EXPIRES"),
        [_row(row) for row in rows],
    )
    if client_id is not None:
        click.echo()
        print_table(("FILTER",), [(name,) for name in rows[0]["filters"]])


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    offline, expires = row["offline_s"], row["expires_s"]
    return (
        row["client_id"],
        row["peer"] or "no",
        _VERSIONS.get(row["protocol_level"], "-"),
        "yes" if row["is_stored"] else "no",
        row["filter_count"],
        row["unacknowledged"],
        row["lag_records"],
        row["missed"],
        "-" if offline is None else f"{offline:.0f} s",
        "-" if not row["is_stored"] else "never" if expires is None else f"{expires:.0f} s",
    )


@mqtt.command()
@click.argument("client_ids", nargs=-1, required=True, metavar="CLIENT_ID...")
@server_option
@json_option
@debug_option
def kick(client_ids: tuple[str, ...], server: str, as_json: bool) -> None:
    """Disconnect clients. Stored sessions stay; most clients connect again at once."""
    _do("kick", "kicked", client_ids, None, server, as_json)


@mqtt.command()
@click.argument("client_ids", nargs=-1, metavar="[CLIENT_ID]...")
@click.option("--offline-for", type=click.FloatRange(min=0), metavar="SECONDS",
              help="All that have not been connected for so long.")  # fmt: skip
@server_option
@json_option
@debug_option
def purge(client_ids: tuple[str, ...], offline_for: float | None, server: str, as_json: bool) -> None:
    """End sessions: subscriptions, and what is not acknowledged, are forgotten; who is connected is disconnected."""
    if not client_ids and offline_for is None:
        raise click.UsageError("nothing to purge: give CLIENT_ID or --offline-for SECONDS")
    _do("purge", "purged", client_ids, offline_for, server, as_json)


def _do(
    request: str, done: str, client_ids: tuple[str, ...], offline_for: float | None, server: str, as_json: bool
) -> None:
    """Ask for each; exits with 1 if one of those named is not there."""

    async def ask(bus: Bus) -> dict[str, bool]:
        names = [*client_ids]
        if offline_for is not None:
            names += [
                row["client_id"]
                async for row in _all_sessions(bus)
                if row["offline_s"] is not None and row["offline_s"] >= offline_for
            ]
        return {name: await bus.ask_door("mqtt", request, client_id=name) for name in dict.fromkeys(names)}

    outcomes = run_client(server, ask)
    for name, is_done in outcomes.items():
        if as_json:
            print_json({"client_id": name, done: is_done})
        elif is_done:
            click.echo(f"{done} {name}")
    missing = [name for name in client_ids if not outcomes[name]]
    if missing:
        problem = "not connected" if request == "kick" else "neither connected nor stored"
        raise click.ClickException(f"{problem}: {', '.join(map(repr, missing))}")
