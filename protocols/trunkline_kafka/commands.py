"""``trunkline transactions``: look at the transactions of Kafka's clients, and abort one that holds others up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option
from trunkline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trunkline_native.client import Bus

__all__ = ["transactions"]

_COLUMNS = ("TRANSACTIONAL ID", "STATE", "OPEN", "TIMEOUT", "PRODUCER", "EPOCH")


@click.group()
def transactions() -> None:
    """Look at transactions, and abort one that holds others up."""


@transactions.command("list")
@click.option("--open", "is_open", is_flag=True, help="Only those that are open or being ended.")
@server_option
@json_option
@debug_option
def list_transactions(is_open: bool, server: str, as_json: bool) -> None:
    """List transactional ids with their present or last transaction."""

    async def fetch(bus: Bus) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = await bus.ask_door("kafka", "transactions", after=after)
            rows += page["transactions"]
            after = page["next"]
        return rows

    rows = [row for row in run_client(server, fetch) if not is_open or row["open_s"] is not None]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_table(_COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["transactional_id"],
        row["state"],
        "-" if row["open_s"] is None else f"{row['open_s']:.1f} s",
        f"{row['timeout_s']:g} s",
        row["producer_id"],
        row["epoch"],
    )


@transactions.command()
@click.argument("transactional_id")
@server_option
@json_option
@debug_option
def describe(transactional_id: str, server: str, as_json: bool) -> None:
    """Show one transaction: where it writes, and how many records wait behind it there."""

    async def ask(bus: Bus) -> Any:
        return await bus.ask_door("kafka", "transaction", transactional_id=transactional_id)

    row = run_client(server, ask)
    if as_json:
        print_json(row)
        return
    print_table(_COLUMNS, [_cells(row)])
    if row["partitions"]:
        click.echo()
        print_table(
            ("TOPIC", "PARTITION", "OPEN SINCE OFFSET", "HELD BACK"),
            [
                (each["topic"], each["partition"], "-" if each["first_offset"] is None else each["first_offset"],
                 each["held_back"])
                for each in row["partitions"]
            ],
        )  # fmt: skip
    if row["groups"]:
        click.echo()
        print_table(("GROUP",), [(group,) for group in row["groups"]])


@transactions.command()
@click.argument("transactional_id")
@server_option
@json_option
@debug_option
def abort(transactional_id: str, server: str, as_json: bool) -> None:
    """Abort what is open, and fence its producer: it has to be started again."""

    async def ask(bus: Bus) -> Any:
        return await bus.ask_door("kafka", "abort", transactional_id=transactional_id)

    is_aborted = run_client(server, ask)
    if as_json:
        print_json({"transactional_id": transactional_id, "aborted": is_aborted})
    elif is_aborted:
        click.echo(f"aborted {transactional_id}")
    if not is_aborted:
        raise click.ClickException(f"{transactional_id!r} has no open transaction")
