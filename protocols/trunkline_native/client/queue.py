"""A queue by its name: to consume, to publish to, to ask about and to change."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from trunkline.errors import LocalProtocolError
from trunkline_native.client.consumption import ConsumptionTable
from trunkline_native.client.content import Content, Headers
from trunkline_native.client.dead_letters import DeadLetter, list_dead_letters, remove_dead_letters
from trunkline_native.client.queue_admin import QueueAdmin, QueuePosition
from trunkline_native.client.queue_reader import ConsumeOptions, QueueReader
from trunkline_native.client.queue_types import PeekedRecord, QueueDescription, QueueSource
from trunkline_native.client.types import Delivery, RecordMetadata

if TYPE_CHECKING:
    from trunkline_native.client.bus import Bus

__all__ = ["Queue", "QueueClient", "queue_headers"]


class QueueClient(NamedTuple):
    """What a client has for all queues together."""

    admin: QueueAdmin
    table: ConsumptionTable


class Queue:
    """A queue, which need not exist yet; made by ``Bus.queue``. To consume it, open it::

        async with bus.queue("emails", sources=["jobs"], filter="mail.#") as jobs:
            async for job in jobs:
                ...
                job.ack()

    Opening makes the queue if it is missing; one that is there is attached to, if it has what was asked for. Raises
    QueueExists if it has not; InvalidFilter, InvalidSetting, QueueInUse.
    """

    def __init__(
        self,
        bus: Bus,
        client: QueueClient,
        name: str,
        sources: list[QueueSource] | None,
        settings: Mapping[str, object],
        options: ConsumeOptions,
    ) -> None:
        self.name = name
        self._bus = bus
        self._admin, self._table = client
        self._sources = sources
        self._settings = settings
        self._options = options
        self._reader: QueueReader | None = None

    # -- consuming ---------------------------------------------------------------------------------

    async def __aenter__(self) -> QueueReader:
        if self._reader is not None:
            raise LocalProtocolError(f"this is consuming queue {self.name} already; open another one: bus.queue(...)")
        reader = self._reader = QueueReader(self._table, self.name, self._options)
        try:
            await self._admin.create(self.name, self._sources, self._settings, attach=True)
            await reader.__aenter__()
        except BaseException:
            self._reader = None
            raise
        return reader

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reader, self._reader = self._reader, None
        assert reader is not None
        await reader.__aexit__(kind, error, trace)

    # -- publishing --------------------------------------------------------------------------------

    async def publish(
        self,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
        timestamp: int | datetime | None = None,
    ) -> RecordMetadata:
        """Publish a record for this queue alone, in its home topic; arguments, errors as :meth:`Bus.publish`.

        Args:
          priority: 0 to 255, higher ones first, up to the queue's ``max.priority``.
          delay: seconds before anybody gets it.
          expires: seconds after which nobody should; it then goes to the dead letters.
        """
        pairs = queue_headers(headers, time.time(), priority=priority, delay=delay, expires=expires)
        return await self._bus.publish(self.name, value, key=key, headers=pairs, timestamp=timestamp)

    async def send(
        self,
        value: Content | None,
        *,
        key: Content | None = None,
        headers: Headers | None = None,
        priority: int | None = None,
        delay: float | None = None,
        expires: float | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Like :meth:`publish`, without waiting for the acknowledgement; see :meth:`Bus.send`."""
        pairs = queue_headers(headers, time.time(), priority=priority, delay=delay, expires=expires)
        return await self._bus.send(self.name, value, key=key, headers=pairs, timestamp=timestamp)

    # -- asking and changing -----------------------------------------------------------------------

    async def describe(self, *, explain: bool = False) -> QueueDescription:
        """Its definition and counts. Raises UnknownQueue. Cancellation: nothing happens.

        Args:
          explain: also say in sentences what it waits for.
        """
        return await self._admin.describe(self.name, explain=explain)

    async def alter(self, settings: Mapping[str, object | None]) -> QueueDescription:
        """Change settings; None puts one back to its default.

        Raises UnknownQueue, InvalidSetting: nothing was changed; ConnectionFailed: it may have happened.
        Cancellation: may have happened.
        """
        await self._admin.alter(self.name, settings, None)
        return await self.describe()

    async def purge(self) -> int:
        """Settle all that is ready; return how many. Records stay in their topics. Errors as :meth:`alter`."""
        return await self._admin.purge(self.name)

    async def move(self, to: str, *, limit: int | None = None) -> int:
        """Publish what is ready to a topic, and settle it; return how many. Errors as :meth:`alter`."""
        return await self._admin.move(self.name, to, limit)

    async def reset(self, position: QueuePosition) -> int:
        """Begin anew at ``earliest``, ``latest``, an offset or a datetime of the sources; how many it forgot.

        What consumers hold is taken from them. Errors as :meth:`alter`.
        """
        return await self._admin.reset(self.name, position)

    async def peek(self, limit: int = 100, *, after: int | None = None) -> list[PeekedRecord]:
        """Look at the oldest records, or those after a sequence, without taking them. Cancellation: nothing happens."""
        return await self._admin.peek(self.name, limit, after)

    async def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue; return how many records it held. They stay in their topics. Errors as :meth:`alter`.

        Args:
          if_unused: QueueInUse if it has consumers.
          if_empty: QueueInUse if it holds records.
        """
        return await self._admin.delete(self.name, if_unused=if_unused, if_empty=if_empty)

    # -- dead letters ------------------------------------------------------------------------------

    def dead_letters(self, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
        """What this queue has given up, the oldest first. Raises UnknownQueue, InvalidSetting if it keeps none."""
        return list_dead_letters(self._bus, self.name, limit)

    async def replay_dead_letters(self, *, limit: int | None = None, to: str | None = None) -> int:
        """Publish the oldest dead letters again, and remove them; return how many.

        A header ``trunkline.replayed`` counts how often that was done to a record.

        Args:
          limit: no more than so many.
          to: a topic; None: the queue's home topic, so that no other queue gets them again.

        Raises InvalidSetting where a dead letter of another queue is next in a shared topic.
        Cancellation: may have happened; some may be there twice, none is lost.
        """
        target = self.name if to is None else to

        async def replay(letter: DeadLetter) -> Delivery:
            record = letter.record
            return await self._bus.send(target, record.value, key=record.key, headers=letter.original_headers())

        return await remove_dead_letters(self._bus, self.name, limit, replay)

    async def drop_dead_letters(self, *, limit: int | None = None) -> int:
        """Remove the oldest dead letters for good; return how many. Errors as :meth:`replay_dead_letters`."""

        async def drop(letter: DeadLetter) -> None:
            pass

        return await remove_dead_letters(self._bus, self.name, limit, drop)


def queue_headers(
    headers: Headers | None,
    now_s: float,
    *,
    priority: int | None = None,
    delay: float | None = None,
    expires: float | None = None,
) -> list[tuple[str, Content | None]]:
    """Headers with those that queues obey; ``now_s``: since the epoch."""
    pairs = [] if not headers else list(headers.items() if isinstance(headers, Mapping) else headers)
    if priority is not None:
        if not 0 <= priority <= 255:
            raise ValueError(f"priority={priority} is not allowed; use 0 to 255")
        pairs.append(("trunkline.priority", str(priority)))
    for name, seconds in (("trunkline.deliver-at", delay), ("trunkline.expires-at", expires)):
        if seconds is not None:
            pairs.append((name, str(max(round((now_s + seconds) * 1000), 0))))
    return pairs
