"""How commands talk to a broker: the ordinary client, on trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from trunkline_native.client import Bus

__all__ = ["run_client"]

_T = TypeVar("_T")


def run_client(server: str, function: Callable[[Bus], Awaitable[_T]], **options: Any) -> _T:
    """Connect to ``server``, call ``function`` with the client, close it, and return what ``function`` did."""
    import trio

    from trunkline import connect

    async def connected() -> _T:
        async with connect(server, **options) as bus:
            return await function(bus)

    return trio.run(connected)
