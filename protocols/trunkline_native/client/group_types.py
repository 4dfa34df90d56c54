"""What goes into a group's reader, and what is told about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from trunkline_native.client.holdings import TopicPartition

__all__ = ["GroupReaderStatistics", "PartitionsCallback", "ReadOptions"]

PartitionsCallback = Callable[[Sequence[TopicPartition]], Awaitable[None] | None]
"""Called with pairs of topic and partition; may be async."""


class ReadOptions(NamedTuple):
    """How a member reads; see ``Group.subscribe``."""

    start: Literal["earliest", "latest"]
    auto_commit: bool
    auto_commit_interval_s: float
    buffer_bytes: int
    on_assigned: PartitionsCallback | None
    on_revoked: PartitionsCallback | None


class GroupReaderStatistics(msgspec.Struct, frozen=True):
    """What a group's reader has gone through.

    Attributes:
      assigned: partitions it has now.
      generation: of the last assignment.
      assignments: how often it was told what to read.
      lost: how often it was put out of the group and had to join again.
      restarts: how often an offset to go on from was gone, so that reading began at ``start`` again.
      skipped: records that were gone with them, where ``start`` is ``earliest``.
      commits: commits that the broker has confirmed.
    """

    assigned: int
    generation: int
    assignments: int
    lost: int
    restarts: int
    skipped: int
    commits: int
