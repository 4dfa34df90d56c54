"""Errors that say that there is no room to write, not that the disk is broken."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

__all__ = ["NO_ROOM"]

NO_ROOM: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open in the whole system",
}
"""By errno: refusals that come before anything is changed, and end without a restart."""
