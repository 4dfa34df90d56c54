"""Holds a client's answers back until what its CONNECT made the broker remember is stored: its session, its will.

So CONNACK means that the session is there after a crash; and a PUBREC for a message of it never leaves before.
What the client sends meanwhile is taken in; only the answers wait, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from trunkline.door import Transport
from trunkline.errors import BrokerClosing, TrunklineError

__all__ = ["Gate"]

logger = logging.getLogger("trunkline.mqtt")

_MAX_BYTES: Final = 1024 * 1024
"""That may wait; a client that makes for more in the milliseconds that a sync takes is cut off."""


def _nothing() -> None:
    """What is called when nothing is to be done any more."""


class Gate(Transport):
    """A transport in front of another one; also who is told when something is stored.

    Args:
      writes: how many must be stored before it opens.
      opened: called when it does.
    """

    __slots__ = ("_inner", "_left", "_opened", "_size", "_waiting")

    def __init__(self, inner: Transport, writes: int, opened: Callable[[], None]) -> None:
        self._inner = inner
        self._left = writes
        self._opened = opened
        self._waiting: list[bytes] | None = []
        self._size = 0

    @property
    def is_open(self) -> bool:
        """Nothing waits any more."""
        return self._waiting is None

    @property
    def peer(self) -> str:  # type: ignore[override]  # a plain attribute there
        return self._inner.peer

    @property
    def local(self) -> tuple[str, int]:  # type: ignore[override]  # likewise
        return self._inner.local

    @property
    def idle_timeout_s(self) -> float:
        return self._inner.idle_timeout_s

    @idle_timeout_s.setter
    def idle_timeout_s(self, value: float) -> None:
        self._inner.idle_timeout_s = value

    @property
    def is_congested(self) -> bool:  # type: ignore[override]  # likewise
        return self._inner.is_congested

    @property
    def is_closing(self) -> bool:  # type: ignore[override]  # likewise
        return self._inner.is_closing

    def write(self, data: bytes) -> None:
        if self._waiting is None:
            self._inner.write(data)
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MAX_BYTES:
            self.abort()

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def established(self) -> None:
        self._inner.established()

    def close(self) -> None:
        self._open()
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def give_up(self) -> None:
        """Nothing will be stored: what is written now is the refusal."""
        self._opened = _nothing
        self._open()

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, None
        for data in waiting or ():
            self._inner.write(data)

    def append_done(self, token: object, offset: int) -> None:
        self._left -= 1
        if not self._left:
            opened, self._opened = (
                self._opened,
                _nothing,
            )  # it leads back here; a cycle would outlive the client for long
            if self._waiting is not None:
                self._open()
                opened()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        level = logging.DEBUG if isinstance(error, BrokerClosing) else logging.WARNING
        logger.log(level, "%s: closing a client whose session cannot be stored: %s", self.peer, error)
        self._waiting = None  # no answer, so that it tries again
        self._opened = _nothing
        self._inner.close()
