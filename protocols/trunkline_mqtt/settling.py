"""Lets a SUBSCRIBE wait for what was published before it, by anybody.

A message is committed some milliseconds after it came; with QoS 0 nobody is told when. A subscription made in between
would get it as a new message, though it came before: a retained one not as such, and one of the client's own that it
has just published. So a subscription is made when all that was staged before it is committed; at once, if nothing is.

The session that is kept remembers where the retained messages lie that it has sent, so it waits for their copies
(:mod:`~trunkline_mqtt.retained`) too, which are written when the messages are committed.

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
      partitions: with messages.
      copies: with those that are retained.
      call_soon: calls a function in the next round, when all listeners have heard of this one's commits.
    """

    def __init__(
        self, partitions: Iterable[Partition], copies: Partition, call_soon: Callable[[Callable[[], None]], None]
    ) -> None:
        self._call_soon = call_soon
        self._partitions = [*partitions]  # that are open
        self._copies = [copies]
        self._waiting: list[tuple[dict[Partition, int], Callable[[], None]]] = []
        for partition in (*self._partitions, copies):
            partition.add_listener(self, early=True)

    def is_settled(self, *, with_copies: bool) -> bool:
        """All that was staged is committed."""
        return not _unsettled(self._partitions) and not (with_copies and _unsettled(self._copies))

    def wait(self, settled: Callable[[], None], *, with_copies: bool) -> None:
        """Call ``settled`` when what is staged now is committed, or never will be."""
        self._wait(self._partitions, (lambda: self._wait(self._copies, settled)) if with_copies else settled)

    def _wait(self, partitions: list[Partition], settled: Callable[[], None]) -> None:
        ends = _unsettled(partitions)
        if ends:
            self._waiting.append((ends, settled))
        else:
            self._call_soon(settled)

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        if self._waiting:
            self._reached(partition, next_offset)

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        for known in (self._partitions, self._copies):
            if partition in known:
                known.remove(partition)
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


def _unsettled(partitions: list[Partition]) -> dict[Partition, int]:
    """Those with something that is not committed, and where that ends."""
    ends = {partition: partition.staged_end_offset for partition in partitions}
    return {partition: end for partition, end in ends.items() if partition.acknowledged_offset < end}
