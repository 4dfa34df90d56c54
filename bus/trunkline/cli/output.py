"""Writing results: JSON lines, and tables that are pretty on a terminal and plain in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

__all__ = ["print_json", "print_table"]


def print_json(value: object) -> None:
    """One JSON value on one line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn by rich on a terminal; in a pipe tab-separated, headings first, for ``cut`` and ``awk``."""
    if not sys.stdout.isatty():
        for row in (headings, *rows):
            click.echo("\t".join(map(str, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
