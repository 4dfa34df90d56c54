"""``trunkline store``: look at what stores keep, and move it, while no broker runs."""

from __future__ import annotations

import click

from trunkline.cli.store_convert import convert
from trunkline.cli.store_dump import dump
from trunkline.cli.store_verify import verify

__all__ = ["store"]


@click.group()
def store() -> None:
    """Verify, dump and convert what a stopped broker keeps."""


for command in (verify, dump, convert):
    store.add_command(command)
