"""Copying entries out of the way of retention, so that a forgotten queue costs its own records and not the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.queues.feeds import SourceFeed

__all__ = ["make_room"]


async def make_room(feed: SourceFeed, offset: int) -> int:
    """How far retention may go; see :meth:`trunkline.queues.queues.Queues.make_room`."""
    return min([offset, *(queue.needed_from(feed) for queue in feed.members)])
