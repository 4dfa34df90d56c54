"""The transactions of a broker, as others see them: what producers ask, and what people do.

What is decided is in :mod:`trunkline.transactions.state`, how it is made so in :mod:`trunkline.transactions.driver`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from typing import Final

from trunkline.errors import (
    InvalidSetting,
    InvalidTransactionTimeout,
    Overloaded,
)
from trunkline.groups.offsets import OffsetAndMetadata
from trunkline.log import TopicPartition
from trunkline.pending import AppendReceiver
from trunkline.transactions.driver import Entry, TransactionDriver
from trunkline.transactions.state import (
    ProducerIdentity,
    Transaction,
    TransactionState,
    add,
    check_can_be_initialised,
    check_ongoing,
    end,
    fence,
    initialise,
    needs_new_producer_id,
    successor,
)

__all__ = ["TransactionCoordinator"]

MAX_ID_BYTES: Final = 1024
"""Of a transactional id in UTF-8: each is kept in memory and stored."""


class TransactionCoordinator(TransactionDriver):
    """Made and opened by the broker. Belongs to its thread. Until it is open every call raises CoordinatorLoading."""

    # -- what producers ask ------------------------------------------------------------------------

    async def initialise(
        self, transactional_id: str, timeout_ms: int, expected: ProducerIdentity | None = None
    ) -> ProducerIdentity:
        """Who a producer with this transactional id is from now on. Others who were it are fenced, and what they had
        begun is aborted before this returns.

        Args:
          timeout_ms: a transaction that is ongoing for longer is aborted.
          expected: who it has been up to now (KIP-360); None: nobody yet.

        Raises:
          InvalidSetting (the transactional id), InvalidTransactionTimeout, ProducerFenced, Overloaded: nothing changed.
          ConcurrentTransactions: the last transaction cannot be ended yet.
          CoordinatorLoading, BrokerClosing, LogStopped, StoreFull.

        Cancellation: may have happened.
        """
        self._check_ready()
        self._check_initialise(transactional_id, timeout_ms)
        entry = self._entries.get(transactional_id)
        if entry is None:
            entry = await self._new_entry(transactional_id, timeout_ms)
        async with entry.lock:
            if entry.transaction.state is TransactionState.ONGOING:
                check_can_be_initialised(entry.transaction, expected)
                was = entry.transaction.producer
                await self._end(entry, fence(entry.transaction, self._rounds.now_ms()))
                expected = entry.transaction.producer if expected == was else None
            present = entry.transaction
            check_can_be_initialised(present, expected)
            new_id = await self._new_producer_id() if needs_new_producer_id(present) else -1
            following = initialise(
                present, timeout_ms, self._rounds.now_ms(), expected=expected, new_producer_id=new_id
            )
            if following is not present:
                await self._keep(entry, following)
            return entry.transaction.producer

    def _check_initialise(self, transactional_id: str, timeout_ms: int) -> None:
        if not 1 <= len(transactional_id.encode()) <= MAX_ID_BYTES:
            raise InvalidSetting(
                f"a transactional id has 1 to {MAX_ID_BYTES} bytes, not {len(transactional_id.encode())}",
                setting="transactional.id",
            )
        maximum_ms = round(self._config.max_timeout_s * 1000)
        if not 0 < timeout_ms <= maximum_ms:
            raise InvalidTransactionTimeout(
                f"a transaction timeout of {timeout_ms} ms is not allowed; use 1 to {maximum_ms}", maximum_ms=maximum_ms
            )

    async def _new_entry(self, transactional_id: str, timeout_ms: int) -> Entry:
        """In memory only; the first thing that is written is what ``initialise`` makes of it."""
        if len(self._entries) >= self._config.max_ids:
            raise Overloaded(f"{len(self._entries)} transactional ids are remembered, which is transactions.max_ids")
        producer_id = await self._new_producer_id()
        entry = self._entries.get(transactional_id)  # somebody else may have come meanwhile
        if entry is None:
            now_ms = self._rounds.now_ms()
            entry = Entry(Transaction(transactional_id, producer_id, -1, timeout_ms, updated_ms=now_ms))
            self._entries[transactional_id] = entry
        return entry

    async def add_partitions(
        self, transactional_id: str, producer: ProducerIdentity, partitions: Iterable[TopicPartition]
    ) -> None:
        """The producer's transaction, begun now if none is ongoing, will write to these; durable on return.

        Raises UnknownTransactionalId, ProducerFenced, ConcurrentTransactions, UnknownTopic, UnknownPartition:
        nothing changed; CoordinatorLoading, BrokerClosing, LogStopped, StoreFull. Cancellation: may have happened.
        """
        wanted = tuple(partitions)
        for partition in wanted:
            self._catalog.get(partition.topic).partition(partition.partition)
        await self._add(transactional_id, producer, partitions=wanted)

    async def add_group(self, transactional_id: str, producer: ProducerIdentity, group: str) -> None:
        """Likewise, offsets of this group."""
        await self._add(transactional_id, producer, groups=(group,))

    async def _add(
        self,
        transactional_id: str,
        producer: ProducerIdentity,
        *,
        partitions: tuple[TopicPartition, ...] = (),
        groups: tuple[str, ...] = (),
    ) -> None:
        entry = self._entry(transactional_id)
        async with entry.lock:
            present = entry.transaction
            following = add(present, producer, self._rounds.now_ms(), partitions=partitions, groups=groups)
            if following is present:
                return
            await self._keep(entry, following)
            if present.state is not TransactionState.ONGOING:
                self._set_deadline(entry, following.timeout_ms / 1000)

    async def end(
        self, transactional_id: str, producer: ProducerIdentity, *, is_commit: bool, bumps: bool = False
    ) -> ProducerIdentity:
        """Commit or abort. When it returns the outcome is durable, and seen wherever it could be written.

        Args:
          bumps: the producer gets the next epoch, so that nothing of this transaction reaches the next one (KIP-890).

        Returns:
          Who the producer is from now on; ``producer`` itself, unless ``bumps``.

        Raises UnknownTransactionalId, ProducerFenced, ConcurrentTransactions, InvalidTransactionState: nothing changed;
        CoordinatorLoading, BrokerClosing, LogStopped, StoreFull. Cancellation: may have happened; say it again.
        """
        entry = self._entry(transactional_id)
        async with entry.lock:
            present = entry.transaction
            new_id = await self._new_producer_id() if bumps and needs_new_producer_id(present) else -1
            following = end(
                present, producer, self._rounds.now_ms(), is_commit=is_commit, bumps=bumps, new_producer_id=new_id
            )
            if following is not present:
                await self._end(entry, following)
            return successor(entry.transaction)

    def check_append(self, transactional_id: str, producer: ProducerIdentity, topic: str, partition: int) -> None:
        """Whether a batch of this producer may be written there, as part of its transaction.

        To be asked in the call that stages it: then nothing is written in a transaction whose end is decided.

        Raises UnknownTransactionalId, ProducerFenced, InvalidTransactionState, CoordinatorLoading.
        """
        entry = self._writable_entry(transactional_id)
        place = TopicPartition(topic, partition)
        check_ongoing(entry.transaction, producer, lambda found: place in found.partitions)

    def stage_offsets(
        self,
        transactional_id: str,
        producer: ProducerIdentity,
        group: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        *,
        member_id: str = "",
        generation: int = -1,
        instance_id: str | None = None,
        receiver: AppendReceiver,
    ) -> None:
        """Offsets of a group, as part of the producer's transaction; see :meth:`GroupCoordinator.stage_offsets`.

        Raises as ``check_append`` and that.
        """
        entry = self._writable_entry(transactional_id)
        check_ongoing(entry.transaction, producer, lambda found: group in found.groups)
        self._groups.stage_offsets(
            group,
            producer.producer_id,
            offsets,
            member_id=member_id,
            generation=generation,
            instance_id=instance_id,
            receiver=receiver,
        )

    # -- what people ask ---------------------------------------------------------------------------

    def list(self) -> builtins.list[Transaction]:
        """All transactional ids with their present or last transaction, by name."""
        self._check_ready()
        found = (self._entries[name].transaction for name in sorted(self._entries))
        return [transaction for transaction in found if transaction.epoch >= 0]  # else it is not stored yet

    def describe(self, transactional_id: str) -> Transaction:
        """Raises UnknownTransactionalId, CoordinatorLoading."""
        return self._entry(transactional_id).transaction

    async def abort(self, transactional_id: str) -> bool:
        """Abort what is ongoing and fence its producer; False if nothing was.

        Raises UnknownTransactionalId, CoordinatorLoading, BrokerClosing, LogStopped, StoreFull.
        """
        entry = self._entry(transactional_id)
        async with entry.lock:
            if entry.transaction.state is not TransactionState.ONGOING:
                return False
            await self._end(entry, fence(entry.transaction, self._rounds.now_ms()))
            return True
