"""Shows the followers of a partition what an open transaction had kept from them, once it has ended.

Nothing is kept in memory meanwhile: what is acknowledged behind an open transaction is read back from the log, a chunk
at a time, and shown as if it were committed then. So a transaction may be open for as long and be as large as it likes,
and followers need not know of it. Between two chunks the high watermark stands still for a moment; what is committed
meanwhile is shown in its turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import TrunklineError
from trunkline.records import iter_headers
from trunkline.transactions.aborted import hide_aborted

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline.rounds import Rounds

__all__ = ["HeldBack"]

logger = logging.getLogger("trunkline.transactions")

CHUNK_BYTES: Final = 256 * 1024
ROUND_BYTES: Final = 1024 * 1024
"""Shown in one round; then others have their turn."""

_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


class HeldBack:
    """Of one partition, from its first transaction on."""

    __slots__ = ("_is_reading", "_is_soon", "_partition", "_rounds", "_spawn")

    def __init__(self, partition: Partition, rounds: Rounds, spawn: Callable[..., None]) -> None:
        self._partition = partition
        self._rounds = rounds
        self._spawn = spawn
        self._is_reading = False  # a task is at it
        self._is_soon = False  # the next round is

    def show(self) -> None:
        """Show what is decided by now, as much as a round bears, and the rest in rounds to come."""
        partition = self._partition
        left_bytes = ROUND_BYTES
        while not self._is_reading and partition.high_watermark < (end := partition.last_stable_offset):
            if not partition.has_listeners:
                partition.show(end, [])
                return
            if left_bytes <= 0:
                self._go_on_soon()
                return
            try:
                data = partition.read_stored_nowait(partition.high_watermark, CHUNK_BYTES, end)
            except (OSError, TrunklineError):
                data = None  # the task says what is wrong
            if data is None:
                self._is_reading = True
                self._spawn(self._read, end)
                return
            left_bytes -= len(data)
            self._show_chunk(data)

    def _go_on_soon(self) -> None:
        if not self._is_soon:
            self._is_soon = True
            self._rounds.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_soon = False
        self.show()

    def _show_chunk(self, data: bytes) -> None:
        transactions = self._partition.transactions
        assert transactions is not None
        shown = hide_aborted(data, transactions.aborted)
        batches, next_offset = [], self._partition.high_watermark
        for position, header in iter_headers(shown):
            batches.append(shown[position : position + header.size_bytes])
            next_offset = header.next_offset
        assert next_offset > self._partition.high_watermark, "what is not decided is never compacted away"
        self._partition.show(next_offset, batches)

    async def _read(self, end: int) -> None:
        """The store would wait: read in a worker, go on in a round."""
        partition = self._partition
        pause_s = _PAUSE_S
        while True:
            try:
                data = await partition.read_stored(partition.high_watermark, CHUNK_BYTES, end)
                break
            except (OSError, TrunklineError) as error:
                if partition.refusal is not None:
                    return  # it is over: the log is read again at the next start
                logger.error(
                    "%s: what a transaction held back cannot be shown from offset %d on; trying again in %.0f s: %s",
                    partition.name, partition.high_watermark, pause_s, error,
                )  # fmt: skip
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        self._rounds.call_soon(lambda: self._take(data))

    def _take(self, data: bytes) -> None:
        self._is_reading = False
        if not self._partition.is_closed:
            self._show_chunk(data)
            self.show()
