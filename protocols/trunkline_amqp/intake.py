"""How much of one client is taken and not done yet, and when nothing more is read from it.

Two things hold a client up: frames of its channels that wait for something (a declaration that takes time), once they
are many, and messages of its that the log cannot store for now. While either lasts its socket is not read, so that TCP
stops it; that it is silent is then our doing, and no reason to cut it off.
"""

from __future__ import annotations

from typing import Final

from trunkline.door import Transport
from trunkline_amqp.errors import Reply, hard

__all__ = ["Intake"]

MAX_WAITING_BYTES: Final = 256 * 1024
"""Of frames of channels that wait for something; above it nothing is read until half of it has gone."""


class Intake:
    """Of one connection.

    Args:
      max_unfinished_bytes: of messages that have begun to arrive, on all channels; more is an error of the client.

    Attributes:
      unfinished_bytes: of messages that have begun to arrive.
      is_blocked: the log cannot store what it publishes.
    """

    def __init__(self, transport: Transport, max_unfinished_bytes: int) -> None:
        self.is_blocked = False
        self._transport = transport
        self._idle_timeout_s = transport.idle_timeout_s
        self._max_unfinished_bytes = max_unfinished_bytes
        self.unfinished_bytes = 0
        self._waiting_bytes = 0
        self._is_full = False

    def count_waiting(self, size: int) -> None:
        """So many bytes more, or fewer, wait in channels."""
        self._waiting_bytes += size
        if self._waiting_bytes > MAX_WAITING_BYTES:
            if not self._is_full:
                self._is_full = True
                self._hold()
        elif self._is_full and self._waiting_bytes <= MAX_WAITING_BYTES // 2:
            self._is_full = False
            self._let_go()

    def count_unfinished(self, size: int) -> None:
        """Messages of so many bytes have begun, or are over: each counts whole until then. Raises AmqpError (506)."""
        self.unfinished_bytes += size
        if size > 0 and self.unfinished_bytes > self._max_unfinished_bytes:
            raise hard(
                Reply.RESOURCE_ERROR, f"messages of {self.unfinished_bytes} bytes have begun to arrive; finish some"
            )

    def block(self) -> None:
        """Nothing that it publishes can be stored now."""
        self.is_blocked = True
        self._hold()

    def unblock(self) -> None:
        """It can be stored again."""
        self.is_blocked = False
        self._let_go()

    def watch(self, idle_timeout_s: float) -> None:
        """It may be silent for so long, while it is read."""
        self._idle_timeout_s = idle_timeout_s
        if not self._is_full and not self.is_blocked:
            self._transport.idle_timeout_s = idle_timeout_s

    def open_up(self, idle_timeout_s: float) -> None:
        """Read it, whatever waits: it was told to close, and may be silent for so long."""
        self.is_blocked = self._is_full = False
        self._idle_timeout_s = idle_timeout_s
        self._let_go()

    def _hold(self) -> None:
        self._transport.idle_timeout_s = float("inf")
        self._transport.pause()

    def _let_go(self) -> None:
        if not self._is_full and not self.is_blocked:
            self._transport.resume()
            self._transport.idle_timeout_s = self._idle_timeout_s
