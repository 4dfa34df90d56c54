"""What the client gives back."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import anyio
import msgspec

from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from trunkline_native.client.batches import Batch

__all__ = ["Delivery", "OffsetRange", "PartitionDescription", "RecordMetadata", "TopicDescription"]


class RecordMetadata(msgspec.Struct, frozen=True, gc=False):
    """Where a record went.

    Attributes:
      offset: final: the record is committed.
      timestamp: ms since the epoch, as it was sent; a topic with ``LogAppendTime`` stores its own.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int


class OffsetRange(msgspec.Struct, frozen=True, gc=False):
    """What a partition holds: offsets ``[earliest, latest)``."""

    earliest: int
    latest: int


class PartitionDescription(msgspec.Struct, frozen=True):
    """One partition.

    Attributes:
      leader: ``host:port``, or None while nobody leads it.
      size_bytes: what its records take in the store, roughly.
      removed_unread: by reader (group, queue), how many records were removed before it had read them, since the
        broker was started.
      readers: by reader, the next offset that it will read.
    """

    index: int
    leader: str | None
    leader_epoch: int
    log_start_offset: int
    high_watermark: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    size_bytes: int = 0
    removed_unread: Mapping[str, int] = {}
    readers: Mapping[str, int] = {}


class TopicDescription(msgspec.Struct, frozen=True):
    """A topic; ``settings`` holds every setting, by Kafka's names."""

    name: str
    id: str
    partitions: tuple[PartitionDescription, ...]
    settings: Mapping[str, str]


class Delivery:
    """A record on its way. ``await`` it, or call ``wait``, to learn where it went; or forget it.

    It is sent whether or not anybody waits. A failure that nobody waited for is raised by the next ``flush``.
    """

    __slots__ = ("_batch", "_index", "_partition", "_routed", "_timestamp", "_topic", "error", "is_observed")

    def __init__(self, topic: str, timestamp: int) -> None:
        self._topic = topic
        self._timestamp = timestamp
        self._partition = -1
        self._batch: Batch | None = None
        self._index = 0
        self._routed: anyio.Event | None = None
        self.error: TrunklineError | None = None  # that kept it from getting into a batch
        self.is_observed = False

    def routed(self, partition: int, batch: Batch, index: int) -> None:
        """The sender's call: it is in a batch."""
        self._partition = partition
        self._batch = batch
        self._index = index
        if self._routed is not None:
            self._routed.set()

    def failed(self, error: TrunklineError) -> None:
        """The sender's call: it will never be in a batch."""
        self.error = error
        if self._routed is not None:
            self._routed.set()

    async def wait_routed(self) -> None:
        """The sender's call: wait for one of the two."""
        if self._batch is None and self.error is None:
            if self._routed is None:
                self._routed = anyio.Event()
            await self._routed.wait()

    @property
    def is_done(self) -> bool:
        """Whether it is known what became of it."""
        return self.error is not None or (self._batch is not None and self._batch.is_done)

    async def wait(self) -> RecordMetadata:
        """Wait until the record is committed.

        Raises:
          DeliveryTimeout: it was not acknowledged in time; ``is_maybe_written`` says whether it may be there.
          TrunklineError: the broker refused it; it was not written (LogStopped: it may have been).
          ClientClosed: the client was closed first.

        Cancellation: the record is sent all the same; wait again to learn of it.
        """
        if self._batch is None:
            await self.wait_routed()
        if self.error is not None:
            self.is_observed = True
            raise self.error
        batch = self._batch
        assert batch is not None
        if not batch.is_done:
            await batch.wait()
        if batch.error is not None:
            batch.is_observed = True
            raise batch.error
        return RecordMetadata(self._topic, self._partition, batch.base_offset + self._index, self._timestamp)

    def __await__(self) -> Generator[object, None, RecordMetadata]:
        return self.wait().__await__()
