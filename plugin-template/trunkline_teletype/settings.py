"""The table ``[door.teletype]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["TeletypeSettings"]


class TeletypeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one connection.

    Attributes:
      max_line_bytes: longest line taken. Bytes that are no plain text take three times their size.
      max_subscriptions: of one connection.
      idle_timeout_s: a connection on which nothing arrived for so long is closed.
    """

    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 1024 * 1024
    max_subscriptions: Annotated[int, msgspec.Meta(ge=1)] = 100
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
