"""What the core saves beside a log, so that a start need not read all of it, and when it does.

Big-endian: u8 version (1), i64 offset up to which the log was compacted, then the producers' state as
:meth:`trunkline.producers.ProducerTable.snapshot` writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import trio

from trunkline.errors import CorruptLog
from trunkline.log import Log, SavedState
from trunkline.producers import ProducerTable

__all__ = ["STATE_INTERVAL_BYTES", "StateSaver", "decode_state", "encode_state"]

STATE_INTERVAL_BYTES: Final = 64 * 1024 * 1024
"""State is saved after so many appended bytes, which bounds what is read at start."""

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

    def committed(self, size_bytes: int, high_watermark: int, next_offset: int) -> None:
        """So many bytes more are committed; ``next_offset`` counts what is staged."""
        self._unsaved_bytes += size_bytes
        due = self._due
        if due is not None:
            if due.offset <= high_watermark and not self.is_saving:
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
