"""Internal topics: what a view of the log (groups, queues, sessions) must not forget.

``__offsets``, ``__queues`` and ``__sessions`` are compacted topics of one partition. Each has one owner, which writes
keys with their latest values, and at start is given every record once, in order (:meth:`StateTopic.replay`); later
records of a key replace earlier ones. So whatever stores, compacts and one day replicates the log does it for them
too. Nobody else reads or writes them.

A write joins the round's batch, and so shares its fsync with what was published in that round. A topic is made when
something is first written to it: a broker without groups or queues pays nothing. What is written meanwhile waits, in
order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import trio

from trunkline.catalog import TopicCatalog
from trunkline.errors import StoreFull, TrunklineError
from trunkline.partition import Partition
from trunkline.pending import AppendReceiver, WaitForAppends
from trunkline.records import EMPTY_HEADERS, decode_all, iter_headers
from trunkline.rounds import Rounds

__all__ = ["INTERNAL_SETTINGS", "MAX_VALUE_BYTES", "StateTopic"]

logger = logging.getLogger("trunkline.state")

MAX_VALUE_BYTES: Final = 8 * 1024 * 1024

INTERNAL_SETTINGS: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "60000",  # nobody but the owner reads, and it reads only at start
    "max.message.bytes": str(MAX_VALUE_BYTES + 1024 * 1024),
    "segment.bytes": str(MAX_VALUE_BYTES),  # the active segment is never compacted, and is replayed as it is
}
"""The settings of every internal topic."""

_READ_BYTES: Final = 1024 * 1024

Apply = Callable[[bytes, bytes | None, int], None]


class StateTopic:
    """One internal topic, as its owner sees it. Belongs to the broker's thread."""

    def __init__(self, name: str, catalog: TopicCatalog, rounds: Rounds, spawn: Callable[..., None]) -> None:
        self.name = name
        self._catalog = catalog
        self._rounds = rounds
        self._spawn = spawn
        self._waiting: list[tuple[bytes, bytes | None, AppendReceiver | None, object]] = []  # for it to be made

    @property
    def is_made(self) -> bool:
        """Something was written to it, in this run of the broker or an earlier one."""
        return self.name in self._catalog.internal

    @property
    def _partition(self) -> Partition | None:
        topic = self._catalog.internal.get(self.name)
        return None if topic is None else topic.partitions[0]

    async def replay(self, apply: Apply) -> None:
        """Call ``apply(key, value, offset)`` for every record, oldest first; value None: the key is gone.

        Raises CorruptLog, CorruptBatch, OSError, and what ``apply`` raises. Cancellation: begin again.
        """
        partition = self._partition
        if partition is None:
            return
        offset = partition.log_start_offset
        while offset < partition.high_watermark:
            batches = await partition.read(offset, _READ_BYTES)
            if not batches:
                break
            for record in decode_all(batches, from_offset=offset):
                assert record.key is not None, "a compacted topic takes no record without a key"
                apply(record.key, record.value, record.offset)
            for _, header in iter_headers(batches):
                offset = header.next_offset
            await trio.lowlevel.checkpoint()

    def write(
        self, key: bytes, value: bytes | None, receiver: AppendReceiver | None = None, token: object = None
    ) -> None:
        """Set ``key`` to ``value`` (at most MAX_VALUE_BYTES); None takes it away. Writes keep their order.

        ``receiver`` is told, never before this returns: once it is durable, with the record's offset, or has failed.
        """
        assert value is None or len(value) <= MAX_VALUE_BYTES
        partition = self._partition
        if partition is not None and not self._waiting:
            self._stage(partition, key, value, receiver, token)
            return
        self._waiting.append((key, value, receiver, token))
        if len(self._waiting) == 1:
            self._spawn(self._make)

    def _stage(
        self, partition: Partition, key: bytes, value: bytes | None, receiver: AppendReceiver | None, token: object
    ) -> None:
        try:
            partition.stage_record(self._rounds.now_ms(), key, value, EMPTY_HEADERS, receiver, token)
        except TrunklineError as error:
            if receiver is not None:
                failure = error
                self._rounds.call_soon(lambda: receiver.append_failed(token, failure))

    async def _make(self) -> None:
        try:
            topic = await self._catalog.ensure_internal(self.name, INTERNAL_SETTINGS)
        except (OSError, TrunklineError) as error:
            logger.error("%s cannot be made: %s", self.name, error)
            failure = error if isinstance(error, TrunklineError) else StoreFull(f"{self.name} cannot be made: {error}")
            waiting, self._waiting = self._waiting, []
            for _, _, receiver, token in waiting:
                if receiver is not None:
                    receiver.append_failed(token, failure)
            return
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            self._stage(topic.partitions[0], *write)

    async def write_durable(self, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write all of these, next to each other; return once they are durable.

        Raises LogStopped, StoreFull, BrokerClosing: some of them may have been written.
        Cancellation: may have happened.
        """
        waiting = WaitForAppends()
        for key, value in entries:
            self.write(key, value, waiting.one_more())
        await waiting.wait()

    async def read_value(self, offset: int) -> bytes | None:
        """The value of the record at ``offset``, as ``append_done`` or ``replay`` told it; None if it is gone."""
        partition = self._partition
        if partition is None or not partition.log_start_offset <= offset < partition.high_watermark:
            return None
        batches = await partition.read(offset, 1)
        for record in decode_all(batches, from_offset=offset):
            return record.value if record.offset == offset else None
        return None
