"""What the core saves beside a log, so that a start need not read all of it.

Big-endian: u8 version (1), i64 offset up to which the log was compacted, then the producers' state as
:meth:`trunkline.producers.ProducerTable.snapshot` writes it.
"""

from __future__ import annotations

import struct
from typing import Final

from trunkline.errors import CorruptLog
from trunkline.producers import ProducerTable

__all__ = ["decode_state", "encode_state"]

_HEAD: Final = struct.Struct(">Bq")
_VERSION: Final = 1


def encode_state(cleaned_offset: int, producers: ProducerTable) -> bytes:
    """The bytes of a :class:`trunkline.log.SavedState`."""
    return _HEAD.pack(_VERSION, cleaned_offset) + producers.snapshot()


def decode_state(state: bytes) -> tuple[int, ProducerTable]:
    """The inverse of :func:`encode_state`. Raises CorruptLog for anything else."""
    if len(state) < _HEAD.size or state[0] != _VERSION:
        raise CorruptLog(f"the state saved beside a log has version {state[:1].hex() or 'none'}; this is version 1")
    _, cleaned_offset = _HEAD.unpack_from(state)
    return cleaned_offset, ProducerTable.restore(state[_HEAD.size :])
