"""One partition on the broker that leads it: writes and commits what is staged (:mod:`trunkline.staging`).

A record's way: ``stage_*`` gives it its offset and puts it into this round's batch; ``write`` appends
the round's batches to the log in one call; the commit thread flushes; ``committed`` moves the high
watermark and then, in this order, acknowledges and tells the listeners. With ``durability=os`` the
high watermark moves in ``write``.

Offsets, in the order ``log_start <= high_watermark <= acknowledged <= log_end <= next``: *next* counts what is staged,
*log end* what the store has been given, *acknowledged* what is committed. Readers stay below the *high watermark*,
which is the same unless a transaction is open (:mod:`trunkline.readable`); in a partition that never saw one, all that
transactions cost is a comparison with None.
The replica set is one broker here; the model has leader epoch, replicas and ISR from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from trunkline.errors import LogStopped, StoreFull, TrunklineError
from trunkline.log import Log, SavedState
from trunkline.pending import AppendReceiver, Pending
from trunkline.readable import TailListener
from trunkline.records import Buffer
from trunkline.saved_state import PartitionState, StateSaver, encode_state
from trunkline.staging import StagedPartition, StagingGate
from trunkline.transactions.aborted import hide_aborted
from trunkline.transactions.held_back import HeldBack
from trunkline.transactions.in_log import LogTransactions

if TYPE_CHECKING:
    from trunkline.rounds import Rounds
    from trunkline.topic import Topic

__all__ = ["AppendReceiver", "Partition", "PartitionStatistics", "StagingGate", "TailListener"]

logger = logging.getLogger("trunkline.partition")

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


class Partition(StagedPartition):
    """Made by the topic catalog; doors stage, read and listen. Belongs to the broker's thread."""

    __slots__ = (
        "_held_back",
        "_is_full",
        "_is_staged",
        "_saver",
        "_spawn",
        "_unflushed_bytes",
        "is_blocking",
        "isr",
        "log_end_offset",
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
        super().__init__(topic, index, log, rounds=rounds, now_ms=now_ms, leader_epoch=leader_epoch)
        self.is_blocking = is_blocking
        self.replicas = replicas
        self.isr = replicas
        self.log_end_offset = log.end_offset
        self._spawn = spawn
        self._is_staged = False
        self._is_full = False
        self._unflushed_bytes = 0  # with durability=os
        self._held_back: HeldBack | None = None
        self._saver = StateSaver(log, self._encode_state, spawn, self._changed.tell)

    # -- writing and committing --------------------------------------------------------------------

    def _touch(self) -> None:
        if not self._is_staged:
            self._is_staged = True
            self._rounds.stage(self)

    def write_soon(self) -> None:
        """Have what is staged written in the next round."""
        if self._staged:
            self._touch()

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
            self.log.append_buffers(batches)
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

    def _take_staged(self) -> list[Buffer]:
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
        self._changed.tell()
        if self._early_listeners:  # nothing more was acknowledged, and what they may wait for never will be
            self._tell(self._early_listeners, self.acknowledged_offset, self.acknowledged_offset, [])

    def _append_and_flush(self, batches: list[Buffer]) -> None:
        self.log.append_buffers(batches)
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
            self._changed.tell()  # for whoever waits until no flush is under way
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
        self._changed.tell()
        if self._early_listeners:
            self._tell(self._early_listeners, base_offset, end_offset, [bytes(pending.batch) for pending in done])
        if not is_shown:
            self._show_held_back()
        elif self._listeners:
            batches = [bytes(pending.batch) for pending in done]  # no copy of what is bytes
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
            self._changed.tell()
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
