"""A batch on its way: what it holds, under which identity it was sent, and who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from trunkline.errors import TrunklineError
from trunkline.records import BatchBuilder

if TYPE_CHECKING:
    from trunkline_native.client.lanes import Lane

__all__ = ["NOBODY", "Batch", "LaneOptions", "Producer"]


class Producer(NamedTuple):
    """Under which id and epoch batches are written."""

    producer_id: int
    epoch: int


NOBODY: Final = Producer(-1, -1)
"""Who writes without idempotence."""


class LaneOptions(NamedTuple):
    """What all lanes of a client share; see ``connect`` for the meaning of each."""

    batch_bytes: int
    linger_s: float
    delivery_timeout_s: float
    compression: int
    is_idempotent: bool
    retry_after_s: Callable[[int], float]
    """How long to wait before the n-th attempt in a row (from 1)."""
    now: Callable[[], float]


class Batch:
    """Records that travel together; what their senders wait for.

    Attributes:
      deadline: when it is given up.
      due: when it is sent at the latest, if it may be.
      charged_bytes: what it takes of the client's buffer.
      base_offset, error: what became of it, once ``is_done``.
      is_maybe_written: it was on its way when a connection broke. That it was refused later, for want of room say,
        tells nothing about the first attempt; only ``OutOfOrderSequence`` does.
      is_observed: somebody has been told about ``error``.
    """

    __slots__ = (
        "_done",
        "base_offset",
        "builder",
        "charged_bytes",
        "deadline",
        "due",
        "error",
        "is_closed",
        "is_done",
        "is_maybe_written",
        "is_observed",
        "lane",
        "order",
        "payload",
        "producer",
        "sequence",
        "size_bytes",
    )

    def __init__(self, lane: Lane, order: int, now: float) -> None:
        self.lane = lane
        self.order = order
        self.builder = BatchBuilder()
        self.due = now + lane.options.linger_s
        self.deadline = now + lane.options.delivery_timeout_s
        self.is_closed = False
        self.producer: Producer | None = None
        self.sequence = -1
        self.payload: bytes | None = None
        self.size_bytes = 0
        self.charged_bytes = 0
        self.base_offset = -1
        self.error: TrunklineError | None = None
        self.is_done = False
        self.is_maybe_written = False
        self.is_observed = False
        self._done: anyio.Event | None = None

    def finish(self, base_offset: int, error: TrunklineError | None = None) -> None:
        """Its outcome is known: tell who waits."""
        assert not self.is_done
        self.is_done = True
        self.base_offset = base_offset
        self.error = error
        self.payload = None
        self.builder = BatchBuilder()
        if self._done is not None:
            self._done.set()
        self.lane.finished(self)

    async def wait(self) -> None:
        """Wait until its outcome is known. Cancellation: it goes on."""
        if not self.is_done:
            if self._done is None:
                self._done = anyio.Event()
            await self._done.wait()

    def encode(self) -> bytes:
        """As it is sent; made once for an identity."""
        if self.payload is None:
            producer = self.producer or NOBODY
            self.payload = self.builder.build(
                compression=self.lane.options.compression,
                producer_id=producer.producer_id,
                producer_epoch=producer.epoch,
                base_sequence=self.sequence,
            )
        return self.payload

    def forget_identity(self) -> None:
        """It was not written: it may be sent under another identity."""
        self.producer = None
        self.sequence = -1
        self.payload = None
