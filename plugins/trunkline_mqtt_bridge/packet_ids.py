"""Packet identifiers of one connection, which several links share (MQTT 5.0, 2.2.1), as they share what the broker
allows to be unacknowledged (its receive maximum, 3.2.2.3.3).

    early    begun by an earlier connection, and not sent again yet; the broker may count it already
    sent     on its way in this one
    neither  of a SUBSCRIBE, or of a message that is not allowed yet
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["MAX_PACKET_IDS", "PacketIds"]

MAX_PACKET_IDS: Final = 65_535

_T = TypeVar("_T")


class PacketIds(Generic[_T]):
    """Which are in use, and by whom.

    Args:
      limit: messages that the broker allows to be unacknowledged; may be changed at any time.
    """

    __slots__ = ("_early", "_last", "_sent", "_users", "limit")

    def __init__(self, limit: int = MAX_PACKET_IDS) -> None:
        self._last = 0
        self.limit = limit
        self._users: dict[int, _T] = {}
        self._early: set[int] = set()
        self._sent: set[int] = set()

    @property
    def are_left(self) -> bool:
        """The broker may allow one more message; ``may_send`` says for sure."""
        return len(self._sent) < self.limit

    def take(self, user: _T) -> int:
        """A free one; there has to be one."""
        assert len(self._users) < MAX_PACKET_IDS
        number = self._last
        while True:
            number = number % MAX_PACKET_IDS + 1
            if number not in self._users:
                break
        self._last = number
        self._users[number] = user
        return number

    def reserve(self, number: int, user: _T) -> None:
        """This one is in use from an earlier connection on, unless another user has it."""
        if number not in self._users:
            self._users[number] = user
            self._early.add(number)

    def may_send(self, number: int) -> bool:
        """The broker allows the message with this one."""
        ahead = 0 if number in self._early else len(self._early)
        return len(self._sent) + ahead < self.limit

    def sent(self, number: int) -> None:
        """The message with this one is on its way."""
        self._early.discard(number)
        self._sent.add(number)

    def sent_no_more(self, number: int) -> None:
        """The message with this one is answered; it stays in use."""
        self._sent.discard(number)

    def user(self, number: int) -> _T | None:
        """Whose it is; None: nobody's."""
        return self._users.get(number)

    def release(self, number: int) -> None:
        """It is free again."""
        self._users.pop(number, None)
        self._early.discard(number)
        self._sent.discard(number)
