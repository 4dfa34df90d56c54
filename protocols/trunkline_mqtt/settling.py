"""Lets a SUBSCRIBE wait for what was published with RETAIN before it.

A message is retained once it is committed, some milliseconds after it came; with QoS 0 nobody is told when. A
subscription made in between would get it as a new message, and not be spared it when it wants nothing retained. So it
is made when all that was staged with RETAIN before it is committed; other subscriptions are made at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trunkline.errors import TrunklineError
from trunkline.partition import Partition

__all__ = ["Settling"]


class Settling:
    """Of all clients; a listener of the log's partitions. Belongs to the broker's thread.

    Args:
      call_soon: calls a function in the next round, when all listeners have heard of this one's commits.
    """

    def __init__(self, partitions: Iterable[Partition], call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._call_soon = call_soon
        self._ends: dict[Partition, int] = {}  # behind the last retained message that is not committed
        self._waiting: list[tuple[dict[Partition, int], Callable[[], None]]] = []
        for partition in partitions:
            partition.add_listener(self)

    @property
    def is_settled(self) -> bool:
        """All that was staged with RETAIN is committed."""
        return not self._ends

    def staged(self, partition: Partition) -> None:
        """A message with RETAIN was staged just now."""
        self._ends[partition] = partition.staged_end_offset

    def wait(self, settled: Callable[[], None]) -> None:
        """Call ``settled`` when what is staged with RETAIN now is committed, or never will be."""
        self._waiting.append((dict(self._ends), settled))

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        if self._ends:
            self._reached(partition, next_offset)

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self._reached(partition, None)

    def _reached(self, partition: Partition, offset: int | None) -> None:
        """It is committed up to there; None: as far as it will ever be."""
        end = self._ends.get(partition)
        if end is not None and (offset is None or offset >= end):
            del self._ends[partition]
        if not self._waiting:
            return
        still: list[tuple[dict[Partition, int], Callable[[], None]]] = []
        for ends, settled in self._waiting:
            wanted = ends.get(partition)
            if wanted is not None and (offset is None or offset >= wanted):
                del ends[partition]
            if ends:
                still.append((ends, settled))
            else:
                self._call_soon(settled)
        self._waiting = still
