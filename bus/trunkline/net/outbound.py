"""What waits to be sent to a peer, in order.

Most peers are written one piece between two sends, so that is kept as it is, and a list only made for a second one: an
object less to keep, and to touch, for each of many peers.
"""

from __future__ import annotations

__all__ = ["Outbound"]


class Outbound:
    """A mixin, for what is sent to ``send``: bytes, or a list of them to be joined or gathered.

    Attributes:
      outbound_bytes: that wait.
    """

    __slots__ = ("_only", "_parts", "outbound_bytes")

    def __init__(self) -> None:
        self._only: bytes | None = None
        self._parts: list[bytes | memoryview] | None = None
        self.outbound_bytes = 0

    def put(self, data: bytes) -> None:
        """Add what is to be sent last."""
        self.outbound_bytes += len(data)
        if self._parts is not None:
            self._parts.append(data)
        elif self._only is None:
            self._only = data
        else:
            self._parts = [self._only, data]
            self._only = None

    def clear(self) -> None:
        """Nothing waits any more."""
        self._only = None
        self._parts = None
        self.outbound_bytes = 0

    def sent(self, size: int) -> None:
        """So many bytes have gone, from the front."""
        self.outbound_bytes -= size
        if not self.outbound_bytes:
            self._only = self._parts = None
            return
        parts = self._parts
        if parts is None:
            assert self._only is not None
            parts = self._parts = [self._only]
            self._only = None
        done = 0
        while size >= len(parts[done]):
            size -= len(parts[done])
            done += 1
        del parts[:done]
        if size:
            parts[0] = memoryview(parts[0])[size:]
