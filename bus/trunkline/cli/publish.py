"""``trunkline publish``: records from arguments, files or standard input."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, parse_pairs, server_option
from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from trunkline_native.client import Bus, Delivery

__all__ = ["publish"]

_UNCONFIRMED: Final = 10_000
"""Records sent ahead of the oldest that is not acknowledged. Their bytes are bounded by the client's buffer."""


@click.command()
@click.argument("topic")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option("--key", metavar="KEY", help="Key of every record.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of every record (repeatable).")
@click.option("--file", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path, allow_dash=True),
              help="Publish a file; - is standard input (repeatable).")  # fmt: skip
@click.option("--lines/--whole", "by_line", default=None,
              help="A record for each line, or one for all.  [default: stdin by line, files whole]")  # fmt: skip
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="Partition of every record.")
@click.option("--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), default="none",
              show_default=True, help="How batches are compressed.")  # fmt: skip
@server_option
@json_option
@debug_option
def publish(
    topic: str,
    values: tuple[str, ...],
    key: str | None,
    headers: tuple[str, ...],
    files: tuple[Path, ...],
    by_line: bool | None,
    partition: int | None,
    compression: str,
    server: str,
    as_json: bool,
) -> None:
    """Publish records: each VALUE, or files, or else standard input line by line.

    Returns when every record is as durable as the topic demands. With --json, prints where each of them is. When one
    is refused, no more are sent and the error says how many were published before it; some after it may be, too.
    """
    from trunkline.cli.progress import progress_of_files
    from trunkline.cli.sources import read_lines, read_whole

    if values and files:
        raise click.UsageError("give VALUEs or --file, not both")
    header_pairs = [(name, text.encode()) for name, text in parse_pairs(headers, "--header").items()]
    key_bytes = None if key is None else key.encode("utf-8", "surrogateescape")
    sources = () if values else files or (Path("-"),)
    is_by_line = by_line if by_line is not None else not files

    async def send_all(bus: Bus) -> int:
        sent = _Sent(as_json=as_json)

        async def take(value: bytes) -> None:
            try:
                delivery = await bus.send(topic, value, key=key_bytes, headers=header_pairs, partition=partition)
            except TrunklineError:
                await sent.confirm(0)
                raise
            await sent.add(delivery)

        try:
            for value in values:
                await take(value.encode("utf-8", "surrogateescape"))
            with progress_of_files(sources) as progress:
                for source in sources:
                    await (read_lines if is_by_line else read_whole)(source, progress, take)
            await sent.confirm(0)
        except TrunklineError as error:
            error.args = (f"{error} (records published before it: {sent.confirmed})",)
            raise
        return sent.confirmed

    count = run_client(server, send_all, compression=compression)
    if not as_json:
        click.echo(f"published {count} record{'' if count == 1 else 's'} to {topic}")


class _Sent:
    """Deliveries on their way, confirmed in the order of sending."""

    def __init__(self, *, as_json: bool) -> None:
        self.confirmed = 0
        self._as_json = as_json
        self._waiting: deque[Delivery] = deque()

    async def add(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        while self._waiting and self._waiting[0].is_done:
            await self._confirm_oldest()
        await self.confirm(_UNCONFIRMED)

    async def confirm(self, left: int) -> None:
        """Wait until no more than ``left`` are unconfirmed."""
        while len(self._waiting) > left:
            await self._confirm_oldest()

    async def _confirm_oldest(self) -> None:
        where = await self._waiting.popleft().wait()
        self.confirmed += 1
        if self._as_json:
            from trunkline.cli.output import print_json

            print_json({"topic": where.topic, "partition": where.partition, "offset": where.offset})
