"""What a queue has sent, as records."""

from __future__ import annotations

import logging
from typing import Final

from trunkline.errors import CorruptBatch, DecompressionLimitExceeded
from trunkline.records import Header, Record, decode_all, iter_headers
from trunkline_native.client.consumption import Consumption
from trunkline_native.client.queue_record import QueueRecord
from trunkline_native.queue_frames import Run, decode_runs

__all__ = ["decode_chunk"]

SPILLED: Final = "trunkline.spilled"

logger = logging.getLogger("trunkline_native.client")


def decode_chunk(consumption: Consumption, count: int, body: bytes | memoryview) -> list[QueueRecord]:
    """The records of a chunk. Those that cannot be read, because somebody wrote nonsense, are rejected."""
    runs, batches = decode_runs(body, count)
    data = bytes(batches)
    try:
        records = decode_all(data)
    except (CorruptBatch, DecompressionLimitExceeded):
        records = []
    if len(records) == sum(run.records for run in runs):
        return _with_runs(consumption, runs, records)
    found = []
    for run, (position, header) in zip(runs, iter_headers(data), strict=True):
        try:
            records = decode_all(data[position : position + header.size_bytes])
        except (CorruptBatch, DecompressionLimitExceeded) as error:
            logger.warning("queue record %d cannot be read and is rejected: %s", run.sequence, error)
            for sequence in range(run.sequence, run.sequence + run.records):
                consumption.reject(sequence, "unreadable")
        else:
            found += _with_runs(consumption, [run], records)
    return found


def _without_marks(headers: tuple[Header, ...]) -> tuple[Header, ...]:
    """Without what the broker notes on a copy: published again with it, the record would be no new arrival."""
    if headers and any(name == SPILLED for name, _ in headers):
        return tuple(header for header in headers if header[0] != SPILLED)
    return headers


def _with_runs(consumption: Consumption, runs: list[Run], records: list[Record]) -> list[QueueRecord]:
    found = []
    place = 0
    for run in runs:
        topic, partition = consumption.source(run.source)
        deliveries = run.deliveries
        for sequence in range(run.sequence, run.sequence + run.records):
            record = records[place]
            place += 1
            found.append(
                QueueRecord(
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    _without_marks(record.headers),
                    topic=topic,
                    partition=partition,
                    sequence=sequence,
                    deliveries=deliveries,
                    holder=consumption,
                )
            )
    return found
