"""What a topic accepts: decides, for single records and for whole batches. No I/O."""

from __future__ import annotations

from typing import Final

from trunkline.errors import (
    CorruptBatch,
    DecompressionLimitExceeded,
    InvalidBatch,
    RecordTooLarge,
    UnsupportedCompression,
)
from trunkline.records import HEADER_BYTES, BatchHeader, Buffer, check_batch
from trunkline.records.spans import read_spans
from trunkline.settings import TopicSettings

__all__ = ["check_key", "check_new_batch", "check_size"]

_RECORDS_NAMED: Final = 1000
"""In an error, of those that have no key."""


def check_size(name: str, size_bytes: int, settings: TopicSettings) -> None:
    """Raise RecordTooLarge unless a batch of one record of this size fits the topic."""
    limit = settings.max_message_bytes
    if HEADER_BYTES + size_bytes > limit:
        raise RecordTooLarge(
            f"{name}: a record of {size_bytes} bytes does not fit max.message.bytes={limit}",
            size_bytes=size_bytes,
            limit_bytes=limit,
        )


def check_key(name: str, key: bytes | None, settings: TopicSettings) -> None:
    """Raise InvalidBatch for a record without a key in a compacted topic: it could never be compacted."""
    if key is None and settings.is_compacted:
        raise _keys_missing(name, [0])


def check_new_batch(name: str, batch: Buffer, settings: TopicSettings, *, in_transaction: bool = False) -> BatchHeader:
    """The header of a client's batch, if the topic accepts it.

    The records stay opaque, but for a compacted topic, where each must have a key.

    Args:
      in_transaction: it is a transactional batch, and somebody has seen to it that it may be.

    Raises CorruptBatch, UnsupportedCompression, InvalidBatch, RecordTooLarge.
    """
    if len(batch) > settings.max_message_bytes:
        raise RecordTooLarge(
            f"{name}: a batch of {len(batch)} bytes is over max.message.bytes={settings.max_message_bytes}",
            size_bytes=len(batch),
            limit_bytes=settings.max_message_bytes,
        )
    header = check_batch(batch)
    if header.size_bytes != len(batch):
        raise InvalidBatch(f"{name}: {len(batch) - header.size_bytes} bytes follow the batch; send one batch")
    if header.is_control:
        raise InvalidBatch(f"{name}: control batches are the broker's to write")
    if header.is_transactional is not in_transaction:
        kind = "transactional" if header.is_transactional else "not transactional"
        raise InvalidBatch(f"{name}: the batch is {kind}, which is not accepted here")
    if in_transaction and header.producer_id < 0:
        raise InvalidBatch(f"{name}: a transactional batch needs a producer id")
    if header.delete_horizon is not None:
        raise InvalidBatch(f"{name}: attribute bit 6 (delete horizon) is compaction's to set, not a producer's")
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        raise InvalidBatch(f"{name}: a batch with a producer id needs an epoch and a sequence from 0 on")
    if settings.is_compacted:
        _check_keys(name, bytes(batch), header)
    return header


def _check_keys(name: str, batch: bytes, header: BatchHeader) -> None:
    try:
        spans = read_spans(batch, header).spans
    except (CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression) as error:
        raise InvalidBatch(f"{name}: the records cannot be read, so their keys cannot be checked: {error}") from None
    if missing := [index for index, (_, _, _, _, key, _) in enumerate(spans) if key is None]:
        raise _keys_missing(name, missing)


def _keys_missing(name: str, records: list[int]) -> InvalidBatch:
    return InvalidBatch(
        f"{name}: records of a compacted topic need a key; its cleanup.policy says compact",
        records=records[:_RECORDS_NAMED],
    )
