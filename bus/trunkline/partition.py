"""One partition on the broker that leads it: stages, writes and commits. Reading it is in :mod:`trunkline.readable`.

A record's way: ``stage_*`` gives it its offset and puts it into this round's batch; ``write`` appends
the round's batches to the log in one call; the commit thread flushes; ``committed`` moves the high
watermark and then, in this order, acknowledges and tells the listeners. With ``durability=os`` the
high watermark moves in ``write``.

Offsets, in the order ``log_start <= high_watermark <= acknowledged <= log_end <= next``: *next* counts what is staged,
*log end* what the store has been given, *acknowledged* what is committed. Readers stay below the *high watermark*,
which is the same unless a transaction is open (:mod:`trunkline.readable`); in a partition that never saw one, all that
transactions cost is a comparison with None.
The replica set is one broker here; the model has leader epoch, replicas and ISR from the start.

Staging is the hot path of every door that brings single records, so the checks there are few: a
refusal (stopped, closing) empties the builder slot, and the slot is looked at anyway.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from trunkline.errors import InvalidTransactionState, LogStopped, StoreFull, TrunklineError
from trunkline.log import Log, SavedState
from trunkline.maintained import MaintainedPartition
from trunkline.pending import AppendReceiver, Pending
from trunkline.producers import ProducerStatus, ProducerTable
from trunkline.readable import TailListener
from trunkline.records import EMPTY_HEADERS, BatchBuilder, BatchHeader, assign, iter_headers, read_header
from trunkline.records.markers import encode_marker
from trunkline.saved_state import PartitionState, StateSaver, decode_state, encode_state
from trunkline.transactions.aborted import hide_aborted
from trunkline.transactions.held_back import HeldBack
from trunkline.transactions.in_log import LogTransactions
from trunkline.validation import check_key, check_new_batch, check_size

if TYPE_CHECKING:
    from trunkline.rounds import Rounds
    from trunkline.topic import Topic

__all__ = ["AppendReceiver", "Partition", "PartitionStatistics", "StagingGate", "TailListener"]

logger = logging.getLogger("trunkline.partition")

Buffer = bytes | bytearray | memoryview

_RECORD_OVERHEAD = 40  # varints, attributes and count around one record: at most this many bytes
_RECOVERY_READ_BYTES = 1024 * 1024
FLUSH_INTERVAL_BYTES = 16 * 1024 * 1024
"""With ``durability=os`` a log is flushed after so many bytes all the same."""


class PartitionStatistics(msgspec.Struct, frozen=True):
    """A snapshot; offsets as in the module's docstring, ``producers`` known to idempotence."""

    log_start_offset: int
    log_end_offset: int
    high_watermark: int
    acknowledged_offset: int
    leader_epoch: int
    size_bytes: int
    staged_records: int
    uncommitted_bytes: int
    producers: int
    open_transactions: int
    aborted_transactions: int
    listeners: int


class StagingGate(Protocol):
    """Who may refuse what is about to be staged (a queue that is full). Raises what the publisher is to get."""

    def check_record(self, size_bytes: int, key: bytes | None, headers_block: bytes) -> None:
        """A single record, encoded to about so many bytes."""

    def check_batch(self, header: BatchHeader, batch: Buffer) -> None:
        """A whole batch; repeats of an idempotent producer are not shown."""


class Partition(MaintainedPartition):
    """Made by the topic catalog; doors stage, read and listen. Belongs to the broker's thread.

    Attributes:
      gates: asked before anything is staged; cost nothing while there are none.
    """

    __slots__ = (
        "_builder",
        "_held_back",
        "_is_full",
        "_is_staged",
        "_limit_bytes",
        "_needs_keys",
        "_now_ms",
        "_producers",
        "_rounds",
        "_saver",
        "_spawn",
        "_staged",
        "_uncommitted",
        "_unflushed_bytes",
        "_waiters",
        "gates",
        "is_blocking",
        "isr",
        "leader_epoch",
        "log_end_offset",
        "next_offset",
        "replicas",
    )

    def __init__(
        self,
        topic: Topic,
        index: int,
        log: Log,
        *,
        is_blocking: bool,
        rounds: Rounds,
        now_ms: Callable[[], int],
        spawn: Callable[..., None],
        leader_epoch: int = 0,
        replicas: tuple[int, ...] = (0,),
    ) -> None:
        super().__init__(topic, index, log)
        self._rounds = rounds
        self.is_blocking = is_blocking
        self.leader_epoch = leader_epoch
        self.replicas = replicas
        self.isr = replicas
        self.next_offset = self.log_end_offset = log.end_offset
        self._now_ms = now_ms
        self._spawn = spawn
        self.gates: list[StagingGate] = []
        self._producers = ProducerTable()
        self._builder: BatchBuilder | None = None
        self._waiters: list[tuple[AppendReceiver | None, object]] = []  # of the records in the builder
        self._staged: list[Pending] = []
        self._uncommitted: deque[Pending] = deque()
        self._needs_keys = False
        self._limit_bytes = 0  # of a batch, as of when the builder was opened; -1: each record has a gate to pass
        self._is_staged = False
        self._is_full = False
        self._unflushed_bytes = 0  # with durability=os
        self._held_back: HeldBack | None = None
        self._saver = StateSaver(log, self._encode_state, spawn, self._wake_waiting)

    # -- opening -----------------------------------------------------------------------------------

    def recover_producers(self) -> None:
        """Rebuild the state of producers and transactions: the saved one, then the batches after it.

        Blocking; call it in a worker.
        """
        saved = self.log.load_state()
        offset = self.log.start_offset
        if saved is not None and saved.offset >= offset:
            self.cleaned_offset, self._producers, self.transactions = decode_state(saved.state)
            offset = saved.offset
        while offset < self.log.end_offset:
            batches = self.log.read(offset, _RECOVERY_READ_BYTES, self.log.end_offset)
            if not batches:
                break  # what follows was compacted away, and the log was truncated behind it
            for position, header in iter_headers(batches):
                if header.base_offset >= offset:
                    self._replay(header, batches[position : position + header.size_bytes])
                next_offset = header.next_offset
            offset = next_offset
        if self.transactions is not None:
            self.transactions.forget_aborted_below(self.log.start_offset)
            self.transactions.acknowledged(self.acknowledged_offset)
            self.high_watermark = self.last_stable_offset

    def _replay(self, header: BatchHeader, batch: bytes) -> None:
        if header.is_control:
            self._producers.note_marker(header)
        else:
            self._producers.update(header, header.base_offset)
        if header.is_transactional:
            self._log_transactions().replay(header, batch)

    def _log_transactions(self) -> LogTransactions:
        """What is known of this partition's transactions, from now on something."""
        if self.transactions is None:
            self.transactions = LogTransactions()
        return self.transactions

    # -- staging -----------------------------------------------------------------------------------

    def stage_record(
        self,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers_block: bytes = EMPTY_HEADERS,
        receiver: AppendReceiver | None = None,
        token: object = None,
    ) -> None:
        """Put one record into this round's batch.

        Args:
          timestamp: milliseconds since the epoch; ignored where the topic stamps on append.
          headers_block: from :func:`trunkline.records.encode_headers`.
          receiver: told with ``token`` once it is committed or has failed; None: nobody asks.

        Raises:
          RecordTooLarge, InvalidBatch (no key in a compacted topic), QueueFull, LogStopped, BrokerClosing: nothing was
            staged.
        """
        builder = self._builder
        if builder is None:
            builder = self._open_builder()
        if key is None and self._needs_keys:
            check_key(self.name, key, self.topic.settings)
        size = len(headers_block) + _RECORD_OVERHEAD
        if value is not None:
            size += len(value)
        if key is not None:
            size += len(key)
        if builder.size_bytes + size > self._limit_bytes:
            if self.gates:
                for gate in self.gates:
                    gate.check_record(size, key, headers_block)
            if builder.size_bytes + size > self.topic.settings.max_message_bytes:
                builder = self._next_builder(size)
        builder.append(timestamp, key, value, headers_block)
        self._waiters.append((receiver, token))

    def _open_builder(self) -> BatchBuilder:
        if self._refusal is not None:
            raise self._refusal
        self._touch()
        self._limit_bytes = -1 if self.gates else self.topic.settings.max_message_bytes
        self._needs_keys = self.topic.settings.is_compacted
        self._builder = builder = BatchBuilder()
        return builder

    def _next_builder(self, record_bytes: int) -> BatchBuilder:
        check_size(self.name, record_bytes, self.topic.settings)
        self._close_builder()
        return self._open_builder()

    def _close_builder(self) -> None:
        builder = self._builder
        if builder is None:
            return
        self._builder = None
        if not builder.count:
            return
        base_offset = self.next_offset
        append_time = self._now_ms() if self.topic.settings.message_timestamp_type == "LogAppendTime" else None
        batch = builder.build(base_offset=base_offset, leader_epoch=self.leader_epoch, append_time=append_time)
        waiters, self._waiters = self._waiters, []
        self._stage(batch, base_offset, base_offset + builder.count, waiters, is_shared=False)

    def stage_batch(
        self,
        batch: Buffer,
        receiver: AppendReceiver | None = None,
        token: object = None,
        *,
        in_transaction: bool = False,
    ) -> None:
        """Put a whole batch, as a client encoded it, into this round. It is checked, and copied once.

        The records stay opaque. A repeat of one of the last five batches of an idempotent producer is
        not written again: ``receiver`` gets the original offset, once that is committed.

        Args:
          in_transaction: the batch is transactional, and belongs to an open transaction that knows of this partition
            (:meth:`trunkline.transactions.coordinator.TransactionCoordinator.check_append`).

        Raises:
          InvalidTransactionState: its producer has a transaction open here, and the batch is not part of one.
          CorruptBatch, InvalidBatch, RecordTooLarge: the batch is at fault; nothing was staged.
          OutOfOrderSequence, ProducerFenced: the producer is; nothing was staged.
          QueueFull: a queue has no room for it; nothing was staged.
          LogStopped, BrokerClosing: the partition takes nothing.
        """
        if self._refusal is not None:
            raise self._refusal
        settings = self.topic.settings
        header = check_new_batch(self.name, batch, settings, in_transaction=in_transaction)
        if header.producer_id >= 0:
            if self.transactions is not None and not in_transaction:
                self._refuse_in_transaction(self.transactions, header.producer_id)
            original = self._producers.check(header)
            if original is not None:
                self._acknowledge_repeat(original, receiver, token)
                return
        for gate in self.gates:
            gate.check_batch(header, batch)
        self._close_builder()  # what was staged before keeps its place before
        base_offset = self.next_offset
        append_time = self._now_ms() if settings.message_timestamp_type == "LogAppendTime" else None
        assigned = assign(batch, base_offset, self.leader_epoch, append_time)
        self._producers.update(header, base_offset)
        if in_transaction:
            self._log_transactions().wrote(header.producer_id, base_offset)
        self._touch()
        self._stage(assigned, base_offset, base_offset + header.record_count, [(receiver, token)], is_shared=True)

    def _refuse_in_transaction(self, transactions: LogTransactions, producer_id: int) -> None:
        if transactions.is_open(producer_id):
            raise InvalidTransactionState(
                f"{self.name}: producer {producer_id} has a transaction open here; end it before writing outside of it"
            )

    def stage_marker(
        self,
        producer_id: int,
        producer_epoch: int,
        *,
        is_commit: bool,
        receiver: AppendReceiver | None = None,
        token: object = None,
    ) -> None:
        """End the transaction that this producer has open here; for the transaction coordinator.

        Raises LogStopped, BrokerClosing: nothing was staged.
        """
        if self._refusal is not None:
            raise self._refusal
        self._close_builder()
        offset = self.next_offset
        marker = encode_marker(
            producer_id,
            producer_epoch,
            is_commit=is_commit,
            timestamp=self._now_ms(),
            base_offset=offset,
            leader_epoch=self.leader_epoch,
        )
        self._producers.note_marker(read_header(marker))
        self._log_transactions().ended(producer_id, offset, is_commit=is_commit)
        self._touch()
        self._stage(marker, offset, offset + 1, [(receiver, token)], is_shared=True)

    def _acknowledge_repeat(self, offset: int, receiver: AppendReceiver | None, token: object) -> None:
        if receiver is None:
            return
        if offset < self.acknowledged_offset:
            self._rounds.call_soon(lambda: receiver.append_done(token, offset))
            return
        for pending in (*self._uncommitted, *self._staged):
            if pending.base_offset == offset:
                pending.waiters.append((receiver, token))

    def _stage(
        self,
        batch: bytes,
        base_offset: int,
        next_offset: int,
        waiters: list[tuple[AppendReceiver | None, object]],
        *,
        is_shared: bool,
    ) -> None:
        self._staged.append(Pending(batch, base_offset, next_offset, waiters, is_shared))
        self.next_offset = next_offset
        self._rounds.unacknowledged_bytes += len(batch)

    def _touch(self) -> None:
        if not self._is_staged:
            self._is_staged = True
            self._rounds.stage(self)

    def write_soon(self) -> None:
        """Have what is staged written in the next round."""
        if self._staged:
            self._touch()

    # -- writing and committing --------------------------------------------------------------------

    def write(self) -> None:
        """Give the round's batches to the log; called by the round, once."""
        self._is_staged = False
        self._close_builder()
        if not self._staged or self._is_writing or self._is_held:
            return  # whoever has the log sees to what is staged when it is back
        if self.is_blocking:
            self._is_writing = True
            self._spawn(self._write_waiting)
            return
        batches = self._take_staged()
        try:
            self.log.append(batches)
        except StoreFull as error:
            self._reject(error)
            return
        except Exception as error:  # whatever else a store raises, what it wrote is unknown
            self.stop(error)
            return
        self._written(self.next_offset)
        if self.topic.settings.durability == "os":
            self._flush_now_and_then()
            self.committed(self.log_end_offset)
        else:
            self._rounds.committer.add(self)

    def _flush_now_and_then(self) -> None:
        """Nobody waits for it, but a store that is never flushed has ever more to recover."""
        self._unflushed_bytes += sum(len(pending.batch) for pending in self._uncommitted)
        if self._unflushed_bytes >= FLUSH_INTERVAL_BYTES:
            self._unflushed_bytes = 0
            self._rounds.committer.add(self)

    def _take_staged(self) -> list[bytes]:
        staged, self._staged = self._staged, []
        self._uncommitted.extend(staged)
        return [pending.batch for pending in staged]

    async def _write_waiting(self) -> None:
        """Write to a store that may wait, one group of batches at a time, while the next one grows."""
        try:
            while self._staged and not self._is_held and not isinstance(self._refusal, LogStopped):
                batches = self._take_staged()
                end_offset = self._uncommitted[-1].next_offset
                await trio.to_thread.run_sync(self._append_and_flush, batches)
                self._written(end_offset)
                self._rounds.call_soon(lambda offset=end_offset: self.committed(offset))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        except StoreFull as error:
            self._reject(error)
        except Exception as error:
            stopped = error
            self._rounds.call_soon(lambda: self.stop(stopped))
        finally:
            self._is_writing = False

    def _written(self, end_offset: int) -> None:
        self.log_end_offset = end_offset
        if self._is_full:
            self._is_full = False
            logger.warning("%s: there is room again; records are taken from offset %d on", self.name, end_offset)

    def _reject(self, error: StoreFull) -> None:
        """Nothing of what was staged could be written: take it back, as if it had never come."""
        if not self._is_full:
            self._is_full = True
            logger.error("%s: records are refused until there is room: %s", self.name, error)
        self._close_builder()  # its records have offsets that follow what was rejected
        rejected: list[Pending] = []
        while self._uncommitted and self._uncommitted[-1].base_offset >= self.log_end_offset:
            rejected.append(self._uncommitted.pop())
        rejected.reverse()
        rejected += self._staged
        self._staged.clear()
        self.next_offset = self.log_end_offset
        self._producers.forget_from(self.log_end_offset)
        if self.transactions is not None:
            self.transactions.forget_from(self.log_end_offset)
        self._saver.forget()
        self._rounds.unacknowledged_bytes -= sum(len(pending.batch) for pending in rejected)
        for pending in rejected:
            pending.fail(error)
        self._wake_waiting()

    def _append_and_flush(self, batches: list[bytes]) -> None:
        self.log.append(batches)
        if self.topic.settings.durability == "fsync":
            self.log.flush()

    def committed(self, offset: int) -> None:
        """Everything below ``offset`` is as durable as the topic demands; called by the round."""
        uncommitted = self._uncommitted
        done: list[Pending] = []
        freed = 0
        while uncommitted and uncommitted[0].next_offset <= offset:
            pending = uncommitted.popleft()
            done.append(pending)
            freed += len(pending.batch)
        if not done:
            self._wake_waiting()  # for whoever waits until no flush is under way
            return
        base_offset = self.acknowledged_offset
        assert done[0].base_offset == base_offset, "batches commit in order and without gaps"
        self.acknowledged_offset = end_offset = done[-1].next_offset
        is_shown = self.transactions is None or self._is_decided(self.transactions, base_offset)
        if is_shown:
            self.high_watermark = end_offset
        self._rounds.unacknowledged_bytes -= freed
        for pending in done:
            pending.acknowledge()
        self._wake_waiting()
        if self._early_listeners:
            self._tell(self._early_listeners, base_offset, end_offset, [pending.batch for pending in done])
        if not is_shown:
            self._show_held_back()
        elif self._listeners:
            batches = [pending.batch for pending in done]
            if self.transactions is not None:
                batches = [hide_aborted(batch, self.transactions.aborted) for batch in batches]
            self._tell(self._listeners, base_offset, end_offset, batches)
        self._saver.committed(freed, end_offset, self.next_offset)

    def _is_decided(self, transactions: LogTransactions, base_offset: int) -> bool:
        """Whether all from ``base_offset`` to what is acknowledged now is, and all before it was shown."""
        transactions.acknowledged(self.acknowledged_offset)
        return self.high_watermark == base_offset and self.last_stable_offset == self.acknowledged_offset

    def _show_held_back(self) -> None:
        if self._held_back is None:
            self._held_back = HeldBack(self, self._rounds, self._spawn)
        self._held_back.show()

    def _encode_state(self) -> bytes:
        return encode_state(PartitionState(self.cleaned_offset, self._producers, self.transactions))

    def stop(self, reason: Exception) -> None:
        """The log failed: take no more writes until it is opened again; fail everything unacknowledged."""
        if isinstance(self._refusal, LogStopped):
            self._wake_waiting()
            return
        error = LogStopped(
            f"{self.name}: the log is stopped after a storage error ({reason}); "
            "see to the disk, then restart the broker",
            topic=self.topic.name,
            partition=self.index,
        )
        logger.error("%s", error, exc_info=reason)
        self.refuse(error)
        self._rounds.committer.discard(self)
        failed = [*self._uncommitted, *self._staged]
        self._uncommitted.clear()
        self._staged.clear()
        self._rounds.unacknowledged_bytes -= sum(len(pending.batch) for pending in failed)
        for pending in failed:
            pending.fail(error)
        self.close_listeners(error)

    def refuse(self, error: TrunklineError) -> None:
        """Raise ``error`` from now on when something is staged; what is staged already goes on."""
        self._close_builder()
        if self._stop_beside is not None:
            self._stop_beside.set()
        if not isinstance(self._refusal, LogStopped):  # a log that failed stays failed: it must not be flushed again
            self._refusal = error

    def last_batches(self) -> dict[int, int]:
        """The base offset of the last batch of each producer that is remembered; compaction keeps them."""
        return self._producers.last_batches(self.acknowledged_offset)

    def producer_epoch(self, producer_id: int) -> int:
        """The newest epoch of a producer that has written here; -1 if it is not known."""
        return self._producers.epoch(producer_id)

    def producers(self) -> list[ProducerStatus]:
        """Everybody who is known to idempotence."""
        return self._producers.list()

    def note_cleaned(self, offset: int) -> None:
        """The log was compacted up to ``offset``; it is saved with the next state."""
        self.cleaned_offset = offset
        if self.transactions is not None:
            self.transactions.forget_aborted_below(offset)  # nothing is left of them but their markers
        self._saver.save_soon()

    async def wait_idle(self) -> None:
        """Wait until nothing staged is unanswered; call it after ``refuse``."""
        while not self.is_idle:
            await self._changed.wait()

    async def close_log(self, *, keep: bool = True) -> None:
        """Close the log, after ``refuse``; reads raise from now on.

        What a log holds that has stopped, or does not answer, is left to recovery.

        Args:
          keep: save the producers' state too; not worth a write if the log is to be deleted.

        Raises OSError. Cancellation: waits for the store first.
        """
        assert self._refusal is not None
        self._is_closed = True
        if not self.is_idle:
            logger.error("%s: the store has not answered yet; the log is left to recovery", self.name)
            return
        await trio.to_thread.run_sync(self._close_log, keep and not isinstance(self._refusal, LogStopped))

    def _close_log(self, keep: bool) -> None:
        try:
            if keep:
                if self.topic.settings.durability == "os":
                    self.log.flush()  # a state must not speak of what a power failure could still take away
                self.log.save_state(SavedState(self.acknowledged_offset, self._encode_state()))
        finally:
            self.log.close()

    # -- state -------------------------------------------------------------------------------------

    @property
    def is_flushing(self) -> bool:
        """Something was written and is not committed yet, or a flush is under way."""
        return bool(self._uncommitted) or self._rounds.committer.has(self)

    @property
    def staged_end_offset(self) -> int:
        """The offset that the next record to be staged will get."""
        return self.next_offset + (self._builder.count if self._builder is not None else 0)

    @property
    def is_staged(self) -> bool:
        """Something was staged in this round."""
        return self._is_staged

    @property
    def is_idle(self) -> bool:
        """Nothing is staged or on its way to the disk."""
        is_staged = self._builder is not None or self._staged
        is_busy = self._is_writing or self._saver.is_saving or self._stop_beside is not None
        return not (is_staged or self.is_flushing or is_busy)

    def statistics(self) -> PartitionStatistics:
        return PartitionStatistics(
            log_start_offset=self.log.start_offset,
            log_end_offset=self.log_end_offset,
            high_watermark=self.high_watermark,
            acknowledged_offset=self.acknowledged_offset,
            leader_epoch=self.leader_epoch,
            size_bytes=self.log.size_bytes(),
            staged_records=len(self._waiters) + sum(len(pending.waiters) for pending in self._staged),
            uncommitted_bytes=sum(len(pending.batch) for pending in self._uncommitted),
            producers=len(self._producers),
            open_transactions=0 if self.transactions is None else len(self.transactions.open),
            aborted_transactions=0 if self.transactions is None else len(self.transactions.aborted),
            listeners=len(self._listeners) + len(self._early_listeners),
        )
