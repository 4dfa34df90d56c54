"""Who is told of what is committed, and needs no place in the log kept for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from trunkline.live.subscriber import LiveSubscriber

__all__ = ["Watcher"]


class Watcher(LiveSubscriber):
    """A subscriber that never stops: ``deliver`` returns True, and does not raise.

    So it is live in each tail where it watches, always, and one object stands in their indexes where others have a
    :class:`~trunkline.live.member.Member` for each tail. What a tail asks of a member is answered here, for all alike.
    """

    __slots__ = ()

    cursor: ClassVar[None] = None
    skip: ClassVar[Sequence[tuple[int, int]]] = ()

    @property
    def subscriber(self) -> LiveSubscriber:
        return self
