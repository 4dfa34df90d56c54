"""``trunkline tail``: print records as they come, or from any place in the log."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal

import click

from trunkline.cli.client import run_client
from trunkline.cli.options import debug_option, json_option, server_option

if TYPE_CHECKING:
    from trunkline.cli.records import Formatter
    from trunkline_native.client import Bus, Reader

__all__ = ["tail"]

Position = Literal["earliest", "latest"] | int | datetime

_WORDS: Final[tuple[Literal["earliest", "latest"], ...]] = ("earliest", "latest")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGO: Final = re.compile(r"-(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


@click.command()
@click.argument("topic")
@click.option(
    "--from",
    "position",
    metavar="WHERE",
    help="earliest, latest, an offset, or a time: ISO 8601, or -10m, -1h, -2d ago."
    "  [default: latest; with --no-follow: earliest]",
)
@click.option("--no-follow", is_flag=True, help="Stop at the end instead of waiting for more.")
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N",
              help="Only this partition (repeatable).")  # fmt: skip
@click.option("--key", "key_glob", metavar="GLOB", help="Only records whose key matches, as in 'sensor-*'.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many records.")
@click.option("--format", "template", metavar="TEMPLATE",
              help="A line of {topic} {partition} {offset} {timestamp} {time} {key} {value} {headers}.")  # fmt: skip
@server_option
@json_option
@debug_option
def tail(
    topic: str,
    position: str | None,
    no_follow: bool,
    partitions: tuple[int, ...],
    key_glob: str | None,
    limit: int | None,
    template: str | None,
    server: str,
    as_json: bool,
) -> None:
    """Print the records of a topic.

    Without --json a line has the time, topic/partition@offset, key and value. JSON objects have topic, partition,
    offset, timestamp, key, value and headers; bytes that are not UTF-8 are in key_base64 and value_base64 instead.
    """
    from trunkline.cli.records import format_for_people, format_json, parse_template

    if template is not None and as_json:
        raise click.UsageError("--format and --json exclude each other")
    formatter: Formatter = parse_template(template) if template is not None else format_for_people
    if as_json:
        formatter = format_json
    start = parse_position(position or ("earliest" if no_follow else "latest"), datetime.now(UTC))

    async def print_all(bus: Bus) -> None:
        source = bus.read if no_follow else bus.tail
        reader = source(topic, partitions=partitions or None, start=start)
        await _print(reader, formatter, key_glob=key_glob, limit=limit)

    run_client(server, print_all)


async def _print(reader: Reader, formatter: Formatter, *, key_glob: str | None, limit: int | None) -> None:
    left = limit
    output = sys.stdout.buffer
    while records := await reader.next_chunk():
        if key_glob is not None:
            records = [record for record in records if _key_matches(record.key, key_glob)]
        records = records[:left]
        output.write(b"".join(formatter(record) + b"\n" for record in records))
        output.flush()
        if left is not None:
            left -= len(records)
            if not left:
                return


def _key_matches(key: bytes | None, glob: str) -> bool:
    return key is not None and fnmatchcase(key.decode("utf-8", "surrogateescape"), glob)


def parse_position(text: str, now: datetime, hint: str = "--from") -> Position:
    """What ``--from`` means, or the option named by ``hint``; a time without a zone is local. Raises a usage error."""
    for word in _WORDS:
        if text == word:
            return word
    if text.isascii() and text.isdecimal():
        return int(text)
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not earliest, latest, an offset, a time like 2026-01-31T12:00:00Z, or like -1h",
            param_hint=hint,
        ) from None
