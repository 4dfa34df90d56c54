"""CRC-32C, which every batch carries; the package that computes it is imported with the first one.

That package asks for its own version when it is imported, for which Python loads ``importlib.metadata`` and all that
reads e-mail: a quarter of what importing the client took. A client that only administers, as most commands do, never
needs it. A broker imports it at start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crc32c import crc32c

__all__ = ["crc32c"]


def __getattr__(name: str) -> Any:
    if name == "crc32c":
        from crc32c import crc32c

        globals()[name] = crc32c  # so that only the first use comes here
        return crc32c
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
