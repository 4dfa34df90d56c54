"""The staging side of a partition: records and batches get their offsets here, and join the round's batches.

It is the hot path of every door that brings single records, so the checks there are few: a refusal (stopped, closing)
empties the builder slot, and the slot is looked at anyway. Idempotence and transactions are decided here too, since
both are about what is next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from trunkline.errors import InvalidTransactionState
from trunkline.log import Log
from trunkline.maintained import MaintainedPartition
from trunkline.pending import AppendReceiver, Pending
from trunkline.producers import ProducerStatus, ProducerTable
from trunkline.records import (
    EMPTY_HEADERS,
    BatchBuilder,
    BatchHeader,
    assign,
    assign_in_place,
    iter_headers,
    read_header,
)
from trunkline.records.markers import encode_marker
from trunkline.saved_state import decode_state
from trunkline.transactions.in_log import LogTransactions
from trunkline.validation import check_key, check_new_batch, check_size

if TYPE_CHECKING:
    from trunkline.rounds import Rounds
    from trunkline.topic import Topic

__all__ = ["StagedPartition", "StagingGate"]

Buffer = bytes | bytearray | memoryview

_RECORD_OVERHEAD = 40  # varints, attributes and count around one record: at most this many bytes
_NOBODY = (None, None)
_RECOVERY_READ_BYTES = 1024 * 1024

MERGED_BYTES: Final = 1024 * 1024
"""Records are put together into batches of up to this size, whatever larger ones the topic takes: a batch is read and
decoded as a whole. A record that is larger by itself has one of its own."""


class StagingGate(Protocol):
    """Who may refuse what is about to be staged (a queue that is full). Raises what the publisher is to get."""

    def check_record(self, size_bytes: int, key: bytes | None, headers_block: bytes) -> None:
        """A single record, encoded to about so many bytes."""

    def check_batch(self, header: BatchHeader, batch: Buffer) -> None:
        """A whole batch; repeats of an idempotent producer are not shown."""


class StagedPartition(MaintainedPartition):
    """What :class:`trunkline.partition.Partition` is to those who publish. Belongs to the broker's thread.

    Attributes:
      gates: asked before anything is staged; cost nothing while there are none.
      next_offset: that of the next batch.
    """

    __slots__ = (
        "_builder",
        "_limit_bytes",
        "_needs_keys",
        "_now_ms",
        "_producers",
        "_rounds",
        "_staged",
        "_uncommitted",
        "_waiters",
        "gates",
        "leader_epoch",
        "next_offset",
    )

    def __init__(
        self, topic: Topic, index: int, log: Log, *, rounds: Rounds, now_ms: Callable[[], int], leader_epoch: int
    ) -> None:
        super().__init__(topic, index, log)
        self._rounds = rounds
        self._now_ms = now_ms
        self.leader_epoch = leader_epoch
        self.next_offset = log.end_offset
        self.gates: list[StagingGate] = []
        self._producers = ProducerTable()
        self._builder: BatchBuilder | None = None
        self._waiters: list[tuple[AppendReceiver | None, object]] = []  # of the records in the builder
        self._staged: list[Pending] = []
        self._uncommitted: deque[Pending] = deque()
        self._needs_keys = False
        self._limit_bytes = 0  # of a batch, as of when the builder was opened

    @abstractmethod
    def _touch(self) -> None:
        """Have the round write what is staged."""

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
        if self.gates:
            for gate in self.gates:
                gate.check_record(_record_bytes(key, value, headers_block), key, headers_block)
        if not builder.append(timestamp, key, value, headers_block, self._limit_bytes):
            builder = self._next_builder(_record_bytes(key, value, headers_block))
            builder.append(timestamp, key, value, headers_block)
        self._waiters.append((receiver, token))

    def stage_run(self, timestamp: int, keys: Sequence[bytes], values: Sequence[bytes], headers_block: bytes) -> bool:
        """Put records that differ in keys and values only into this round's batch; nobody asks what became of them.

        Returns False if they do not fit, or somebody has to look at each: nothing was staged, stage them one by one.

        Raises LogStopped, BrokerClosing: nothing was staged.
        """
        builder = self._builder
        if builder is None:
            builder = self._open_builder()
        count = len(values)
        size = sum(map(len, values)) + sum(map(len, keys)) + count * (len(headers_block) + _RECORD_OVERHEAD)
        if self.gates or builder.size_bytes + size > self._limit_bytes:
            return False
        builder.append_run(timestamp, keys, values, headers_block)
        self._waiters += [_NOBODY] * count
        return True

    def _open_builder(self) -> BatchBuilder:
        if self._refusal is not None:
            raise self._refusal
        self._touch()
        self._limit_bytes = min(self.topic.settings.max_message_bytes, MERGED_BYTES)
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
        in_place: bool = False,
    ) -> None:
        """Put a whole batch, as a client encoded it, into this round. It is checked, and copied once.

        The records stay opaque. A repeat of one of the last five batches of an idempotent producer is
        not written again: ``receiver`` gets the original offset, once that is committed.

        Args:
          in_transaction: the batch is transactional, and belongs to an open transaction that knows of this partition
            (:meth:`trunkline.transactions.coordinator.TransactionCoordinator.check_append`).
          in_place: the batch is a view of memory that nobody else writes to or needs as it is, so no copy is made. It
            is held as a whole until the batch is committed.

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
        assigned: Buffer
        if in_place and append_time is None:
            assert type(batch) is memoryview
            assigned = assign_in_place(batch, base_offset, self.leader_epoch)
        else:
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
        batch: Buffer,
        base_offset: int,
        next_offset: int,
        waiters: list[tuple[AppendReceiver | None, object]],
        *,
        is_shared: bool,
    ) -> None:
        self._staged.append(Pending(batch, base_offset, next_offset, waiters, is_shared))
        self.next_offset = next_offset
        self._rounds.unacknowledged_bytes += len(batch)

    @property
    def staged_end_offset(self) -> int:
        """The offset that the next record to be staged will get."""
        return self.next_offset + (self._builder.count if self._builder is not None else 0)

    def last_batches(self) -> dict[int, int]:
        """The base offset of the last batch of each producer that is remembered; compaction keeps them."""
        return self._producers.last_batches(self.acknowledged_offset)

    def producer_epoch(self, producer_id: int) -> int:
        """The newest epoch of a producer that has written here; -1 if it is not known."""
        return self._producers.epoch(producer_id)

    def producers(self) -> list[ProducerStatus]:
        """Everybody who is known to idempotence."""
        return self._producers.list()


def _record_bytes(key: bytes | None, value: bytes | None, headers_block: bytes) -> int:
    """At most so many, encoded."""
    return (len(key) if key else 0) + (len(value) if value else 0) + len(headers_block) + _RECORD_OVERHEAD
