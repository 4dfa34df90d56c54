"""Wills: what is published for a client whose connection ended without a farewell, now or after a delay.

MQTT 5.0, 3.1.3.2.2: a will with a delay is published when the delay is over or the session ends, whichever is first,
and not at all if the client is back in its session before.

Time is an argument, in seconds of any clock that does not jump; whoever drives this looks at ``next_due``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import msgspec

from trunkline_mqtt.properties import Properties

__all__ = ["PendingWill", "Wills"]


class PendingWill(msgspec.Struct, frozen=True, array_like=True):
    """A will as it is to be published.

    Attributes:
      delay_s: how long to wait for the client to come back.
      id: another number for each will of a client.
      session_expiry_s: of its session; None: never.
    """

    topic: str
    payload: bytes
    qos: int
    is_retained: bool
    properties: Properties
    delay_s: int = 0
    id: int = 0
    session_expiry_s: float | None = 0


class Wills:
    """Those that wait.

    Args:
      publish: publishes one, given its client's identifier.
      clock: the time.
      changed: called when ``next_due`` may have become earlier.
    """

    def __init__(
        self, publish: Callable[[str, PendingWill], None], clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._publish = publish
        self._clock = clock
        self._changed = changed
        self._waiting: dict[str, tuple[float, PendingWill]] = {}
        self._heap: list[tuple[float, str]] = []  # entries that are not in _waiting as they say are of no more use

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_due(self) -> float | None:
        """When the next one is to be published."""
        heap = self._heap
        while heap:
            due, client_id = heap[0]
            waiting = self._waiting.get(client_id)
            if waiting is not None and waiting[0] == due:
                return due
            heapq.heappop(heap)
        return None

    def leave(self, client_id: str, will: PendingWill, session_expiry_s: float) -> None:
        """The client is gone; its session ends ``session_expiry_s`` from now."""
        delay_s = min(will.delay_s, session_expiry_s)
        if delay_s <= 0:
            self._publish(client_id, will)
            return
        due = self._clock() + delay_s
        self._waiting[client_id] = due, will
        heapq.heappush(self._heap, (due, client_id))
        self._changed()

    def session_resumed(self, client_id: str) -> None:
        """The client is back in time: its will is not published."""
        self._waiting.pop(client_id, None)

    def session_ended(self, client_id: str) -> None:
        """The session ended, by expiry or because a new one began: the will does not wait for longer."""
        waiting = self._waiting.pop(client_id, None)
        if waiting is not None:
            self._publish(client_id, waiting[1])

    def publish_due(self) -> None:
        """Publish those whose time has come."""
        now = self._clock()
        while (due := self.next_due) is not None and due <= now:
            _, client_id = heapq.heappop(self._heap)
            _, will = self._waiting.pop(client_id)
            self._publish(client_id, will)
