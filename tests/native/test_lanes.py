"""What a lane decides, against a model of the broker that loses, refuses and repeats."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import (
    DeliveryTimeout,
    InvalidBatch,
    OutOfOrderSequence,
    Overloaded,
    TrunklineError,
)
from trunkline.producers import ProducerTable
from trunkline.records import check_batch, decode
from trunkline_native.client.batches import Batch, LaneOptions, Producer
from trunkline_native.client.lanes import Lane


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_lane(
    clock: Clock, *, linger_s: float = 0.0, batch_bytes: int = 1000, timeout_s: float = 1e9, idempotent: bool = True
) -> Lane:
    options = LaneOptions(
        batch_bytes=batch_bytes,
        linger_s=linger_s,
        delivery_timeout_s=timeout_s,
        compression=0,
        is_idempotent=idempotent,
        retry_after_s=lambda attempt: 0.5 * attempt,
        now=clock,
    )
    lane = Lane("orders", 0, 1_000_000, options)
    if idempotent:
        lane.set_producer(Producer(7, 0))
    return lane


def add(lane: Lane, value: bytes) -> Batch:
    batch, _, _ = lane.append(0, None, value, b"\0")
    return batch


def send_one(lane: Lane, clock: Clock, value: bytes = b"x") -> Batch:
    add(lane, value)
    batch = lane.next_batch(clock.now)
    assert batch is not None
    return batch


def establish(lane: Lane, clock: Clock) -> None:
    lane.acknowledged(send_one(lane, clock), 0, clock.now)


def sequence(batch: Batch) -> int:
    return check_batch(batch.encode()).base_sequence


def test_records_of_one_moment_share_a_batch() -> None:
    clock = Clock()
    lane = make_lane(clock)
    assert add(lane, b"a") is add(lane, b"b")
    batch = lane.next_batch(clock.now)
    assert batch is not None
    assert [record.value for record in decode(batch.encode())] == [b"a", b"b"]
    assert lane.next_batch(clock.now) is None


def test_a_batch_lingers_until_it_is_due_or_full() -> None:
    clock = Clock()
    lane = make_lane(clock, linger_s=5.0)
    add(lane, b"a")
    assert lane.next_batch(clock.now) is None
    assert lane.wake_at() == 105.0
    assert lane.next_batch(105.0) is not None

    lane = make_lane(clock, linger_s=5.0, batch_bytes=200)
    add(lane, b"a" * 100)
    add(lane, b"a" * 100)
    assert lane.next_batch(clock.now) is not None


def test_flushing_ends_lingering() -> None:
    clock = Clock()
    lane = make_lane(clock, linger_s=5.0)
    add(lane, b"a")
    lane.close_batches()
    assert lane.next_batch(clock.now) is not None


def test_one_batch_is_in_flight_until_the_producer_is_known_then_five() -> None:
    clock = Clock()
    lane = make_lane(clock)
    first = send_one(lane, clock)
    add(lane, b"x")
    assert lane.next_batch(clock.now) is None
    lane.acknowledged(first, 0, clock.now)
    assert lane.next_batch(clock.now) is not None
    for _ in range(4):
        send_one(lane, clock)
    add(lane, b"x")
    assert lane.next_batch(clock.now) is None


def test_without_idempotence_one_batch_is_in_flight() -> None:
    clock = Clock()
    lane = make_lane(clock, idempotent=False)
    establish(lane, clock)
    batch = send_one(lane, clock)
    assert check_batch(batch.encode()).producer_id == -1
    add(lane, b"x")
    assert lane.next_batch(clock.now) is None


def test_sequences_count_records_and_wrap() -> None:
    clock = Clock()
    lane = make_lane(clock)
    lane._next_sequence = 2**31 - 2
    for _ in range(3):
        add(lane, b"x")
    first = lane.next_batch(clock.now)
    assert first is not None
    lane.acknowledged(first, 0, clock.now)
    assert (sequence(send_one(lane, clock)), first.sequence) == (1, 2**31 - 2)


def test_a_lost_connection_sends_everything_again_as_it_was() -> None:
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    sent = [send_one(lane, clock, bytes([number])) for number in range(3)]
    payloads = [batch.encode() for batch in sent]
    lane.connection_lost()
    again = [lane.next_batch(clock.now) for _ in range(3)]
    assert again == sent
    assert [batch.encode() for batch in sent] == payloads


def test_a_refused_batch_takes_those_behind_it_along_and_backs_off() -> None:
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    sent = [send_one(lane, clock) for _ in range(3)]
    lane.acknowledged(sent[0], 1, clock.now)
    lane.failed(sent[1], Overloaded("full"), clock.now)
    add(lane, b"later")
    assert lane.next_batch(clock.now) is None
    lane.failed(sent[2], OutOfOrderSequence("gap"), clock.now)
    assert lane.next_batch(clock.now) is None
    assert lane.wake_at() == clock.now + 0.5
    clock.now += 0.5
    assert [lane.next_batch(clock.now) for _ in range(2)] == sent[1:]
    assert [batch.sequence for batch in sent] == [1, 2, 3]


def test_a_batch_refused_for_good_fails_alone_and_the_rest_goes_on_under_a_new_id() -> None:
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    doomed, behind = send_one(lane, clock), send_one(lane, clock, b"behind")
    lane.failed(doomed, InvalidBatch("no"), clock.now)
    lane.failed(behind, OutOfOrderSequence("gap"), clock.now)
    assert isinstance(doomed.error, InvalidBatch)
    assert lane.needs_producer
    lane.set_producer(Producer(8, 0))
    clock.now += 10
    assert lane.next_batch(clock.now) is behind
    header = check_batch(behind.encode())
    assert (header.producer_id, header.base_sequence) == (8, 0)


def test_what_may_have_been_written_keeps_its_identity_when_the_sequence_is_broken() -> None:
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    doomed, unknown = send_one(lane, clock), send_one(lane, clock, b"unknown")
    lane.failed(doomed, InvalidBatch("no"), clock.now)
    lane.connection_lost()
    add(lane, b"new")
    assert lane.next_batch(clock.now) is unknown
    assert check_batch(unknown.encode()).producer_id == 7
    assert lane.next_batch(clock.now) is None  # the new one waits for a new id
    lane.acknowledged(unknown, 5, clock.now)
    assert lane.needs_producer


def test_out_of_order_with_nothing_missing_begins_a_new_sequence() -> None:
    """The broker has forgotten what it acknowledged; what it refuses it has not written."""
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    batch = send_one(lane, clock)
    lane.failed(batch, OutOfOrderSequence("gap"), clock.now)
    assert lane.needs_producer
    assert not batch.is_done


def test_a_batch_is_given_up_at_its_deadline() -> None:
    clock = Clock()
    lane = make_lane(clock, timeout_s=10.0)
    establish(lane, clock)
    sent = send_one(lane, clock)
    lane.connection_lost()
    clock.now += 5
    unsent = add(lane, b"unsent")
    lane.expire(clock.now + 5)
    assert isinstance(sent.error, DeliveryTimeout)
    assert sent.error.is_maybe_written
    assert not unsent.is_done
    lane.expire(clock.now + 10)
    assert isinstance(unsent.error, DeliveryTimeout)
    assert not unsent.error.is_maybe_written
    assert lane.is_idle


def test_an_answer_that_comes_after_the_deadline_changes_nothing() -> None:
    clock = Clock()
    lane = make_lane(clock, timeout_s=10.0)
    batch = send_one(lane, clock)
    lane.expire(clock.now + 10)
    lane.acknowledged(batch, 5, clock.now)
    assert batch.base_offset == -1
    assert lane.is_idle


class ModelBroker:
    """Keeps one partition as the real one does, and answers each batch with what chance decides."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values: list[bytes] = []
        self.producers = ProducerTable()

    def append(self, payload: bytes) -> int | TrunklineError:
        header = check_batch(payload)
        if self.rng.random() < 0.1:
            return Overloaded("by chance")
        if int(decode(payload)[0].value or b"") % 23 == 7:
            return InvalidBatch("for good")
        try:
            original = self.producers.check(header)
        except TrunklineError as error:
            return error
        if original is not None:
            return original
        offset = len(self.values)
        self.producers.update(header, offset)
        self.values += [record.value or b"" for record in decode(payload)]
        return offset


def test_a_repeat_that_is_refused_for_want_of_room_may_still_have_been_written_before() -> None:
    clock = Clock()
    lane = make_lane(clock)
    establish(lane, clock)
    unknown, doomed = send_one(lane, clock), send_one(lane, clock)
    lane.connection_lost()
    assert [lane.next_batch(clock.now) for _ in range(2)] == [unknown, doomed]
    lane.failed(unknown, Overloaded("full"), clock.now)
    lane.failed(doomed, InvalidBatch("no"), clock.now)
    clock.now += 10
    assert lane.next_batch(clock.now) is unknown
    assert check_batch(unknown.encode()).producer_id == 7


@given(st.integers(0, 2**32))
def test_whatever_happens_each_record_is_written_once_and_in_order(seed: int) -> None:
    """Refusals, lost connections with and without what was on the way; nothing is given up for time."""
    rng = random.Random(seed)
    clock = Clock()
    lane = make_lane(clock, batch_bytes=100)
    broker = ModelBroker(rng)
    batches: dict[bytes, Batch] = {}
    wire: deque[Batch] = deque()
    answers: deque[tuple[Batch, int | TrunklineError]] = deque()
    producer_ids = iter(range(100, 10_000))

    def serve() -> None:
        while wire:
            batch = wire.popleft()
            answers.append((batch, broker.append(batch.encode())))

    def answer(batch: Batch, outcome: int | TrunklineError) -> None:
        if isinstance(outcome, TrunklineError):
            lane.failed(batch, outcome, clock.now)
        else:
            lane.acknowledged(batch, outcome, clock.now)

    for number in range(60):
        value = str(number).encode()
        batches[value] = add(lane, value)
        for _ in range(rng.randrange(4)):
            clock.now += rng.random()
            if lane.needs_producer:
                lane.set_producer(Producer(next(producer_ids), 0))
            if (batch := lane.next_batch(clock.now)) is not None:
                wire.append(batch)
            event = rng.random()
            if event < 0.4:
                serve()
            if event < 0.6 and answers:
                answer(*answers.popleft())
            if event > 0.93:
                for batch in list(wire)[: rng.randrange(len(wire) + 1)]:
                    broker.append(batch.encode())  # written, but the answer is lost
                wire.clear()
                answers.clear()
                lane.connection_lost()

    while not lane.is_idle:
        clock.now += 5
        if lane.needs_producer:
            lane.set_producer(Producer(next(producer_ids), 0))
        while (batch := lane.next_batch(clock.now)) is not None:
            wire.append(batch)
        serve()
        while answers:
            answer(*answers.popleft())

    acknowledged = [value for value, batch in batches.items() if batch.error is None]
    assert broker.values == acknowledged
    assert all(batch.is_done for batch in batches.values())


def test_the_pause_before_a_retry_grows_to_a_limit_and_varies() -> None:
    from trunkline_native.client.link import retry_after_s

    assert [retry_after_s(attempt, lambda: 1.0) for attempt in (1, 2, 3)] == pytest.approx([0.05, 0.1, 0.2])
    assert retry_after_s(50, lambda: 1.0) == 2.0
    assert retry_after_s(50, lambda: 0.0) == 1.0
