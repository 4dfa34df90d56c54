"""The other end of a native connection that has no socket."""

from __future__ import annotations

import math

import trio

from trunkline.testing import MemoryTransport
from trunkline_native import frames as f
from trunkline_native.codec import FrameDecoder

__all__ = ["RememberedTransport"]


class RememberedTransport(MemoryTransport):
    """Reads what was written.

    Attributes:
      wrote: set with the next write.
    """

    def __init__(self, *, room_bytes: float = math.inf) -> None:
        super().__init__(room_bytes=room_bytes)
        self.wrote = trio.Event()
        self._decoder = FrameDecoder(f.SERVER_FRAMES, 2**30)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.wrote.set()

    def take(self) -> list[f.Frame]:
        """The frames written since the last time."""
        self._decoder.receive_data(self.take_written())
        found = []
        while isinstance(event := self._decoder.next_event(), f.Frame):
            found.append(event)
        return found
