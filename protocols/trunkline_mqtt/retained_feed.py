"""Sends the retained messages that new subscriptions of one client match, as far as there is room for them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from trunkline.errors import TrunklineError
from trunkline_mqtt.message import OutgoingMessage
from trunkline_mqtt.retained_snapshot import NeedsRead, RetainedSnapshot
from trunkline_mqtt.sender import Sender

if TYPE_CHECKING:
    from trunkline_mqtt.server import MqttServer

__all__ = ["RetainedFeed"]

logger = logging.getLogger("trunkline.mqtt")

Send = Callable[[OutgoingMessage, int, int], None]
"""Takes a message, the offset of its copy (-1: there is none yet), and the option."""


class RetainedFeed:
    """What is still to be sent; it shares the client's window with what comes live.

    Args:
      send: sends one, as the option of its subscription says.
      resume: called when it can go on after a wait for the disk; calls ``go_on`` in turn if there is room.
    """

    __slots__ = ("_is_closed", "_is_reading", "_resume", "_send", "_sender", "_server", "_snapshots")

    def __init__(self, server: MqttServer, sender: Sender, send: Send, resume: Callable[[], None]) -> None:
        self._server = server
        self._sender = sender
        self._snapshots: deque[tuple[RetainedSnapshot, int]] = deque()
        self._is_reading = False
        self._is_closed = False
        self._send = send
        self._resume = resume

    @property
    def is_waiting(self) -> bool:
        """There is more to be sent."""
        return bool(self._snapshots)

    def add(self, topic_filter: str, option: int) -> None:
        """Send what a filter matches now, in a while; ``go_on`` begins."""
        retained = self._server.retained
        snapshot = retained.snapshot(topic_filter) if retained is not None else None
        if snapshot is not None:
            self._snapshots.append((snapshot, option))

    def go_on(self) -> None:
        """Send as much as there is room for."""
        while self._snapshots and not self._is_reading and not self._is_closed and not self._sender.is_full:
            snapshot, option = self._snapshots[0]
            try:
                record = snapshot.next_nowait()
            except (OSError, TrunklineError) as error:
                self._failed(error)
                continue
            if record is None:
                self._snapshots.popleft()
            elif isinstance(record, NeedsRead):
                self._is_reading = True
                assert self._server.spawn is not None
                self._server.spawn(self._read, snapshot)
            else:
                self._server.delivered += 1
                self._send(snapshot.message_of(record), record.offset, option)

    async def _read(self, snapshot: RetainedSnapshot) -> None:
        """The pages are not cached: read in a worker, then go on."""
        try:
            await snapshot.fill()
        except (OSError, TrunklineError) as error:
            self._failed(error)
        finally:
            self._is_reading = False
        if not self._is_closed:
            self._resume()

    def _failed(self, error: Exception) -> None:
        logger.error("retained messages cannot be read for a subscription: %s", error)
        if self._snapshots:
            self._snapshots.popleft()

    def close(self) -> None:
        """The client is gone."""
        self._is_closed = True
        self._snapshots.clear()
        self._send, self._resume = _send_nothing, _nothing


def _send_nothing(message: OutgoingMessage, offset: int, option: int) -> None:
    """Instead of the session's, which has this feed: so both go at once, not when cycles are looked for."""


def _nothing() -> None:
    """Likewise."""
