"""One transactional id: the state of its present transaction, and how each request changes it. No I/O, no clock.

A :class:`Transaction` is a value. Each function takes the present one and gives the next, which is to be durable
before anybody is answered; or the same one, if there is nothing to change; or raises, and nothing changes. Who drives
them handles one request of a transactional id after another.

::

    EMPTY ---------- add ----------> ONGOING -- end(commit) --> PREPARE_COMMIT -- complete --> COMPLETE_COMMIT
    COMPLETE_* ----- add ----------> ONGOING -- end(abort) ---> PREPARE_ABORT --- complete --> COMPLETE_ABORT
    EMPTY, COMPLETE_* -- end(abort, bumps): a new epoch ------> PREPARE_ABORT
    ONGOING -- fence: a new epoch -> PREPARE_ABORT
    EMPTY, COMPLETE_* -- initialise: a new epoch --> EMPTY

From PREPARE_* on the outcome is decided: markers may be on their way, and after any crash they are written again.
Nobody can do anything else until that is complete (ConcurrentTransactions).

Epochs fence: whoever initialises a transactional id gets the next epoch of its producer id, and requests with an
older one are refused. So do transactions that were aborted for their time. A producer that says which epoch it has
(KIP-360) gets the next one only if it has the present one, or has asked before and lost the answer. When the
epochs of a producer id are used up, it gets another id.

A producer may ask for the next epoch with each end (the second transaction protocol, KIP-890): then whatever of an
earlier transaction is still on its way is fenced too. Its markers are written in the new epoch, so that each
partition knows of it. An end that lost its answer may be said again under the old epoch. As such a producer does not
say where it will write before it does, it may also abort when nothing is ongoing: what is on its way could begin it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from trunkline.errors import (
    ConcurrentTransactions,
    InvalidTransactionState,
    ProducerFenced,
    UnknownTransactionalId,
)
from trunkline.log import TopicPartition

__all__ = [
    "MAX_EPOCH",
    "ProducerIdentity",
    "Transaction",
    "TransactionState",
    "add",
    "check_can_be_initialised",
    "check_ongoing",
    "complete",
    "end",
    "fence",
    "initialise",
    "needs_new_producer_id",
    "successor",
]

MAX_EPOCH: Final = (1 << 15) - 2
"""The last epoch that a producer is given; one more can still abort for it."""


class TransactionState(IntEnum):
    """See the module's text. The numbers are stored."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5

    @property
    def is_prepared(self) -> bool:
        """The outcome is decided, and not everywhere known."""
        return self in (TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)


class ProducerIdentity(NamedTuple):
    """What a producer says who it is, in each request."""

    producer_id: int
    epoch: int


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    """The present transaction of a transactional id, or its last one.

    Attributes:
      transactional_id: chosen by the client.
      producer_id, epoch: the producer that may speak for it now.
      last: who might speak for it before, if that one itself asked for the change; its repeated question gets the
        same answer.
      timeout_ms: it is aborted when it is ongoing for so long.
      partitions, groups: where it may have written.
      started_ms: since the epoch; 0 unless it is ongoing or prepared.
      updated_ms: when this was last changed.
      next_producer_id: who it will be, from epoch 0 on, once what is prepared is complete, since the epochs of
        ``producer_id`` are used up; else -1.
    """

    transactional_id: str
    producer_id: int
    epoch: int
    timeout_ms: int
    state: TransactionState = TransactionState.EMPTY
    partitions: frozenset[TopicPartition] = frozenset()
    groups: frozenset[str] = frozenset()
    started_ms: int = 0
    updated_ms: int = 0
    last: ProducerIdentity | None = None
    next_producer_id: int = -1

    @property
    def producer(self) -> ProducerIdentity:
        return ProducerIdentity(self.producer_id, self.epoch)


def _changed(present: Transaction, now_ms: int, **changes: object) -> Transaction:
    return msgspec.structs.replace(present, updated_ms=max(now_ms, present.updated_ms), **changes)


# -- who may speak ---------------------------------------------------------------------------------


def _check_producer(present: Transaction, producer: ProducerIdentity) -> None:
    name = present.transactional_id
    if producer.producer_id != present.producer_id:
        raise UnknownTransactionalId(
            f"transactional id {name!r} does not belong to producer {producer.producer_id}; initialise again",
            transactional_id=name,
        )
    if producer.epoch != present.epoch or producer.epoch > MAX_EPOCH:  # nobody was given that one: it has no next
        raise _fenced(present, producer)


def _fenced(present: Transaction, producer: ProducerIdentity) -> ProducerFenced:
    return ProducerFenced(
        f"transactional id {present.transactional_id!r}: epoch {producer.epoch} of producer {producer.producer_id} is "
        f"fenced by epoch {present.epoch} of producer {present.producer_id}; stop this producer",
        producer_id=present.producer_id,
        current_epoch=present.epoch,
    )


def _concurrent(present: Transaction) -> ConcurrentTransactions:
    return ConcurrentTransactions(
        f"the last transaction of {present.transactional_id!r} is still being ended; try again",
        transactional_id=present.transactional_id,
    )


def _invalid(present: Transaction, what: str) -> InvalidTransactionState:
    return InvalidTransactionState(
        f"the transaction of {present.transactional_id!r} is {present.state.name.lower()}, so {what}",
        transactional_id=present.transactional_id,
    )


# -- initialising ----------------------------------------------------------------------------------


def check_can_be_initialised(present: Transaction, expected: ProducerIdentity | None) -> None:
    """Whether who says to be ``expected`` (None: it has no identity yet) may have the next one.

    Of a transactional id that nobody has had yet, anybody may: it may have been forgotten since this one had it.

    Raises ConcurrentTransactions, ProducerFenced.
    """
    if expected is not None and not _is_new(present) and expected not in (present.producer, present.last):
        raise _fenced(present, expected)
    if present.state.is_prepared:
        raise _concurrent(present)


def _is_new(present: Transaction) -> bool:
    return present.epoch < 0


def needs_new_producer_id(present: Transaction) -> bool:
    """Its epochs are used up."""
    return present.epoch >= MAX_EPOCH


def initialise(
    present: Transaction, timeout_ms: int, now_ms: int, *, expected: ProducerIdentity | None, new_producer_id: int = -1
) -> Transaction:
    """Give a producer the next epoch; nothing is ongoing any more (:func:`fence` comes before).

    Args:
      expected: as for :func:`check_can_be_initialised`.
      new_producer_id: where :func:`needs_new_producer_id` says so.
    """
    check_can_be_initialised(present, expected)
    assert present.state is not TransactionState.ONGOING
    if _is_new(present):
        expected = None
    if expected is not None and expected != present.producer:
        return present  # it asked before and did not get the answer
    producer_id, epoch = present.producer_id, present.epoch + 1
    if needs_new_producer_id(present):
        assert new_producer_id >= 0
        producer_id, epoch = new_producer_id, 0
    return _changed(
        present,
        now_ms,
        producer_id=producer_id,
        epoch=epoch,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        partitions=frozenset(),
        groups=frozenset(),
        started_ms=0,
        last=expected,
    )


def fence(present: Transaction, now_ms: int) -> Transaction:
    """Abort what is ongoing in the name of nobody: whoever began it is fenced."""
    assert present.state is TransactionState.ONGOING
    return _changed(present, now_ms, epoch=present.epoch + 1, last=None, state=TransactionState.PREPARE_ABORT)


# -- a transaction ---------------------------------------------------------------------------------


def add(
    present: Transaction,
    producer: ProducerIdentity,
    now_ms: int,
    *,
    partitions: Iterable[TopicPartition] = (),
    groups: Iterable[str] = (),
) -> Transaction:
    """The transaction will write here; begin it if none is ongoing.

    Raises UnknownTransactionalId, ProducerFenced, ConcurrentTransactions.
    """
    _check_producer(present, producer)
    if present.state.is_prepared:
        raise _concurrent(present)
    more_partitions, more_groups = frozenset(partitions), frozenset(groups)
    if present.state is TransactionState.ONGOING:
        if more_partitions <= present.partitions and more_groups <= present.groups:
            return present
        more_partitions |= present.partitions
        more_groups |= present.groups
        return _changed(present, now_ms, partitions=more_partitions, groups=more_groups)
    return _changed(
        present,
        now_ms,
        state=TransactionState.ONGOING,
        partitions=more_partitions,
        groups=more_groups,
        started_ms=now_ms,
        last=None,
    )


def check_ongoing(present: Transaction, producer: ProducerIdentity, is_known: Callable[[Transaction], bool]) -> None:
    """Whether the producer may write now, somewhere that the transaction knows of.

    Raises UnknownTransactionalId, ProducerFenced, InvalidTransactionState.
    """
    _check_producer(present, producer)
    if present.state is not TransactionState.ONGOING:
        raise _invalid(present, "nothing can be written in it")
    if not is_known(present):
        raise InvalidTransactionState(
            f"the transaction of {present.transactional_id!r} was not told that this belongs to it",
            transactional_id=present.transactional_id,
        )


def end(
    present: Transaction,
    producer: ProducerIdentity,
    now_ms: int,
    *,
    is_commit: bool,
    bumps: bool = False,
    new_producer_id: int = -1,
) -> Transaction:
    """Decide how the transaction ends. Said again after it has ended so, it changes nothing.

    Args:
      bumps: its producer is to have the next epoch.
      new_producer_id: for that, where :func:`needs_new_producer_id` says so.

    Raises UnknownTransactionalId, ProducerFenced, ConcurrentTransactions, InvalidTransactionState.
    """
    prepared = TransactionState.PREPARE_COMMIT if is_commit else TransactionState.PREPARE_ABORT
    completed = TransactionState.COMPLETE_COMMIT if is_commit else TransactionState.COMPLETE_ABORT
    is_repeat = producer == present.last and present.state is not TransactionState.EMPTY  # the answer was lost
    if not is_repeat:
        _check_producer(present, producer)
        if present.state is TransactionState.ONGOING or (bumps and not is_commit and not present.state.is_prepared):
            bump = _bump(present, new_producer_id) if bumps else {}
            return _changed(present, now_ms, state=prepared, **bump)
    if present.state is prepared:
        raise _concurrent(present)
    if present.state is completed and (is_repeat or present.last is None):
        return present
    raise _invalid(present, f"it cannot be {'committed' if is_commit else 'aborted'}")


def _bump(present: Transaction, new_producer_id: int) -> dict[str, object]:
    """The epoch in which the end is marked; where it is the one that nobody is given, another id comes after it."""
    assert (new_producer_id >= 0) == needs_new_producer_id(present)
    return {"epoch": present.epoch + 1, "last": present.producer, "next_producer_id": new_producer_id}


def complete(present: Transaction, now_ms: int) -> Transaction:
    """Everybody knows how it ended."""
    assert present.state.is_prepared
    is_commit = present.state is TransactionState.PREPARE_COMMIT
    following = successor(present)
    return _changed(
        present,
        now_ms,
        producer_id=following.producer_id,
        epoch=following.epoch,
        state=TransactionState.COMPLETE_COMMIT if is_commit else TransactionState.COMPLETE_ABORT,
        partitions=frozenset(),
        groups=frozenset(),
        started_ms=0,
        next_producer_id=-1,
    )


def successor(present: Transaction) -> ProducerIdentity:
    """Who may speak for it once it is complete."""
    if present.next_producer_id >= 0:
        return ProducerIdentity(present.next_producer_id, 0)
    return present.producer
