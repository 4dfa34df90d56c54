"""What the core saves beside a log, so that a start need not read all of it, and when it does.

Big-endian: u8 version (2), i64 offset up to which the log was compacted, u32 size of the producers' state and that
state as :meth:`trunkline.producers.ProducerTable.snapshot` writes it, then the transactions as
:meth:`trunkline.transactions.in_log.LogTransactions.snapshot` does, or nothing if there never were any. Version 1, of
brokers without transactions, has the producers' state up to its end, and no size of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from trunkline.errors import CorruptLog
from trunkline.log import Log, SavedState
from trunkline.producers import ProducerTable
from trunkline.transactions.in_log import LogTransactions

__all__ = ["STATE_INTERVAL_BYTES", "PartitionState", "StateSaver", "decode_state", "encode_state"]

STATE_INTERVAL_BYTES: Final = 64 * 1024 * 1024
"""State is saved after so many appended bytes, which bounds what is read at start."""

_HEAD: Final = struct.Struct(">Bq")
_SIZE: Final = struct.Struct(">I")
_VERSION: Final = 2
_WITHOUT_TRANSACTIONS: Final = 1


class PartitionState(NamedTuple):
    """What is known of a log beside its batches. ``transactions`` is None if there never were any."""

    cleaned_offset: int
    producers: ProducerTable
    transactions: LogTransactions | None


def encode_state(state: PartitionState) -> bytes:
    """The bytes of a :class:`trunkline.log.SavedState`."""
    producers = state.producers.snapshot()
    transactions = b"" if state.transactions is None else state.transactions.snapshot()
    return b"".join((_HEAD.pack(_VERSION, state.cleaned_offset), _SIZE.pack(len(producers)), producers, transactions))


def decode_state(state: bytes) -> PartitionState:
    """The inverse of :func:`encode_state`. Raises CorruptLog for anything else."""
    if len(state) < _HEAD.size or state[0] not in (_VERSION, _WITHOUT_TRANSACTIONS):
        raise CorruptLog(
            f"the state saved beside a log has version {state[:1].hex() or 'none'}; this release reads 1 and 2"
        )
    version, cleaned_offset = _HEAD.unpack_from(state)
    rest = state[_HEAD.size :]
    if version == _WITHOUT_TRANSACTIONS:
        return PartitionState(cleaned_offset, ProducerTable.restore(rest), None)
    if len(rest) < _SIZE.size:
        raise CorruptLog("the state saved beside a log ends too early")
    (size,) = _SIZE.unpack_from(rest)
    producers, transactions = rest[_SIZE.size : _SIZE.size + size], rest[_SIZE.size + size :]
    return PartitionState(
        cleaned_offset,
        ProducerTable.restore(producers),
        LogTransactions.restore(transactions) if transactions else None,
    )


class StateSaver:
    """Saves a partition's state now and then: encoded at some moment, written once what it speaks of is durable.

    Args:
      encode: the state as of all that is staged.
      changed: called when a save is over, however it ended.

    Attributes:
      is_saving: the log is in a worker's hands.
    """

    __slots__ = ("_changed", "_due", "_encode", "_log", "_spawn", "_unsaved_bytes", "is_saving")

    def __init__(
        self, log: Log, encode: Callable[[], bytes], spawn: Callable[..., None], changed: Callable[[], None]
    ) -> None:
        self._log = log
        self._encode = encode
        self._spawn = spawn
        self._changed = changed
        self._unsaved_bytes = 0
        self._due: SavedState | None = None
        self.is_saving = False

    def committed(self, size_bytes: int, acknowledged: int, next_offset: int) -> None:
        """So many bytes more are committed, up to offset ``acknowledged``; ``next_offset`` counts what is staged."""
        self._unsaved_bytes += size_bytes
        due = self._due
        if due is not None:
            if due.offset <= acknowledged and not self.is_saving:
                self.is_saving = True
                self._spawn(self._save, due)
                self._due = None
        elif self._unsaved_bytes >= STATE_INTERVAL_BYTES:
            self._unsaved_bytes = 0
            self._due = SavedState(next_offset, self._encode())

    def save_soon(self) -> None:
        """Save it after the next commit, whatever has been appended."""
        self._unsaved_bytes = STATE_INTERVAL_BYTES

    def forget(self) -> None:
        """What was encoded and not written speaks of records that were taken back."""
        self._due = None

    async def _save(self, state: SavedState) -> None:
        try:
            await trio.to_thread.run_sync(self._log.save_state, state)
        finally:
            self.is_saving = False
            self._changed()
