"""What retention removes: decides, from what a log says of its chunks. No I/O and no clock.

The rules are Kafka's. By time, a chunk (a segment, or less where the store can) goes once its newest record is
older than ``retention.ms``. By size, the oldest chunks go while the rest still has ``retention.bytes``, so at least
that much stays. Only the front of a log can go, never what is at or past the high watermark, and the last
chunk goes by time only. A chunk whose records carry no timestamp never goes by time.

A topic can be told to wait for readers (``retention.hold`` names groups and queues): a chunk that one of
them has not read is kept until it is older than ``retention.ms`` and ``retention.hold.ms`` together. The
cap is the point: a reader that nobody remembers must not keep the log for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trunkline.log import Chunk
from trunkline.settings import TopicSettings

__all__ = ["EVERY_READER", "held_offset", "start_after_retention"]

EVERY_READER = "*"
"""In ``retention.hold``: all readers that the partition knows."""


def held_offset(settings: TopicSettings, readers: Mapping[str, int]) -> int | None:
    """The offset from which a reader named in ``retention.hold`` still has to read; None if there is none.

    Args:
      readers: the next offset that each known reader of the partition will read, by its kind and name
        (``group:billing``); the setting may name it with or without its kind.
    """
    names = settings.retention_hold
    wanted = [
        offset
        for reader, offset in readers.items()
        if EVERY_READER in names or reader in names or reader.partition(":")[2] in names
    ]
    return min(wanted, default=None)


def start_after_retention(
    chunks: Iterable[Chunk],
    *,
    settings: TopicSettings,
    now_ms: int,
    size_bytes: int,
    high_watermark: int,
    held: int | None = None,
) -> int | None:
    """The log start offset that retention asks for, or None to leave it as it is.

    Args:
      chunks: of the log, oldest first; consumed only as far as needed.
      size_bytes: of the whole log.
      held: from :func:`held_offset`.
    """
    start = None
    excess = size_bytes - settings.retention_bytes if settings.retention_bytes >= 0 else -1
    for chunk in chunks:
        if chunk.end_offset > high_watermark:
            break
        age_ms = now_ms - chunk.max_timestamp if chunk.max_timestamp >= 0 else -1
        is_old = 0 <= settings.retention_ms < age_ms
        is_over = chunk.size_bytes <= excess and chunk.end_offset < high_watermark
        if not (is_old or is_over) or (_is_held(chunk, held) and not _is_past_cap(settings, age_ms)):
            break
        excess -= chunk.size_bytes
        start = chunk.end_offset
    return start


def _is_held(chunk: Chunk, held: int | None) -> bool:
    return held is not None and chunk.end_offset > held


def _is_past_cap(settings: TopicSettings, age_ms: int) -> bool:
    return age_ms > max(settings.retention_ms, 0) + settings.retention_hold_ms
