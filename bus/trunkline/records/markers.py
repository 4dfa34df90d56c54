"""Transaction markers: the batches that say how a transaction ended, in Kafka's format.

A marker is a batch with the attribute bits *control* and *transactional*, the producer's id and epoch, no sequence, and
one record, integers big-endian::

    key    i16  version = 0
           i16  type: 0 abort, 1 commit
    value  i16  version = 0
           i32  coordinator epoch

It takes an offset like any record and is never shown to users. What the producer wrote before it in the partition, from
the first batch after its previous marker on, is the transaction that it ends.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from trunkline.errors import CorruptBatch
from trunkline.records.batch import BatchHeader
from trunkline.records.decoding import decode
from trunkline.records.encoding import encode

__all__ = ["encode_marker", "is_commit_marker"]

_KEY: Final = Struct(">hh")
_VALUE: Final = Struct(">hi")
_ABORT: Final = 0
_COMMIT: Final = 1
_MAX_MARKER_BYTES: Final = 4096  # decoded; it has 10 bytes of content


def encode_marker(
    producer_id: int,
    producer_epoch: int,
    *,
    is_commit: bool,
    timestamp: int,
    base_offset: int = 0,
    leader_epoch: int = 0,
    coordinator_epoch: int = 0,
) -> bytes:
    """The batch that ends the transaction of a producer; ``timestamp`` in milliseconds since the epoch."""
    key = _KEY.pack(0, _COMMIT if is_commit else _ABORT)
    return encode(
        [(timestamp, key, _VALUE.pack(0, coordinator_epoch), ())],
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        is_transactional=True,
        is_control=True,
    )


def is_commit_marker(header: BatchHeader, batch: bytes) -> bool | None:
    """How a stored control batch ends its transaction; None if it is another kind of control batch.

    Raises CorruptBatch if it cannot be read.
    """
    if not header.is_transactional:
        return None
    records = decode(batch, max_bytes=_MAX_MARKER_BYTES)
    if not records:
        return None  # compaction has emptied it
    key = records[0].key
    if key is None or len(key) < _KEY.size:
        raise CorruptBatch(f"the control batch at offset {header.base_offset} has a key of {len(key or b'')} bytes")
    kind = _KEY.unpack_from(key)[1]
    return {_ABORT: False, _COMMIT: True}.get(kind)
