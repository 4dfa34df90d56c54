"""Any mix of transactions, plain records, flushes and restarts, compared with a list."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.core.test_transactions_in_log import Producer, Tail, readable

from trunkline.errors import BrokerClosing, StoreFull
from trunkline.testing.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench

PRODUCERS = st.integers(1, 3)


class Transactions(RuleBasedStateMachine):
    """The model is a list of what was written, each with the number of its transaction, and how those ended."""

    make_bench: Callable[[ScriptedStore], PartitionBench]

    @initialize(reads_wait=st.booleans())
    def begin(self, reads_wait: bool) -> None:
        self.store = ScriptedStore(reads_wait=reads_wait)
        self.bench = type(self).make_bench(self.store)
        self.written: list[tuple[bytes | None, int | None]] = []  # by offset: value (None: a marker), transaction
        self.staged: list[tuple[bytes | None, int | None]] = []
        self.ended: dict[int, tuple[bool, int]] = {}  # transaction -> is committed, offset of its marker
        self.open: dict[int, int] = {}  # producer -> transaction
        self.count = 0
        self.tail = Tail(self.bench.partition)
        self.tail_start = 0
        self._new_producers()

    def _new_producers(self) -> None:
        self.epoch = getattr(self, "epoch", -1) + 1
        self.producers = {number: Producer(self.bench, number, self.epoch) for number in (1, 2, 3)}

    def _value(self) -> bytes:
        self.count += 1
        return b"%d" % self.count

    @property
    def _next(self) -> int:
        return len(self.written) + len(self.staged)

    @rule()
    def publish(self) -> None:
        value = self._value()
        self.bench.stage(value)
        self.staged.append((value, None))

    @rule(producer=PRODUCERS, records=st.integers(1, 3))
    def write(self, producer: int, records: int) -> None:
        values = [self._value() for _ in range(records)]
        self.producers[producer].write(*values)
        transaction = self.open.setdefault(producer, self._next)
        self.staged += [(value, transaction) for value in values]

    @rule(producer=PRODUCERS, is_commit=st.booleans())
    def end(self, producer: int, is_commit: bool) -> None:
        self.producers[producer].end(is_commit=is_commit)
        transaction = self.open.pop(producer, None)
        if transaction is not None:
            self.ended[transaction] = (is_commit, self._next)
        self.staged.append((None, transaction))

    @rule()
    def commit(self) -> None:
        self.bench.commit()
        self._settle()
        self.written += self.staged
        self.staged.clear()

    @precondition(lambda self: self.staged)
    @rule()
    def fill_up(self) -> None:
        self.store.fail_next("append", StoreFull("full"))
        self.bench.commit()
        end = len(self.written)
        for transaction, (_, marker) in list(self.ended.items()):
            if marker >= end:
                del self.ended[transaction]
        self.staged.clear()
        # what a producer is told of a refusal makes it begin anew, in another epoch
        self.open.clear()
        self._end_what_is_open()

    def _end_what_is_open(self) -> None:
        """Abort as a coordinator does for producers that came back, in a new epoch."""
        self._new_producers()
        transactions = self.bench.partition.transactions
        for producer, first in ({} if transactions is None else transactions.open).items():
            self.producers[producer].abort()
            self.ended[first] = (False, self._next)
            self.staged.append((None, first))
        self.commit()

    @rule(is_saved=st.booleans())
    def restart(self, is_saved: bool) -> None:
        self.commit()
        self.bench.partition.refuse(BrokerClosing("closed"))

        async def close() -> None:
            await self.bench.partition.close_log(keep=is_saved)

        trio.run(close)
        self.bench = type(self).make_bench(self.store)
        self.tail = Tail(self.bench.partition)
        self.tail_start = self.tail.next_offset
        self.open.clear()
        self._end_what_is_open()

    def _settle(self) -> None:
        for _ in range(1000):
            if not self.bench.spawned and not self.bench.rounds._soon:
                return
            trio.run(self.bench.run_spawned)
            self.bench.round()
        raise AssertionError("it never comes to rest")

    @invariant()
    def what_is_seen_is_what_was_decided(self) -> None:
        if not hasattr(self, "bench"):
            return
        written = self.written
        undecided = [
            offset
            for offset, (_, transaction) in enumerate(written)
            if transaction is not None and (transaction not in self.ended or self.ended[transaction][1] >= len(written))
        ]
        stable = min(undecided, default=len(written))
        partition = self.bench.partition
        assert partition.acknowledged_offset == len(written)
        assert partition.last_stable_offset == partition.high_watermark == stable
        visible = [
            (offset, value)
            for offset, (value, transaction) in enumerate(written[:stable])
            if value is not None and (transaction is None or self.ended[transaction][0])
        ]
        if partition.log_start_offset < stable and not self.store.reads_wait:
            assert readable(partition) == [value for _, value in visible]
        assert self.tail.next_offset == stable
        assert self.tail.values == [value for offset, value in visible if offset >= self.tail_start]
        assert self.store.violations == []


def test_any_mix_of_transactions(make_bench_on: Callable[[ScriptedStore], PartitionBench]) -> None:
    class Machine(Transactions):
        make_bench = staticmethod(make_bench_on)

    examples = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "100"))
    run_state_machine_as_test(Machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))
