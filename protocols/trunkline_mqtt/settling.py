"""Lets a SUBSCRIBE wait for what was published before it, by anybody.

A message is committed some milliseconds after it came; with QoS 0 nobody is told when. A subscription made in between
would get it as a new message, though it came before: a retained one not as such, and one of the client's own that it
has just published. So a subscription is made when all that was staged before it is committed; at once, if nothing is.

What waits for a transaction of another door to end is not waited for: that may take minutes.
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
        self._partitions = [*partitions]  # that are open
        self._waiting: list[tuple[dict[Partition, int], Callable[[], None]]] = []
        for partition in self._partitions:
            partition.add_listener(self, early=True)

    @property
    def is_settled(self) -> bool:
        """All that was staged is committed."""
        return all(partition.acknowledged_offset >= partition.staged_end_offset for partition in self._partitions)

    def wait(self, settled: Callable[[], None]) -> None:
        """Call ``settled`` when what is staged now is committed, or never will be."""
        ends = {partition: partition.staged_end_offset for partition in self._partitions}
        unsettled = {partition: end for partition, end in ends.items() if partition.acknowledged_offset < end}
        if unsettled:
            self._waiting.append((unsettled, settled))
        else:
            self._call_soon(settled)

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        if self._waiting:
            self._reached(partition, next_offset)

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        self._partitions.remove(partition)
        self._reached(partition, None)

    def _reached(self, partition: Partition, offset: int | None) -> None:
        """It is committed up to there; None: as far as it will ever be."""
        still: list[tuple[dict[Partition, int], Callable[[], None]]] = []
        for ends, settled in self._waiting:
            wanted = ends.get(partition)
            # It may have been taken back, because the disk was full.
            if wanted is not None and (offset is None or offset >= min(wanted, partition.staged_end_offset)):
                del ends[partition]
            if ends:
                still.append((ends, settled))
            else:
                self._call_soon(settled)
        self._waiting = still
