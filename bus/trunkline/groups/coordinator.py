"""All consumer groups of a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.views import ViewServices

__all__ = ["GroupCoordinator"]


class GroupCoordinator:
    """Made and opened by the broker."""

    def __init__(self, services: ViewServices) -> None:
        self._services = services

    async def open(self) -> None:
        """Read what is stored; until this returns nothing is known."""

    async def close(self) -> None:
        """Stop; nothing is left to be written."""
