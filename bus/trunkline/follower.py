"""Following a partition batch by batch: everything committed from an offset on, opaque, without gap or double.

A :class:`BatchFollower` is *behind* until it has read the log up to the high watermark, a chunk in each round so that
others get their turn; then it is *live* and told of batches in the round that commits them, from memory. Its receiver
takes all it is given: use it for what is cheap to take (an index), and :class:`trunkline.live.LiveTail` or a fetch
stream for peers that may be slow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from trunkline.errors import CorruptLog, OffsetOutOfRange, TrunklineError
from trunkline.partition import Partition
from trunkline.records import iter_headers
from trunkline.rounds import Rounds

__all__ = ["BatchFollower", "BatchReceiver"]

logger = logging.getLogger("trunkline.follower")

CHUNK_BYTES: Final = 256 * 1024
"""Read at a time while behind."""


class BatchReceiver(Protocol):
    """Who follows. It must not raise; if it does, it is told no more."""

    def batches_arrived(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        """Everything committed in ``[base_offset, next_offset)``.

        Compaction may have left less than all offsets. The first batch may begin below ``base_offset``, only when
        following began inside of it: its records below that are not wanted.
        """

    def missed(self, partition: Partition, start: int, end: int) -> None:
        """Offsets ``[start, end)`` were removed from the log before they were read; following goes on at ``end``."""

    def follow_ended(self, partition: Partition, error: TrunklineError | None) -> None:
        """No more will come: the topic was deleted, the broker closes (None), or the log cannot be read."""


class BatchFollower:
    """One receiver's place in one partition; a listener of it from the moment it is made until ``close``.

    Nothing is told before the next round. Belongs to the broker's thread.

    Attributes:
      position: the offset after what the receiver was told.
    """

    __slots__ = ("_is_closed", "_is_live", "_receiver", "_rounds", "_spawn", "partition", "position")

    def __init__(
        self, partition: Partition, start: int, receiver: BatchReceiver, rounds: Rounds, spawn: Callable[..., None]
    ) -> None:
        self.partition = partition
        self.position = start
        self._receiver = receiver
        self._rounds = rounds
        self._spawn = spawn
        self._is_closed = False
        self._is_live = start >= partition.high_watermark
        partition.add_listener(self)
        if not self._is_live:
            rounds.call_soon(self._catch_up)

    @property
    def is_live(self) -> bool:
        """It has been told of everything below the high watermark."""
        return self._is_live

    def close(self) -> None:
        """Tell nothing more."""
        self._is_closed = True
        self.partition.remove_listener(self)

    # -- live --------------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        if self._is_live:
            assert base_offset == self.position
            self.position = next_offset
            self._receiver.batches_arrived(partition, base_offset, next_offset, batches)

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self._end(error)

    # -- behind ------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Read one chunk; the next one comes in the next round."""
        if self._is_closed:
            return
        if self.position >= self.partition.high_watermark:
            self._is_live = True
            return
        try:
            data = self.partition.read_nowait(self.position, CHUNK_BYTES)
        except (OSError, TrunklineError) as error:
            self._failed(error)
            return
        if data is None:
            self._spawn(self._read_waiting)
        else:
            self._took(data)

    async def _read_waiting(self) -> None:
        """The pages are not cached: read in a worker, go on in a round."""
        try:
            data = await self.partition.read(self.position, CHUNK_BYTES)
        except (OSError, TrunklineError) as error:
            failure = error
            self._rounds.call_soon(lambda: self._failed(failure))
            return
        self._rounds.call_soon(lambda: self._took(data))

    def _took(self, data: bytes) -> None:
        if self._is_closed:
            return
        batches: list[bytes] = []
        base_offset = self.position
        for place, header in iter_headers(data):
            batches.append(data[place : place + header.size_bytes])
            self.position = header.next_offset
        assert batches, "a read below the high watermark gives at least one batch"
        try:
            self._receiver.batches_arrived(self.partition, base_offset, self.position, batches)
        except Exception:  # the boundary, as for live listeners: one follower's bug must not end the round
            logger.exception(
                "%s: %r failed at offset %d and is left out", self.partition.name, self._receiver, base_offset
            )
            self.close()
            return
        self._rounds.call_soon(self._catch_up)

    def _failed(self, error: OSError | TrunklineError) -> None:
        if self._is_closed:
            return
        start = self.partition.log_start_offset
        if isinstance(error, OffsetOutOfRange) and self.position < start:
            missed, self.position = self.position, start
            self._receiver.missed(self.partition, missed, start)
            self._rounds.call_soon(self._catch_up)
            return
        if not isinstance(error, TrunklineError):
            error = CorruptLog(f"{self.partition.name}: {error}")
        logger.error("%s: cannot be followed from offset %d: %s", self.partition.name, self.position, error)
        self._end(error)

    def _end(self, error: TrunklineError | None) -> None:
        if not self._is_closed:
            self.close()
            self._receiver.follow_ended(self.partition, error)
