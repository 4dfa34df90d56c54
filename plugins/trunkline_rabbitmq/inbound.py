"""Which deliveries may be acknowledged to RabbitMQ: those that are durable here, and all before them. No I/O.

RabbitMQ numbers the deliveries of a channel 1, 2, 3, ...; they are staged in that order, and each partition commits in
its own, so a later one may be durable first. One acknowledgement with *multiple* stands for a run:

    delivery tags   1  2  3  4  5  6  7  8
                    a  a  d  d  .  d  .  .          a: acknowledged, d: done, .: under way
                          ^--^                      the next acknowledgement: 4, multiple

A message that is given back to RabbitMQ (too large for the topic) is done as well, and a run may go over it; but no
acknowledgement may name it, because RabbitMQ no longer knows that number.
"""

from __future__ import annotations

from collections import deque

from trunkline.errors import RemoteProtocolError

__all__ = ["InboundWindow"]


class InboundWindow:
    """The deliveries of one channel.

    Args:
      max_bytes: of bodies that are under way; above it ``is_full``.

    Attributes:
      bytes: of bodies that came and are not acknowledged yet.
    """

    __slots__ = ("_back", "_done", "_max_bytes", "_named", "_next", "_run_end", "_sizes", "_to_name", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._next = 1  # the tag that comes next
        self._run_end = 0  # all up to here are done
        self._to_name = 0  # the last of them that was not given back
        self._named = 0  # the last that an acknowledgement named
        self._done: set[int] = set()  # those behind a gap
        self._back: set[int] = set()  # of them, those given back
        self._sizes: deque[int] = deque()  # of those from the end of the last acknowledgement's run on

    @property
    def unacknowledged(self) -> int:
        """How many came and are not acknowledged yet."""
        return len(self._sizes)

    @property
    def is_full(self) -> bool:
        """Take nothing more from RabbitMQ until something is acknowledged."""
        return self.bytes > self._max_bytes

    def delivered(self, tag: int, size_bytes: int) -> None:
        """A message came. Raises RemoteProtocolError if its number is not the next one."""
        if tag != self._next:
            raise RemoteProtocolError(f"delivery tag {tag} came where {self._next} is next")
        self._next += 1
        self._sizes.append(size_bytes)
        self.bytes += size_bytes

    def done(self, tag: int, *, is_back: bool = False) -> None:
        """It is durable here, or dropped; or (``is_back``) given back."""
        assert self._run_end < tag < self._next, "each is done once, after it came"
        if is_back:
            self._back.add(tag)
        if tag != self._run_end + 1:
            self._done.add(tag)
            return
        done, back = self._done, self._back
        while True:
            if back and tag in back:
                back.remove(tag)
            else:
                self._to_name = tag
            if tag + 1 not in done:
                break
            tag += 1
            done.remove(tag)
        self._run_end = tag

    def acknowledge(self) -> int | None:
        """What to acknowledge now, with all before it; None: nothing. It counts as acknowledged from then on."""
        sizes = self._sizes
        while len(sizes) > self._next - 1 - self._run_end:
            self.bytes -= sizes.popleft()
        if self._to_name == self._named:
            return None
        self._named = self._to_name
        return self._named
