"""Where a record came from through a bridge: the header ``trunkline.origin``, as ``BRIDGE/SERVER``.

A link does not send a record back to the system that it came from.
"""

from __future__ import annotations

from typing import Final

from trunkline.records import Record

__all__ = ["ORIGIN", "origin_of"]

ORIGIN: Final = "trunkline.origin"


def origin_of(record: Record) -> str:
    """Empty: it came through no bridge."""
    for name, value in record.headers:
        if name == ORIGIN and value is not None:
            return value.decode("utf-8", "replace")
    return ""
