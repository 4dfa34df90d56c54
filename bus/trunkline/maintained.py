"""What is done to a partition's log beside appending: trimming it, compacting it.

Some calls of a log must not overlap a write (``trim``), others may but must not overlap those (``rewrite``). Here is
who may touch the log when: :meth:`run_alone` holds appends back, staged, until nothing is written or flushed;
:meth:`run_beside` lets them go on, and gives way to whoever wants the log alone.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from trunkline.errors import OffsetOutOfRange
from trunkline.log import Log
from trunkline.readable import ReadablePartition

if TYPE_CHECKING:
    from trunkline.topic import Topic

__all__ = ["MaintainedPartition"]

logger = logging.getLogger("trunkline.partition")

T = TypeVar("T")


class MaintainedPartition(ReadablePartition):
    """What :class:`trunkline.partition.Partition` is to housekeeping. Belongs to the broker's thread.

    Attributes:
      cleaned_offset: up to where the log was compacted, as far as this broker remembers.
      readers: the next offset of each reader that has a name (``group:billing``, ``queue:mail``, ``session:dev1``),
        kept up to date by the view it belongs to; retention waits for them if the topic says so, and counts what it
        takes from them.
      removed_unread: by reader, how many records were removed before it had read them, since the broker was opened.
    """

    __slots__ = (
        "_alone",
        "_is_held",
        "_is_writing",
        "_stop_beside",
        "cleaned_offset",
        "readers",
        "removed_unread",
    )

    def __init__(self, topic: Topic, index: int, log: Log) -> None:
        super().__init__(topic, index, log)
        self.cleaned_offset = 0
        self.readers: dict[str, int] = {}
        self.removed_unread: dict[str, int] = {}
        self._alone = trio.Lock()
        self._is_held = False  # somebody wants the log for itself
        self._is_writing = False  # the log is in somebody's hands
        self._stop_beside: threading.Event | None = None

    @property
    @abstractmethod
    def is_flushing(self) -> bool:
        """Something was written and is not committed yet, or a flush is under way."""

    @abstractmethod
    def write_soon(self) -> None:
        """Have what is staged written in the next round."""

    async def run_alone(self, function: Callable[..., T], *args: object) -> T:
        """Call ``function`` in a worker while nothing is written to the log or flushed; appends wait staged.

        For the log's own calls that must not overlap a write (``trim``, ``truncate``). Raises what it raises, and
        LogStopped or BrokerClosing if the partition takes no changes. Cancellation: waits for a call under way.
        """
        if self._stop_beside is not None:
            self._stop_beside.set()
        async with self._alone:
            self._is_held = True
            try:
                while self._is_writing or self.is_flushing:
                    await self._changed.wait()
                if self._refusal is not None:
                    raise self._refusal
                self._is_writing = True
                try:
                    return await trio.to_thread.run_sync(function, *args)
                finally:
                    self._is_writing = False
            finally:
                self._is_held = False
                self.write_soon()
                self._changed.tell()

    async def run_beside(self, function: Callable[[], T], stop: threading.Event) -> T:
        """Call ``function`` in a worker while appends and reads go on, but nothing that needs the log for itself.

        For compaction. ``stop`` is set when somebody waits: ``function`` should then return soon. Raises what it
        raises, and what the partition refuses changes with. Cancellation: waits for ``function``; set ``stop`` first.
        """
        async with self._alone:
            if self._refusal is not None:
                raise self._refusal
            self._stop_beside = stop
            try:
                return await trio.to_thread.run_sync(function)
            finally:
                self._stop_beside = None
                self._changed.tell()

    async def trim(self, offset: int) -> None:
        """Move the log start offset up to ``offset``; what is below it is gone for readers when this returns.

        Raises OffsetOutOfRange if it is above the high watermark; below the log start nothing happens.
        """
        if offset > self.high_watermark:
            raise OffsetOutOfRange(
                f"{self.name}: offset {offset} is above the high watermark {self.high_watermark}; "
                "only what can be read can be removed",
                log_start_offset=self.log.start_offset,
                high_watermark=self.high_watermark,
            )
        start = self.log.start_offset
        if offset <= start:
            await trio.lowlevel.checkpoint()
            return
        await self.run_alone(self.log.trim, offset)
        if self.transactions is not None:
            self.transactions.forget_aborted_below(offset)
        self._count_unread(start, offset)

    def _count_unread(self, start: int, offset: int) -> None:
        """Records in ``[start, offset)`` are gone: note and say which known readers had not had them."""
        for name, position in self.readers.items():
            if position < offset:
                unread = offset - max(position, start)
                self.removed_unread[name] = self.removed_unread.get(name, 0) + unread
                logger.warning(
                    "%s: %d records were removed before %s had read them (it is at offset %d, the log starts at %d)",
                    self.name, unread, name, position, offset,
                )  # fmt: skip
