"""Packet identifiers of one connection, which several links share. MQTT 5.0, 2.2.1."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["MAX_PACKET_IDS", "PacketIds"]

MAX_PACKET_IDS: Final = 65_535

_T = TypeVar("_T")


class PacketIds(Generic[_T]):
    """Which are in use, and by whom."""

    __slots__ = ("_last", "_users")

    def __init__(self) -> None:
        self._last = 0
        self._users: dict[int, _T] = {}

    @property
    def are_left(self) -> bool:
        """There is a free one."""
        return len(self._users) < MAX_PACKET_IDS

    def take(self, user: _T) -> int:
        """A free one; there has to be one."""
        assert self.are_left
        number = self._last
        while True:
            number = number % MAX_PACKET_IDS + 1
            if number not in self._users:
                break
        self._last = number
        self._users[number] = user
        return number

    def reserve(self, number: int, user: _T) -> None:
        """This one is in use from an earlier connection on."""
        self._users[number] = user

    def user(self, number: int) -> _T | None:
        """Whose it is; None: nobody's."""
        return self._users.get(number)

    def release(self, number: int) -> None:
        """It is free again."""
        self._users.pop(number, None)
