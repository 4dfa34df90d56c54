"""Cleans one compacted log: two passes over it, at a limited rate, in a worker thread.

What is kept is decided in :mod:`trunkline.compaction`. The first pass reads what was never cleaned and notes the
newest offset of each key, as far as the key map has room; the second lets the store rewrite the log up to there.

A cleaning that is stopped or fails, or is cut off by a crash, has done no harm: the log holds some batches in their new
form and the others in their old, and the next cleaning begins where this one began.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from trunkline.compaction import Compactor, note_keys
from trunkline.errors import TrunklineError
from trunkline.keymap import KeyMap
from trunkline.log import Log
from trunkline.records import iter_headers
from trunkline.transactions.aborted import NONE_ABORTED, AbortedTransactions

__all__ = ["KEY_MAP_BYTES", "Cleaner", "CleaningStatistics", "RateLimiter"]

KEY_MAP_BYTES: Final = 128 * 1024 * 1024
"""Room for four million keys; Kafka's default for ``log.cleaner.dedupe.buffer.size``."""

_READ_BYTES: Final = 1024 * 1024
_MIN_WAIT_S: Final = 0.002  # waiting costs some 50 us itself; what is not waited for now is waited for later


class CleaningStatistics(msgspec.Struct, frozen=True):
    """What a cleaning did.

    Attributes:
      cleaned_offset: up to where the log is clean now; the next cleaning begins there.
      is_complete: False if it was stopped, or if the key map was full before ``end_offset``.
      bytes_read: in both passes.
      bytes_written: of the batches that are left below ``cleaned_offset``, whether they had to be written or not.
      records_dropped: tombstones among them.
      keys: different ones in the part that was not clean.
      key_map_bytes: memory of the key map.
      seconds: that it took, waiting included.
    """

    cleaned_offset: int
    is_complete: bool
    bytes_read: int
    bytes_written: int
    records_dropped: int
    keys: int
    key_map_bytes: int
    seconds: float


class RateLimiter:
    """Lets so many bytes through per second, on average; a pause earns no more than ``burst_s`` of them.

    One may be shared by several threads: together they keep to the rate.

    Args:
      bytes_per_second: 0: no limit.
      clock: seconds that only grow.
      sleep: waits so many seconds.
    """

    def __init__(
        self,
        bytes_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        burst_s: float = 0.1,
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._burst_s = burst_s
        self._free_at = clock()  # when all that was let through is paid for
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes may go."""
        if not self._bytes_per_second:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - self._burst_s) + size / self._bytes_per_second
            wait_s = self._free_at - now
        if wait_s >= _MIN_WAIT_S:
            self._sleep(wait_s)


class _Stopped(Exception):
    pass


class Cleaner:
    """Cleans logs, one at a time.

    Args:
      limiter: for bytes read and rewritten; let it sleep by ``stopping.wait``, so that a stop does not wait for it.
      stopping: set it from any thread, and a cleaning ends at its next batch.
      now_ms: the wall clock, for delete horizons.
      key_map_bytes: bounds the memory; what does not fit is cleaned the next time.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        stopping: threading.Event | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        key_map_bytes: int = KEY_MAP_BYTES,
    ) -> None:
        self._limiter = limiter
        self._stopping = threading.Event() if stopping is None else stopping
        self._now_ms = now_ms
        self._clock = clock
        self._key_map_bytes = key_map_bytes

    def clean(
        self,
        log: Log,
        *,
        cleaned_offset: int,
        end_offset: int,
        last_batches: Mapping[int, int],
        delete_retention_ms: int,
        aborted: AbortedTransactions = NONE_ABORTED,
    ) -> CleaningStatistics:
        """Clean a log up to ``end_offset``, or as far as the key map reaches. Blocking.

        Args:
          cleaned_offset: up to where it was cleaned last time, or anything below the log start offset.
          end_offset: a batch boundary, at most ``log.rewritable_end_offset`` and the high watermark, so that no
            transaction with records below it is undecided.
          last_batches: the base offset of the last batch of each producer to be remembered
            (:meth:`trunkline.producers.ProducerTable.last_batches`), as of when ``end_offset`` was committed or later.
          delete_retention_ms: see :class:`trunkline.compaction.Compactor`.
          aborted: those with something below ``end_offset``; it does not change.

        Raises:
          CorruptBatch, CorruptLog, OSError: of the log; it stays usable. Nothing is clean past ``cleaned_offset``.
          TrunklineError: the key map is too small for a single batch.
        """
        return _Cleaning(self, log, max(cleaned_offset, log.start_offset), end_offset, aborted).run(
            last_batches, delete_retention_ms
        )

    def spend(self, size: int) -> None:
        """Wait as the rate demands. Raises _Stopped."""
        if not self._stopping.is_set():
            self._limiter.spend(size)
        if self._stopping.is_set():
            raise _Stopped

    def now_ms(self) -> int:
        """The wall clock."""
        return self._now_ms()

    def seconds(self) -> float:
        """A clock that only grows."""
        return self._clock()

    def new_key_map(self, max_keys: int) -> KeyMap:
        """A map within the bound on memory."""
        return KeyMap(self._key_map_bytes, max_keys)


class _Cleaning:
    def __init__(
        self, cleaner: Cleaner, log: Log, start_offset: int, end_offset: int, aborted: AbortedTransactions
    ) -> None:
        self._cleaner = cleaner
        self._aborted = aborted
        self._log = log
        self._start_offset = start_offset
        self._end_offset = end_offset
        self._newest = cleaner.new_key_map(max(end_offset - start_offset, 0))
        self._began = cleaner.seconds()
        self._bytes_read = 0
        self._bytes_written = 0

    def run(self, last_batches: Mapping[int, int], delete_retention_ms: int) -> CleaningStatistics:
        dropped = 0
        try:
            end_offset = self._note_keys()
            if end_offset == self._start_offset < self._end_offset:
                raise TrunklineError(
                    f"the batch at offset {end_offset} has more keys than the key map has room for "
                    f"({self._newest.memory_bytes} bytes); give it more memory"
                )
            compactor = Compactor(
                self._newest,
                end_offset=end_offset,
                last_batches=last_batches,
                delete_retention_ms=delete_retention_ms,
                aborted=self._aborted,
            )
            self._rewrite(end_offset, compactor)
            dropped = compactor.dropped
        except _Stopped:
            end_offset = self._start_offset
        return CleaningStatistics(
            cleaned_offset=end_offset,
            is_complete=end_offset >= self._end_offset,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
            records_dropped=dropped,
            keys=len(self._newest),
            key_map_bytes=self._newest.memory_bytes,
            seconds=self._cleaner.seconds() - self._began,
        )

    def _note_keys(self) -> int:
        """Note the keys of what was never cleaned; return up to where there was room for them."""
        offset = self._start_offset
        while offset < self._end_offset:
            data = self._log.read(offset, _READ_BYTES, self._end_offset)
            if not data:
                break
            for position, header in iter_headers(data):
                self._cleaner.spend(header.size_bytes)  # bit by bit: between two waits this thread holds up all others
                self._bytes_read += header.size_bytes
                batch = data[position : position + header.size_bytes]
                if not note_keys(batch, self._newest, self._aborted):
                    return max(header.base_offset, self._start_offset)
                offset = header.next_offset
        return self._end_offset

    def _rewrite(self, end_offset: int, compactor: Compactor) -> None:
        spend, now_ms = self._cleaner.spend, self._cleaner.now_ms

        def transform(batch: bytes) -> bytes | None:
            spend(len(batch))
            self._bytes_read += len(batch)
            kept = compactor.transform(batch, now_ms())
            if kept is not None:
                self._bytes_written += len(kept)
            return kept

        self._log.rewrite(end_offset, transform)
