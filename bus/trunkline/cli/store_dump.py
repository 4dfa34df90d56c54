"""``trunkline store dump``: what is in the logs, as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trunkline.cli.failures import FAILED, OK
from trunkline.cli.options import config_option, copied_store_option, debug_option

if TYPE_CHECKING:
    from trunkline.cli.stored_logs import StoredLog
    from trunkline.records import BatchHeader

__all__ = ["dump"]

_READ_BYTES = 1024 * 1024


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--topic", "topics", multiple=True, metavar="NAME", help="Only this topic (repeatable).")
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N",
              help="Only this partition (repeatable).")  # fmt: skip
@click.option(
    "--from", "start", type=click.IntRange(min=0), default=0, metavar="OFFSET", help="Where to begin in each."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many in all.")
@click.option("--batches", is_flag=True, help="The headers of the batches instead of the records.")
@copied_store_option
@config_option
@debug_option
def dump(
    directory: Path,
    topics: tuple[str, ...],
    partitions: tuple[int, ...],
    start: int,
    limit: int | None,
    batches: bool,
    store_name: str | None,
    config_file: Path | None,
) -> int:
    """Print the records that are kept in DIR as JSON lines, as `tail --json` does; nothing is changed.

    DIR is the data directory of a stopped broker, a store's directory in it, or a log's. What cannot be
    read is reported on stderr and passed over; then it exits with 1.
    """
    from trunkline.cli.logs import logging_to_stderr
    from trunkline.cli.stored_logs import open_stored_logs

    problems = _Problems()
    left = sys.maxsize if limit is None else limit
    output = sys.stdout.buffer
    with logging_to_stderr("error", as_json=False), open_stored_logs(directory, store_name, config_file) as found:
        for _, fault in found.faults:
            problems.add(f"{fault.file}: {fault.reason}")
        for log in found.logs:
            if (topics and log.name.topic not in topics) or (partitions and log.name.partition not in partitions):
                continue
            lines = _batch_lines(log, start, problems) if batches else _record_lines(log, start, problems)
            for line in lines:
                if not left:
                    break
                output.write(line + b"\n")
                left -= 1
        output.flush()
    return FAILED if problems.count else OK


class _Problems:
    """What could not be read."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        click.echo(f"trunkline: {text}", err=True)


def _record_lines(log: StoredLog, start: int, problems: _Problems) -> Iterator[bytes]:
    import msgspec

    from trunkline.cli.records import format_json
    from trunkline.errors import TrunklineError
    from trunkline.records import ConsumerRecord, decode

    for header, batch, first in _batches(log, start, problems):
        if header.is_control:  # of a transaction; not for users
            continue
        try:
            records = decode(batch)
        except TrunklineError as error:
            problems.add(f"{log.name}: the batch at offset {header.base_offset} cannot be read: {error}")
            continue
        for record in records:
            if record.offset >= first:
                fields = msgspec.structs.asdict(record)
                yield format_json(ConsumerRecord(**fields, topic=log.name.topic, partition=log.name.partition))


def _batch_lines(log: StoredLog, start: int, problems: _Problems) -> Iterator[bytes]:
    import msgspec

    for header, _, _ in _batches(log, start, problems):
        yield msgspec.json.encode(_describe(log, header))


def _describe(log: StoredLog, header: BatchHeader) -> dict[str, Any]:
    from trunkline.compression import Compression

    known = header.compression in Compression.__members__.values()
    return {
        "topic": log.name.topic,
        "partition": log.name.partition,
        "base_offset": header.base_offset,
        "last_offset": header.last_offset,
        "records": header.record_count,
        "size_bytes": header.size_bytes,
        "crc32c": f"{header.crc:08x}",
        "leader_epoch": header.leader_epoch,
        "compression": Compression(header.compression).name.lower() if known else header.compression,
        "max_timestamp": header.max_timestamp,
        "is_append_time": header.is_append_time,
        "is_transactional": header.is_transactional,
        "is_control": header.is_control,
        "delete_horizon": header.delete_horizon,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
    }


def _batches(log: StoredLog, start: int, problems: _Problems) -> Iterator[tuple[BatchHeader, bytes, int]]:
    """Each batch with a record at or past ``start``, with its header and the first offset that is wanted."""
    from trunkline.errors import CorruptLog
    from trunkline.records import iter_headers

    try:
        with closing(log.store.open(log.name, log.settings)) as opened:
            first = offset = max(start, opened.start_offset)
            while offset < opened.end_offset:
                data = opened.read(offset, _READ_BYTES, opened.end_offset)
                if not data:  # the rest was compacted away
                    return
                for position, header in iter_headers(data):
                    yield header, data[position : position + header.size_bytes], first
                    offset = header.next_offset
    except CorruptLog as error:
        problems.add(f"{log.name}: {error} (see `trunkline store verify`)")
