"""Packets that wait until what they say is stored, in front of one client's connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from trunkline.door import Transport
from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.sessions import Session

__all__ = ["Outbox"]

logger = logging.getLogger("trunkline.mqtt")

_MAX_WAITING_BYTES: Final = 1024 * 1024
"""What may wait for a checkpoint before the session takes no more records; or one message, if it is larger."""


class Outbox:
    """Packets that wait for checkpoints, in order; an AppendReceiver. Mostly it is empty and passes them on."""

    __slots__ = ("_core", "_emptied", "_held", "_number", "_size", "_transport", "_waiting", "is_closed")

    def __init__(self, transport: Transport, core: Session, emptied: Callable[[], None]) -> None:
        self._transport = transport
        self._core = core
        self._emptied = emptied
        self._number = 0  # of the last checkpoint that was asked for
        self._waiting: deque[tuple[int, bytes, int]] = deque()  # checkpoint that it waits for, packet, its identifier
        self._size = 0
        self._held: list[bytes] | None = None
        self.is_closed = False

    @property
    def is_full(self) -> bool:
        """Enough waits."""
        return self._size > _MAX_WAITING_BYTES

    @property
    def waiting(self) -> set[int]:
        """The packet identifiers of messages that wait for a checkpoint."""
        return {packet_id for _, _, packet_id in self._waiting if packet_id}

    def write(self, data: bytes) -> None:
        """Send, behind what waits."""
        if self._held is not None:
            self._held.append(data)
        elif self._waiting:
            self._waiting.append((self._number, data, 0))
            self._size += len(data)
        else:
            self._transport.write(data)

    def write_durable(self, data: bytes, packet_id: int = 0) -> None:
        """Send once everything that the session knows now is stored; ``packet_id``: it is a message."""
        if self.is_closed:
            return
        self._number += 1
        self._waiting.append((self._number, data, packet_id))
        self._size += len(data)
        self._core.checkpoint(self, self._number)

    def begin(self) -> None:
        """Keep what is written until ``end``."""
        self._held = []

    def end(self, packet_id: int) -> None:
        """Send what was kept; not 0: it is this message, and waits until everything that is known now is stored."""
        held, self._held = self._held or [], None
        if packet_id and held:
            self.write_durable(held.pop(0), packet_id)
        for data in held:
            self.write(data)

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, int)
        waiting = self._waiting
        if self.is_closed or not waiting:
            return
        while waiting and waiting[0][0] <= token:
            _, data, _ = waiting.popleft()
            self._size -= len(data)
            self._transport.write(data)
        if not waiting:
            self._emptied()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        if self.is_closed:
            return
        level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
        logger.log(level, "%s: closing a client whose session cannot be stored: %s", self._transport.peer, error)
        self.close()
        self._transport.close()

    def close(self) -> None:
        """Forget what waits; whoever has the session next is told anew."""
        self.is_closed = True
        self._waiting.clear()
        self._size = 0
        self._emptied = _nothing


def _nothing() -> None:
    """Instead of the session, which has this: so both go at once, not when cycles are looked for."""
