"""Rounds: what happens once for many messages instead of once for each.

In a round the reactor drains its ready sockets; the connections stage what they want appended. Then
:meth:`Rounds.finish` writes each touched partition once, hands the written logs to the commit thread,
and takes back what that thread has made durable, which moves high watermarks and releases
acknowledgements. Nothing here waits. Staging from outside the reactor (a task that publishes in
process) asks for a round through ``wake``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from trunkline.commit import Committer

if TYPE_CHECKING:
    from trunkline.partition import Partition

__all__ = ["Rounds", "wall_clock_ms"]


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Rounds:
    """The meeting place of reactor, partitions and commit thread; belongs to the broker's thread.

    Args:
      wake: makes the reactor run a round soon; callable from any thread.
      max_unacknowledged_bytes: when more than this is staged or not yet durable, ``is_saturated`` asks
        the reactor to read no sockets until the commit thread has caught up.
      clock_ms: the wall clock, in milliseconds since the epoch.
    """

    def __init__(
        self, wake: Callable[[], None], max_unacknowledged_bytes: int, clock_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self._wake = wake
        self.clock_ms = clock_ms
        self._now_ms: int | None = None
        self._is_running = False
        self._max_unacknowledged_bytes = max_unacknowledged_bytes
        self._requested = False
        self._staged: list[Partition] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._last: list[Callable[[], None]] = []
        self.unacknowledged_bytes = 0
        self.committer: Committer[Partition] = Committer(lambda partition: partition.log.flush(), wake)

    @property
    def is_saturated(self) -> bool:
        return self.unacknowledged_bytes > self._max_unacknowledged_bytes

    @property
    def is_idle(self) -> bool:
        """Nothing is staged, being written, or waiting to be durable."""
        return not self._staged and not self.unacknowledged_bytes and self.committer.is_idle

    def now_ms(self) -> int:
        """The wall clock, read once a round: a round's records share their timestamp, and so its encoding.

        For the broker's thread, as all of this; a worker thread reads ``clock_ms``.
        """
        now = self._now_ms
        if now is None:
            now = self.clock_ms()
            if self._is_running:
                self._now_ms = now
        return now

    def stage(self, partition: Partition) -> None:
        """``partition`` has something to write; called once for each partition and round."""
        self._staged.append(partition)
        self.request()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the next round. It must not raise."""
        self._soon.append(function)
        self.request()

    def call_last(self, function: Callable[[], None]) -> None:
        """Call ``function`` at the end of this round (of the next, between rounds). It must not raise.

        By then the round's acknowledgements were given, and nothing was sent yet: the place to answer many of them in
        one go.
        """
        self._last.append(function)
        self.request()

    def request(self) -> None:
        """See to it that a round comes; costs a system call only for the first request of a round."""
        if not self._requested:
            self._requested = True
            self._wake()

    def begin(self) -> None:
        """A round begins: requests made in it are served by its own ``finish``."""
        self._requested = True
        self._is_running = True
        for _ in range(len(self._soon)):  # what these ask for comes in the next round
            self._soon.popleft()()

    def finish(self) -> None:
        """Write, commit, acknowledge."""
        committer = self.committer
        for partition, result in committer.take_results():
            if isinstance(result, int):
                partition.committed(result)
            else:
                partition.stop(result)
        while self._staged or self._last:  # an acknowledgement may stage more (a will, a dead letter)
            staged, self._staged = self._staged, []
            for partition in staged:
                partition.write()
            last, self._last = self._last, []
            for function in last:
                function()
        committer.start_group()
        self._requested = False
        self._is_running = False
        self._now_ms = None
        if self._soon:
            self.request()
