"""What a queue's index is made of."""

from __future__ import annotations

import msgspec

__all__ = ["Lease", "Range", "slice_bytes"]

Range = tuple[int, int]
"""Sequences ``[first, end)``."""


class Lease(msgspec.Struct, gc=False):
    """Consecutive entries and where they are stored. Belongs to the state, which changes it when part of it is settled.

    ``deliveries``: how often they were delivered before, 0 the first time. ``holder``: who has them, 0 for nobody.
    ``deadline_ms``: when the holder loses them, ``due_ms``: when they become ready, ``expires_ms``; 0 for never.
    """

    sequence: int
    count: int
    source: int
    offset: int
    size_bytes: int
    deliveries: int = 0
    holder: int = 0
    deadline_ms: int = 0
    priority: int = 0
    expires_ms: int = 0
    due_ms: int = 0


def slice_bytes(size_bytes: int, count: int, first: int, end: int) -> int:
    """What entries ``[first, end)`` of a run count for: the first ``size_bytes % count`` one byte more than the rest.

    A part of a run that is shared out by the same rule gives each entry the same share as the whole run does, so it
    does not matter how often runs are cut.
    """
    share, more = divmod(size_bytes, count)
    return share * (end - first) + min(max(more - first, 0), end - first)
