"""What the demo shows: how it goes while it runs, and the count at the end.

On a terminal there is a line that moves; in a pipe or a log, a plain line whenever something happens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from trunkline.demo.run import Narrator, Plan
from trunkline.demo.tally import Result

__all__ = ["as_fields", "narrator", "print_report"]


class _Lines(Narrator):
    """Events as lines, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def event(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:6.2f} s  {text}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Live(_Lines):
    """Events as lines above a line that moves."""

    def __init__(self, console: Console, progress: Progress, total: int | None) -> None:
        super().__init__(console)
        self._progress = progress
        self._task = progress.add_task("", total=total, acknowledged=0, read=0)

    def progress(self, published: int, acknowledged: int, read: int) -> None:
        self._progress.update(self._task, completed=published, acknowledged=acknowledged, read=read)


@contextmanager
def narrator(plan: Plan, *, is_silent: bool) -> Iterator[Narrator]:
    """Who tells how it goes, while the block runs: on a terminal, in a pipe, or not at all."""
    console = Console()
    if is_silent:
        yield Narrator()
    elif not console.is_terminal:
        yield _Lines(console)
    else:
        columns = (
            SpinnerColumn(),
            *([BarColumn(bar_width=20)] if plan.records else []),
            TextColumn("published {task.completed:,}  acknowledged {task.fields[acknowledged]:,}"),
            TextColumn("read {task.fields[read]:,}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield _Live(console, progress, plan.records)


def as_fields(result: Result) -> dict[str, Any]:
    """The result for ``--json``."""
    fields: dict[str, Any] = msgspec.to_builtins(result)
    return {"event": "demo", "is_kept": result.is_kept, **fields}


def print_report(result: Result, *, is_kept: bool) -> None:
    """The count as a table, what it means, and how to look further."""
    console = Console(highlight=False)
    console.print(_table(result))
    for line in _meaning(result):
        console.print(line)
    console.print()
    if is_kept:
        console.print(
            f"The records are in {result.data}. Look at them:\n\n"
            f"    trunkline serve --data {result.data}\n"
            "    trunkline tail mqtt --no-follow --limit 10\n"
            "    trunkline tail mqtt --no-follow --key 'weather/seattle/*' --json\n"
            "    trunkline topic describe mqtt\n",
            markup=False,
            soft_wrap=True,
        )
    else:
        console.print("The data directory was temporary; keep one with: trunkline demo --data DIR", markup=False)


def _table(result: Result) -> Table:
    count = result.tally
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(name: str, value: str, note: str = "", style: str = "") -> None:
        table.add_row(Text(name), Text(value, style=style), Text(note))

    row("published", f"{count.published:,}", "readings, by paho-mqtt clients, QoS 1")
    row("acknowledged", f"{count.acknowledged:,}", "PUBACK received: synced to disk")
    for name, records in count.read.items():
        row(name, f"{records:,}", "records")
    row("back from offline", f"{result.returned.received:,}", f"messages of {result.returned.topic}, QoS 1")
    if result.returned.missing:
        row("missing there", f"{result.returned.missing:,}", "acknowledged, and not received", "bold red")
    row("lost", f"{count.lost:,}", "acknowledged, and missing from a reader", _judged(count.lost))
    row("out of order", f"{count.out_of_order:,}", "or read twice", _judged(count.out_of_order))
    row("duplicated", f"{count.duplicated:,}", "sent again: the acknowledgement was lost")
    if count.unacknowledged:
        row("unacknowledged", f"{count.unacknowledged:,}", "published, but never acknowledged", "bold red")
    if result.interruption:
        away = result.interruption
        row("broker killed", f"{away.acknowledged_before:,}", "acknowledgements before")
        row("ready again", f"{away.ready_again_s:.2f} s", "after the kill, with recovery")
        row("publishing again", f"{away.acknowledging_again_s:.2f} s", "after the kill; paho pauses 1 s")
    row("throughput", f"{result.records_per_s:,.0f}/s", "acknowledged, while the broker was there")
    kinds = f", {result.segments} of them log segments" if result.segments else ""  # other stores have none
    row("on disk", f"{result.bytes_on_disk:,} B", f"{result.files} files{kinds}")
    return table


def _judged(number: int) -> str:
    return "bold red" if number else "bold green"


def _meaning(result: Result) -> Iterator[Text]:
    count = result.tally
    yield Text()
    if result.is_kept:
        yield Text(
            "Every acknowledged reading is there, in order, for every reader and the device that was away.",
            style="bold green",
        )
    else:
        yield Text(
            "Something acknowledged is missing, or not all was acknowledged: please report this.", style="bold red"
        )
    if count.duplicated:
        yield Text(
            "Duplicates are QoS 1 at work: a device that got no acknowledgement cannot know whether its message was "
            "written, and sends it again. At least once, never less."
        )
