"""What moves the transactions of a broker along: opening, ends, time.

Requests of one transactional id are taken one after another (a lock each); what they decide
(:mod:`trunkline.transactions.state`) is durable in the internal topic ``__transactions`` before anything follows from
it. An end goes so::

    1  PREPARE_* is durable: the transaction is decided. From here on nothing is written in it
    2  a marker in each partition in which it is open, its offsets in each group: all durable
    3  COMPLETE_* is written

Whoever asked for the end is answered after step 2, so that what it committed can be read when it knows of it. If
something cannot be written in step 2 (a full disk, a log that has stopped), the answer is given all the same, as
nothing can change the outcome any more; step 2 is tried again and again, and after a restart, until it is done.

A crash before 1 leaves the transaction ongoing, and its time goes on. After 1, the start finds PREPARE_* and goes on
with 2. A partition that has its marker has no such transaction open, and a group that was told has nothing staged, so
doing it again does nothing twice. What a partition or a group holds of transactions that nobody remembers is
aborted at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from trunkline.errors import (
    BrokerClosing,
    CoordinatorLoading,
    InvalidTransactionState,
    TrunklineError,
    UnknownTransactionalId,
)
from trunkline.log import TopicPartition
from trunkline.pending import WaitForAppends
from trunkline.timers import Timers
from trunkline.transactions.state import (
    Transaction,
    TransactionState,
    complete,
    fence,
)
from trunkline.transactions.statistics import TransactionStatistics
from trunkline.transactions.stored import STATE_TOPIC, decode_key, decode_transaction, encode_key, encode_transaction

if TYPE_CHECKING:
    from trunkline.groups import GroupCoordinator
    from trunkline.partition import Partition
    from trunkline.views import ViewServices

__all__ = ["Entry", "TransactionDriver"]

logger = logging.getLogger("trunkline.transactions")

_SWEEP: Final = ""  # the timer that is no transactional id's
_SWEEP_INTERVAL_S: Final = 3600.0  # Kafka's transaction.remove.expired.transaction.cleanup.interval.ms
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 30.0


class Entry:
    """One transactional id. ``transaction`` is durable; ``deadline`` of what is ongoing, in seconds of the clock."""

    __slots__ = ("deadline", "is_ending", "lock", "transaction")

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.lock = trio.Lock()
        self.is_ending = False  # the end is decided, and perhaps not durable
        self.deadline = 0.0


class TransactionDriver:
    """The transactions of a broker; others see :class:`trunkline.transactions.coordinator.TransactionCoordinator`."""

    def __init__(
        self,
        services: ViewServices,
        groups: GroupCoordinator,
        new_producer_id: Callable[[], Awaitable[int]],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._config = services.config.transactions
        self._catalog = services.catalog
        self._rounds = services.rounds
        self._spawn = services.spawn
        self._topic = services.state_topic(STATE_TOPIC)
        self._groups = groups
        self._new_producer_id = new_producer_id
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._timers = Timers()
        self._running = trio.CancelScope()
        self._committed = self._aborted = self._timed_out = 0
        self._refusal: TrunklineError | None = CoordinatorLoading("transactions are still being read; try again")

    # -- opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """Read what is stored, and go on with what was being ended; groups and partitions are open already.

        Raises what StateTopic.replay does, ValueError.
        """
        stored: dict[str, Transaction] = {}

        def apply(key: bytes, value: bytes | None, offset: int) -> None:
            transactional_id = decode_key(key)
            if value is None:
                stored.pop(transactional_id, None)
            else:
                stored[transactional_id] = decode_transaction(transactional_id, value)

        await self._topic.replay(apply)
        self._refusal = None
        for transactional_id, transaction in stored.items():
            entry = self._entries[transactional_id] = Entry(transaction)
            if transaction.state is TransactionState.ONGOING:
                left_ms = transaction.started_ms + transaction.timeout_ms - self._rounds.now_ms()
                self._set_deadline(entry, max(left_ms, 0) / 1000)
            elif transaction.state.is_prepared:
                entry.is_ending = True
                self._spawn(self._finish_later, entry)
        self._drop_unknown()
        self._timers.set(_SWEEP, self._clock() + _SWEEP_INTERVAL_S)
        self._spawn(self._run_timers)

    async def close(self) -> None:
        """Stop; what is being ended goes on at the next start."""
        self._running.cancel()
        self._refusal = BrokerClosing("the broker is shutting down; try again when it is back")

    def _drop_unknown(self) -> None:
        """Abort what belongs to no transaction that is remembered."""
        undecided = {
            entry.transaction.producer_id: entry.transaction
            for entry in self._entries.values()
            if entry.transaction.state is TransactionState.ONGOING or entry.transaction.state.is_prepared
        }
        self._groups.keep_staged({(group, each.producer_id) for each in undecided.values() for group in each.groups})
        for partition in self._catalog.partitions():
            for producer_id, first_offset in (partition.transactions.open if partition.transactions else {}).items():
                known = undecided.get(producer_id)
                if known is None or TopicPartition(partition.topic.name, partition.index) not in known.partitions:
                    logger.warning(
                        "%s: producer %d has a transaction open from offset %d on that nobody remembers; aborting it",
                        partition.name, producer_id, first_offset,
                    )  # fmt: skip
                    epoch = partition.producer_epoch(producer_id)
                    partition.stage_marker(producer_id, epoch, is_commit=False)

    def _check_ready(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def statistics(self) -> TransactionStatistics:
        states = [entry.transaction.state for entry in self._entries.values()]
        return TransactionStatistics(
            ids=len(states),
            ongoing=states.count(TransactionState.ONGOING),
            ending=sum(state.is_prepared for state in states),
            committed=self._committed,
            aborted=self._aborted,
            timed_out=self._timed_out,
        )

    # -- inside ------------------------------------------------------------------------------------

    def _entry(self, transactional_id: str) -> Entry:
        self._check_ready()
        entry = self._entries.get(transactional_id)
        if entry is None or entry.transaction.epoch < 0:
            raise UnknownTransactionalId(
                f"transactional id {transactional_id!r} is not known; initialise it first",
                transactional_id=transactional_id,
            )
        return entry

    def _writable_entry(self, transactional_id: str) -> Entry:
        entry = self._entry(transactional_id)
        if entry.is_ending:
            raise InvalidTransactionState(
                f"the transaction of {transactional_id!r} is being ended, so nothing can be written in it",
                transactional_id=transactional_id,
            )
        return entry

    async def _keep(self, entry: Entry, transaction: Transaction) -> None:
        """Make it durable, then let it be so. Raises LogStopped, StoreFull, BrokerClosing: it is not so."""
        name = transaction.transactional_id
        await self._topic.write_durable([(encode_key(name), encode_transaction(transaction))])
        entry.transaction = transaction

    async def _end(self, entry: Entry, prepared: Transaction) -> None:
        entry.is_ending = True
        try:
            await self._keep(entry, prepared)
        except TrunklineError:
            entry.is_ending = False
            raise
        if prepared.state is TransactionState.PREPARE_COMMIT:
            self._committed += 1
        else:
            self._aborted += 1
        if not await self._finish(entry):
            self._spawn(self._finish_later, entry)

    async def _finish(self, entry: Entry) -> bool:
        """Tell everybody how it ended; False if somebody cannot be told now."""
        transaction = entry.transaction
        try:
            await self._tell(transaction)
        except TrunklineError as error:
            if not isinstance(error, BrokerClosing):
                logger.warning(
                    "transaction of %r: its end cannot be written everywhere, trying again: %s",
                    transaction.transactional_id, error,
                )  # fmt: skip
            return False
        entry.transaction = completed = complete(transaction, self._rounds.now_ms())
        entry.is_ending = False
        self._topic.write(encode_key(completed.transactional_id), encode_transaction(completed))
        return True

    async def _tell(self, transaction: Transaction) -> None:
        """Write markers and offsets; return once all are durable. Raises what one could not be written with."""
        waiting = WaitForAppends()
        producer_id, is_commit = transaction.producer_id, transaction.state is TransactionState.PREPARE_COMMIT
        for place in transaction.partitions:
            partition = self._partition(place)
            if partition is not None and partition.transactions and partition.transactions.is_open(producer_id):
                partition.stage_marker(producer_id, transaction.epoch, is_commit=is_commit, receiver=waiting.one_more())
        for group in transaction.groups:
            self._groups.end_staged(group, producer_id, is_commit=is_commit, receiver=waiting.one_more())
        await waiting.wait()

    def _partition(self, place: TopicPartition) -> Partition | None:
        topic = self._catalog.topics.get(place.topic)
        if topic is None or place.partition >= len(topic.partitions):
            return None  # deleted: nobody waits for it any more
        return topic.partitions[place.partition]

    async def _finish_later(self, entry: Entry) -> None:
        pause_s = _PAUSE_S
        while self._refusal is None:
            async with entry.lock:
                if not entry.transaction.state.is_prepared or await self._finish(entry):
                    return
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    # -- time --------------------------------------------------------------------------------------

    def _set_deadline(self, entry: Entry, seconds: float) -> None:
        entry.deadline = self._clock() + seconds
        self._timers.set(entry.transaction.transactional_id, entry.deadline)

    async def _run_timers(self) -> None:
        with self._running:
            await self._timers.run(self.run_timers)

    def run_timers(self) -> None:
        """Do what is due."""
        now = self._clock()
        for name in self._timers.due(now):
            if name == _SWEEP:
                self._sweep()
                self._timers.set(_SWEEP, now + _SWEEP_INTERVAL_S)
                continue
            entry = self._entries.get(name)
            if entry is None or entry.transaction.state is not TransactionState.ONGOING:
                continue
            if entry.deadline <= now:
                self._spawn(self._time_out, entry)
            else:
                self._timers.set(name, entry.deadline)

    async def _time_out(self, entry: Entry) -> None:
        async with entry.lock:
            transaction = entry.transaction
            if transaction.state is not TransactionState.ONGOING or entry.deadline > self._clock():
                return
            logger.warning(
                "transaction of %r: producer %d has not ended it within %d ms; aborting it",
                transaction.transactional_id, transaction.producer_id, transaction.timeout_ms,
            )  # fmt: skip
            try:
                await self._end(entry, fence(transaction, self._rounds.now_ms()))
            except TrunklineError as error:
                if self._refusal is None:
                    logger.error("transaction of %r: it cannot be aborted: %s", transaction.transactional_id, error)
                    self._set_deadline(entry, _LONGEST_PAUSE_S)
                return
            self._timed_out += 1

    def _sweep(self) -> None:
        """Forget transactional ids that have been without a transaction for long."""
        cutoff_ms = self._rounds.now_ms() - round(self._config.id_expiration_s * 1000)
        for name, entry in list(self._entries.items()):
            transaction = entry.transaction
            is_busy = transaction.state is TransactionState.ONGOING or transaction.state.is_prepared
            if not is_busy and not entry.lock.locked() and transaction.updated_ms <= cutoff_ms:
                del self._entries[name]
                self._topic.write(encode_key(name), None)
