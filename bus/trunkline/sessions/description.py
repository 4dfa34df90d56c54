"""What there is to say of a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from trunkline.live import LiveTail
from trunkline.log import TopicPartition
from trunkline.partition import Partition
from trunkline.sessions.offline import OfflineSession
from trunkline.sessions.state import FilterName, SessionState
from trunkline.sessions.stored import Definition, decode_as

__all__ = ["SessionDescription", "describe", "describe_offline"]


class SessionDescription(msgspec.Struct, frozen=True):
    """A snapshot.

    Attributes:
      standing: ``online``: somebody is attached and has been given all there is; ``behind``: attached, and has not;
        ``offline``: nobody is attached.
      cursors: by partition, the lowest offset that is still needed.
      unfinished: deliveries in the window.
      references: records known to be wanted and not given yet, without those behind them in the log.
      missed: that retention took before they were given, in all.
      detached_ms: when it was detached, ms since the epoch; 0 if it is attached, or was when the broker was killed.
    """

    name: str
    standing: Literal["online", "behind", "offline"]
    epoch: int
    filters: list[FilterName]
    cursors: dict[TopicPartition, int]
    unfinished: int
    references: int
    missed: int
    is_held: bool
    expires_s: float | None
    detached_ms: int


def describe(state: SessionState, tail: Callable[[Partition], LiveTail]) -> SessionDescription:
    """Of a session in memory."""
    standing: Literal["online", "behind", "offline"] = "offline"
    if state.serving is not None:
        is_behind = any(position < partition.high_watermark for partition, position in state.positions())
        standing = "behind" if is_behind or not state.serving.is_direct else "online"
    return SessionDescription(
        name=state.name,
        standing=standing,
        epoch=state.epoch,
        filters=[*state.filters],
        cursors={
            TopicPartition(partition.topic.name, partition.index): cursor
            for partition, cursor in state.cursors().items()
        },
        unfinished=len(state.window or ()),
        references=len(state.references or ()),
        missed=state.missed_records,
        is_held=state.is_held,
        expires_s=state.expires_s,
        detached_ms=state.detached_ms,
    )


def describe_offline(session: OfflineSession) -> SessionDescription:
    """Of one that nobody is attached to."""
    wanted, done = decode_as(Definition, session.definition), session.progress_now()
    return SessionDescription(
        name=session.name,
        standing="offline",
        epoch=done.epoch,
        filters=[FilterName(stored.topic, stored.pattern, stored.syntax) for stored in wanted.filters],
        cursors=done.cursors(),
        unfinished=len(done.unfinished),
        references=len(session.references or ()),
        missed=done.missed,
        is_held=wanted.is_held,
        expires_s=wanted.expires_s,
        detached_ms=done.detached_ms,
    )
