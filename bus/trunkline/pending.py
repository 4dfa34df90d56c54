"""A batch between staging and commit, and who waits for it."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from trunkline.errors import TrunklineError
from trunkline.records import Buffer

__all__ = ["AppendReceiver", "Pending", "WaitForAppends"]

logger = logging.getLogger("trunkline.partition")


class AppendReceiver(Protocol):
    """Who staged something and wants to know what became of it. If it raises, that is logged and goes no further."""

    def append_done(self, token: object, offset: int) -> None:
        """It is committed. ``offset``: of this record, or the base offset of this batch."""

    def append_failed(self, token: object, error: TrunklineError) -> None:
        """It was not acknowledged and never will be; it may or may not have been written."""


class WaitForAppends:
    """Waits until one append or several are committed, or one of them has failed; an AppendReceiver.

    Attributes:
      offset: of the one that was committed last.
    """

    __slots__ = ("_changed", "_error", "_left", "offset")

    def __init__(self) -> None:
        self.offset = -1
        self._left = 0
        self._error: TrunklineError | None = None
        self._changed = trio.Event()

    def one_more(self) -> WaitForAppends:
        """Itself, to be the receiver of one more append."""
        self._left += 1
        return self

    async def wait(self) -> None:
        """Wait for all; a checkpoint. Raises what one failed with: then some may have been written."""
        while self._left and self._error is None:
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        await trio.lowlevel.checkpoint()

    def append_done(self, token: object, offset: int) -> None:
        self.offset = offset
        self._left -= 1
        if not self._left:
            self._changed.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self._error = error
        self._changed.set()


class Pending:
    """A batch between staging and commit, and who waits for it (one receiver a record, or one for all)."""

    __slots__ = ("base_offset", "batch", "is_shared", "next_offset", "waiters")

    def __init__(
        self,
        batch: Buffer,
        base_offset: int,
        next_offset: int,
        waiters: list[tuple[AppendReceiver | None, object]],
        is_shared: bool,
    ) -> None:
        self.batch = batch
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.waiters = waiters
        self.is_shared = is_shared

    def acknowledge(self) -> None:
        offset = self.base_offset
        step = 0 if self.is_shared else 1
        for receiver, token in self.waiters:
            if receiver is not None:
                try:
                    receiver.append_done(token, offset)
                except Exception:  # the boundary: one receiver's bug must not keep the others from their answers
                    logger.exception("%r failed to take the acknowledgement of offset %d", receiver, offset)
            offset += step

    def fail(self, error: TrunklineError) -> None:
        for receiver, token in self.waiters:
            if receiver is not None:
                try:
                    receiver.append_failed(token, error)
                except Exception:  # the boundary, as above
                    logger.exception("%r failed to take a refusal", receiver)
