"""What each request makes of a transaction: the table in :mod:`trunkline.transactions.state`, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trunkline.errors import ConcurrentTransactions, InvalidTransactionState, ProducerFenced, UnknownTransactionalId
from trunkline.log import TopicPartition
from trunkline.transactions.state import (
    MAX_EPOCH,
    ProducerIdentity,
    Transaction,
    TransactionState,
    add,
    check_ongoing,
    complete,
    end,
    fence,
    initialise,
    successor,
)
from trunkline.transactions.stored import decode_key, decode_transaction, encode_key, encode_transaction

ME = ProducerIdentity(7, 3)
PLACE = TopicPartition("t", 0)
OTHER_PLACE = TopicPartition("t", 1)
STATES = list(TransactionState)


def make(state: TransactionState, **changes: Any) -> Transaction:
    is_open = state is TransactionState.ONGOING or state.is_prepared
    fields: dict[str, Any] = {"partitions": frozenset({PLACE}), "groups": frozenset({"g"}), "started_ms": 50}
    return Transaction("mine", *ME, 1000, state, **(fields if is_open else {}) | changes)


def outcome(call: Callable[[], Transaction]) -> str:
    """The state that follows, or the error."""
    try:
        return call().state.name
    except (ConcurrentTransactions, InvalidTransactionState) as error:
        return error.code


BUSY, INVALID = "ConcurrentTransactions", "InvalidTransactionState"


@pytest.mark.parametrize(
    ("state", "added", "committed", "aborted", "initialised"),
    [
        ("EMPTY", "ONGOING", INVALID, INVALID, "EMPTY"),
        ("ONGOING", "ONGOING", "PREPARE_COMMIT", "PREPARE_ABORT", None),
        ("PREPARE_COMMIT", BUSY, BUSY, INVALID, BUSY),
        ("PREPARE_ABORT", BUSY, INVALID, BUSY, BUSY),
        ("COMPLETE_COMMIT", "ONGOING", "COMPLETE_COMMIT", INVALID, "EMPTY"),
        ("COMPLETE_ABORT", "ONGOING", INVALID, "COMPLETE_ABORT", "EMPTY"),
    ],
)
def test_what_can_be_done_in_each_state(
    state: str, added: str, committed: str, aborted: str, initialised: str | None
) -> None:
    present = make(TransactionState[state])
    assert outcome(lambda: add(present, ME, 60, partitions=[OTHER_PLACE])) == added
    assert outcome(lambda: end(present, ME, 60, is_commit=True)) == committed
    assert outcome(lambda: end(present, ME, 60, is_commit=False)) == aborted
    if initialised is not None:
        assert outcome(lambda: initialise(present, 1000, 60, expected=None)) == initialised


@pytest.mark.parametrize("state", STATES)
def test_nobody_else_can_do_anything(state: TransactionState) -> None:
    present = make(state)
    for stranger, error in (
        (ProducerIdentity(7, 2), ProducerFenced),
        (ProducerIdentity(7, 4), ProducerFenced),
        (ProducerIdentity(8, 3), UnknownTransactionalId),
    ):
        with pytest.raises(error):
            add(present, stranger, 60, partitions=[PLACE])
        with pytest.raises(error):
            end(present, stranger, 60, is_commit=True)
        with pytest.raises(error):
            check_ongoing(present, stranger, lambda found: True)


@pytest.mark.parametrize("state", STATES)
def test_records_are_taken_only_while_it_is_ongoing_and_where_it_was_told_of(state: TransactionState) -> None:
    present = make(state)
    if state is TransactionState.ONGOING:
        check_ongoing(present, ME, lambda found: PLACE in found.partitions)
    else:
        with pytest.raises(InvalidTransactionState):
            check_ongoing(present, ME, lambda found: True)
    with pytest.raises(InvalidTransactionState):
        check_ongoing(present, ME, lambda found: OTHER_PLACE in found.partitions)


def test_what_is_known_already_changes_nothing() -> None:
    present = make(TransactionState.ONGOING)
    assert add(present, ME, 60, partitions=[PLACE], groups=["g"]) is present
    more = add(present, ME, 60, partitions=[OTHER_PLACE], groups=["h"])
    assert more.partitions == {PLACE, OTHER_PLACE}
    assert more.groups == {"g", "h"}
    assert more.started_ms == 50, "it began when it began"
    done = make(TransactionState.COMPLETE_COMMIT)
    assert end(done, ME, 60, is_commit=True) is done


def test_a_new_transaction_knows_nothing_of_the_last_one() -> None:
    done = complete(make(TransactionState.PREPARE_COMMIT), 60)
    assert (done.state, done.partitions, done.groups) == (TransactionState.COMPLETE_COMMIT, frozenset(), frozenset())
    again = add(done, ME, 70, groups=["h"])
    assert not again.partitions
    assert again.groups == {"h"}
    assert again.started_ms == 70


def test_each_initialisation_fences_the_one_before() -> None:
    following = initialise(make(TransactionState.EMPTY), 2000, 60, expected=None)
    assert (following.producer, following.timeout_ms) == (ProducerIdentity(7, 4), 2000)


def test_who_says_who_it_was_gets_the_next_epoch_once() -> None:
    following = initialise(make(TransactionState.COMPLETE_ABORT), 1000, 60, expected=ME)
    assert following.producer == ProducerIdentity(7, 4)
    assert initialise(following, 1000, 61, expected=ME) is following, "it did not get the answer"
    for stranger in (ProducerIdentity(7, 2), ProducerIdentity(8, 3)):
        with pytest.raises(ProducerFenced):
            initialise(following, 1000, 61, expected=stranger)
    working = complete(end(add(following, following.producer, 62), following.producer, 63, is_commit=True), 64)
    with pytest.raises(ProducerFenced):
        initialise(working, 1000, 65, expected=ME)


def test_who_says_who_it_was_gets_a_transactional_id_that_has_been_forgotten_meanwhile() -> None:
    new = Transaction("mine", 9, -1, 1000)
    following = initialise(new, 1000, 60, expected=ME)
    assert (following.producer, following.last) == (ProducerIdentity(9, 0), None)
    with pytest.raises(ProducerFenced):
        initialise(following, 1000, 61, expected=ME)


def test_when_epochs_are_used_up_there_is_another_producer_id() -> None:
    last = msgspec.structs.replace(make(TransactionState.EMPTY), epoch=MAX_EPOCH)
    following = initialise(last, 1000, 60, expected=last.producer, new_producer_id=9)
    assert following.producer == ProducerIdentity(9, 0)
    assert initialise(following, 1000, 61, expected=last.producer, new_producer_id=10) is following
    fenced = fence(msgspec.structs.replace(make(TransactionState.ONGOING), epoch=MAX_EPOCH), 60)
    assert fenced.epoch == MAX_EPOCH + 1 == 2**15 - 1, "there is room to abort the last one"


def test_a_fence_aborts_in_an_epoch_that_nobody_has() -> None:
    fenced = fence(make(TransactionState.ONGOING), 60)
    assert (fenced.state, fenced.epoch) == (TransactionState.PREPARE_ABORT, 4)
    with pytest.raises(ProducerFenced):
        end(fenced, ME, 61, is_commit=True)
    with pytest.raises(ProducerFenced):
        initialise(complete(fenced, 61), 1000, 62, expected=ME)


# -- the second protocol: a new epoch with each end ------------------------------------------------


@pytest.mark.parametrize(
    ("state", "committed", "aborted"),
    [
        ("EMPTY", INVALID, "PREPARE_ABORT"),
        ("ONGOING", "PREPARE_COMMIT", "PREPARE_ABORT"),
        ("PREPARE_COMMIT", BUSY, INVALID),
        ("PREPARE_ABORT", INVALID, BUSY),
        ("COMPLETE_COMMIT", "COMPLETE_COMMIT", "PREPARE_ABORT"),
        ("COMPLETE_ABORT", INVALID, "PREPARE_ABORT"),
    ],
)
def test_ends_that_give_a_new_epoch(state: str, committed: str, aborted: str) -> None:
    present = make(TransactionState[state])
    assert outcome(lambda: end(present, ME, 60, is_commit=True, bumps=True)) == committed
    assert outcome(lambda: end(present, ME, 60, is_commit=False, bumps=True)) == aborted


@pytest.mark.parametrize("is_commit", [True, False])
def test_an_end_with_a_new_epoch_fences_the_old_one_but_for_saying_it_again(is_commit: bool) -> None:
    new = ProducerIdentity(7, 4)
    prepared = end(make(TransactionState.ONGOING), ME, 60, is_commit=is_commit, bumps=True)
    assert (prepared.producer, successor(prepared)) == (new, new), "the markers have the new epoch"
    assert outcome(lambda: end(prepared, ME, 61, is_commit=is_commit, bumps=True)) == BUSY
    assert outcome(lambda: end(prepared, ME, 61, is_commit=not is_commit, bumps=True)) == INVALID
    done = complete(prepared, 61)
    assert end(done, ME, 62, is_commit=is_commit, bumps=True) is done
    assert outcome(lambda: end(done, ME, 62, is_commit=not is_commit, bumps=True)) == INVALID
    assert outcome(lambda: end(done, new, 62, is_commit=True, bumps=True)) == INVALID, "this one has not begun"
    with pytest.raises(ProducerFenced):
        add(done, ME, 62, partitions=[PLACE])
    again = add(done, new, 63, partitions=[PLACE])
    with pytest.raises(ProducerFenced):
        end(again, ME, 64, is_commit=is_commit, bumps=True)


def test_who_lost_the_answer_to_its_end_may_also_initialise() -> None:
    done = complete(end(make(TransactionState.ONGOING), ME, 60, is_commit=True, bumps=True), 61)
    assert initialise(done, 1000, 62, expected=ME) is done
    anybody = initialise(done, 1000, 62, expected=None)
    with pytest.raises(ProducerFenced):
        end(anybody, ME, 63, is_commit=True, bumps=True)


def test_after_an_initialisation_the_last_end_cannot_be_said_again() -> None:
    following = initialise(make(TransactionState.COMPLETE_COMMIT), 1000, 60, expected=ME)
    with pytest.raises(ProducerFenced):
        end(following, ME, 61, is_commit=True, bumps=True)


@pytest.mark.parametrize("is_commit", [True, False])
def test_the_last_epoch_ends_in_one_that_nobody_is_given_and_another_producer_id_follows(is_commit: bool) -> None:
    last = msgspec.structs.replace(make(TransactionState.ONGOING), epoch=MAX_EPOCH)
    prepared = end(last, last.producer, 60, is_commit=is_commit, bumps=True, new_producer_id=9)
    assert prepared.producer == ProducerIdentity(7, MAX_EPOCH + 1)
    assert successor(prepared) == ProducerIdentity(9, 0)
    kept = decode_transaction("mine", encode_transaction(prepared))
    done = complete(kept, 61)
    assert (done.producer, done.next_producer_id) == (ProducerIdentity(9, 0), -1)
    assert end(done, last.producer, 62, is_commit=is_commit, bumps=True) is done, "it did not get the answer"


def test_who_guesses_the_epoch_that_nobody_is_given_is_fenced() -> None:
    """It could not be fenced after that: epochs are i16."""
    last = msgspec.structs.replace(make(TransactionState.ONGOING), epoch=MAX_EPOCH)
    guessed = complete(fence(last, 60), 61)
    with pytest.raises(ProducerFenced):
        add(guessed, guessed.producer, 62, partitions=[PLACE])
    with pytest.raises(ProducerFenced):
        end(guessed, guessed.producer, 62, is_commit=False, bumps=True, new_producer_id=9)
    assert initialise(guessed, 1000, 62, expected=None, new_producer_id=9).producer == ProducerIdentity(9, 0)


def test_what_was_stored_before_there_was_a_second_protocol_can_be_read() -> None:
    fields = msgspec.structs.astuple(make(TransactionState.ONGOING))[1:-1]
    assert decode_transaction("mine", b"\1" + msgspec.msgpack.encode(fields)) == make(TransactionState.ONGOING)


# -- what is stored --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_what_is_stored_is_found_again(state: TransactionState) -> None:
    present = make(state, last=ProducerIdentity(6, 1))
    assert decode_transaction("mine", encode_transaction(present)) == present
    assert decode_key(encode_key("mine")) == "mine"


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 2"):
        decode_key(b"\2mine")
    with pytest.raises(ValueError, match="version 02"):
        decode_transaction("mine", b"\2" + encode_transaction(make(TransactionState.EMPTY))[1:])
