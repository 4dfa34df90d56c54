"""Publishers that have to wait because the store is full (``connection.blocked``).

What could not be stored is kept, in order, and its connection is read no more; so it is no more than what was under
way. Once a second one record for each partition is tried again. When that works the others follow, and the
connections go on: nothing was lost, nothing has changed places, and the publisher has only seen a pause.
What a connection that ends has left here is dropped: it was never confirmed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from trunkline.errors import StoreFull, TrunklineError

if TYPE_CHECKING:
    from trunkline.partition import Partition
    from trunkline_amqp.answering import Answering, Staged

__all__ = ["Blocking"]

logger = logging.getLogger("trunkline.amqp")

RETRY_S: Final = 1.0


class Blocking:
    """All that waits for room, of all connections of a door.

    Args:
      spawn: starts a task of the broker.
    """

    def __init__(self, spawn: Callable[..., Any]) -> None:
        self._spawn = spawn
        self._kept: dict[Partition, deque[tuple[Answering, Staged]]] = {}
        self._probing: set[Partition] = set()
        self._is_running = False

    def keep(self, publishing: Answering, staged: Staged, error: StoreFull) -> None:
        """This could not be stored; its connection has to wait."""
        kept = self._kept.get(staged[1])
        if kept is None:
            kept = self._kept[staged[1]] = deque()
            logger.error("publishers to %s wait until there is room: %s", staged[1].name, error)
        kept.append((publishing, staged))
        publishing.kept += 1
        publishing.connection.block(f"low on disk: {error}")
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run)

    def forget(self, publishing: Answering) -> None:
        """Its channel is gone."""
        if publishing.kept:
            publishing.kept = 0
            for kept in self._kept.values():
                left = [entry for entry in kept if entry[0] is not publishing]
                kept.clear()
                kept.extend(left)
            self._let_go(publishing)

    async def _run(self) -> None:
        try:
            while self._kept:
                await trio.sleep(RETRY_S)
                for partition in [*self._kept]:
                    self._probe(partition)
        finally:
            self._is_running = False

    def _probe(self, partition: Partition) -> None:
        if partition in self._probing:
            return
        kept = self._kept[partition]
        if not kept:
            del self._kept[partition]
            return
        self._probing.add(partition)
        entry = kept.popleft()
        try:
            _, _, timestamp, key, body, block = entry[1]
            partition.stage_record(timestamp, key, body, block, self, entry)
        except TrunklineError as error:
            self.append_failed(entry, error)

    def append_done(self, token: Any, offset: int) -> None:
        """See :class:`trunkline.partition.AppendReceiver`: there is room again."""
        publishing: Answering
        staged: Staged
        publishing, staged = token
        self._probing.discard(staged[1])
        self._taken(publishing)
        publishing.append_done(staged, offset)
        kept = self._kept.pop(staged[1], deque())
        logger.warning("%s has room again; %d records that waited follow", staged[1].name, len(kept))
        for waiting, entry in kept:
            self._taken(waiting)
            waiting.in_flight -= 1
            waiting.stage_again(entry)

    def append_failed(self, token: Any, error: TrunklineError) -> None:
        """See :class:`trunkline.partition.AppendReceiver`."""
        publishing: Answering
        staged: Staged
        publishing, staged = token
        self._probing.discard(staged[1])
        if isinstance(error, StoreFull):
            if not publishing.is_closed:
                self._kept.setdefault(staged[1], deque()).appendleft(token)
            return
        self._taken(publishing)
        publishing.append_failed(staged, error)

    def _taken(self, publishing: Answering) -> None:
        if publishing.kept:
            publishing.kept -= 1
            self._let_go(publishing)

    def _let_go(self, publishing: Answering) -> None:
        connection = publishing.connection
        if not any(channel.publishing.kept for channel in connection.channels.values()):
            connection.unblock()

    @property
    def count(self) -> int:
        """Records that wait."""
        return sum(len(kept) for kept in self._kept.values())
