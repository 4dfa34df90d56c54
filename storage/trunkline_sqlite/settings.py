"""The table ``[store.sqlite]`` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["SqliteSettings"]


class SqliteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the SQLite store.

    Attributes:
      busy_timeout_s: how long a write waits for another program that is writing to the file, before the log that
        it was for is stopped.
    """

    busy_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
