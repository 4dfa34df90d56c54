"""A transport with nobody at its other end: for tests of a connection, which is given bytes and then looked at."""

from __future__ import annotations

import math

from trunkline.door import Transport

__all__ = ["MemoryTransport"]


class MemoryTransport(Transport):
    """Keeps what is written, and what the connection has asked for.

    Attributes:
      written: not taken yet, as it was written; nothing more comes once ``is_closing``.
      room_bytes: ``is_congested`` turns true when more than this is not taken. The test sets it back, and calls
        ``Connection.writable``.
      is_established, is_paused: what the connection has said.
    """

    def __init__(self, *, room_bytes: float = math.inf) -> None:
        self.peer = "test:1"
        self.local = ("127.0.0.1", 2)
        self.idle_timeout_s = math.inf
        self.is_congested = False
        self.is_closing = False
        self.is_established = False
        self.is_paused = False
        self.room_bytes = room_bytes
        self.written: list[bytes] = []

    @property
    def waiting_bytes(self) -> int:
        """Of what is not taken yet."""
        return sum(map(len, self.written))

    def write(self, data: bytes) -> None:
        if not self.is_closing:
            self.written.append(data)
            if self.room_bytes < math.inf and self.waiting_bytes > self.room_bytes:
                self.is_congested = True

    def take_written(self) -> bytes:
        """All that was written since the last time."""
        taken = b"".join(self.written)
        self.written.clear()
        return taken

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def established(self) -> None:
        self.is_established = True

    def close(self) -> None:
        self.is_closing = True

    def abort(self) -> None:
        self.is_closing = True
