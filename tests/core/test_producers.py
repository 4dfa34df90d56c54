"""Idempotent producers: KIP-98, "idempotent producer guarantees", and Kafka's ProducerAppendInfo."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import CorruptLog, OutOfOrderSequence, ProducerFenced
from trunkline.producers import BATCHES_REMEMBERED, ProducerTable
from trunkline.records import BatchHeader, encode, read_header

LAST = 2**31 - 1


def header(
    sequence: int, records: int = 1, *, producer: int = 7, epoch: int = 0, timestamp: int = 1, control: bool = False
) -> BatchHeader:
    return read_header(
        encode(
            [(timestamp, None, b"", ())] * records,
            producer_id=producer,
            producer_epoch=epoch,
            base_sequence=sequence,
            is_control=control,
        )
    )


def table_of(*headers: BatchHeader) -> ProducerTable:
    """A table that remembers these batches at offsets 100, 101, ..."""
    table = ProducerTable()
    for offset, one in enumerate(headers, 100):
        assert table.check(one) is None
        table.update(one, offset)
    return table


def test_an_unknown_producer_may_start_anywhere() -> None:
    assert ProducerTable().check(header(4711)) is None


def test_the_next_batch_starts_where_the_last_one_ended() -> None:
    table = table_of(header(0, 3))
    assert table.check(header(3)) is None


@pytest.mark.parametrize("sequence", [1, 2, 4, 1000])
def test_any_other_sequence_is_out_of_order(sequence: int) -> None:
    table = table_of(header(0, 3))
    with pytest.raises(OutOfOrderSequence, match=f"sequence {sequence} came where 3 was due") as caught:
        table.check(header(sequence))
    assert (caught.value.expected, caught.value.received) == (3, sequence)


def test_each_of_the_last_five_batches_is_recognised_with_its_offset() -> None:
    table = table_of(*(header(sequence) for sequence in range(6)))
    assert [table.check(header(sequence)) for sequence in range(1, 6)] == [101, 102, 103, 104, 105]


def test_a_repeat_of_the_sixth_last_batch_is_out_of_order() -> None:
    table = table_of(*(header(sequence) for sequence in range(BATCHES_REMEMBERED + 1)))
    with pytest.raises(OutOfOrderSequence):
        table.check(header(0))


def test_a_batch_that_starts_like_a_known_one_but_has_another_length_is_no_repeat() -> None:
    table = table_of(header(0, 3))
    with pytest.raises(OutOfOrderSequence):
        table.check(header(0, 2))


def test_after_the_largest_sequence_comes_zero() -> None:
    table = table_of(header(LAST))
    assert table.check(header(0)) is None


def test_a_batch_across_the_wrap_is_followed_and_recognised() -> None:
    table = table_of(header(LAST - 1, 4))  # LAST - 1, LAST, 0, 1
    assert table.check(header(2)) is None
    assert table.check(header(LAST - 1, 4)) == 100


def test_a_new_epoch_starts_at_zero() -> None:
    table = table_of(header(0), header(1))
    with pytest.raises(OutOfOrderSequence, match="where 0 was due"):
        table.check(header(2, epoch=1))
    assert table.check(header(0, epoch=1)) is None


def test_an_old_epoch_is_fenced() -> None:
    table = table_of(header(0, epoch=3))
    with pytest.raises(ProducerFenced, match="epoch 2 is fenced by epoch 3") as caught:
        table.check(header(1, epoch=2))
    assert caught.value.current_epoch == 3


def test_a_new_epoch_forgets_the_batches_of_the_old_one() -> None:
    table = table_of(header(0), header(0, epoch=1))
    with pytest.raises(ProducerFenced):
        table.check(header(0))


def test_producers_do_not_disturb_each_other() -> None:
    table = table_of(header(0, producer=1), header(0, producer=2))
    assert table.check(header(1, producer=1)) is None
    assert table.check(header(0, producer=2)) == 101


def test_batches_without_producer_and_control_batches_are_not_remembered() -> None:
    table = ProducerTable()
    table.update(header(-1, producer=-1, epoch=-1), 0)
    table.update(header(0, control=True), 1)
    assert len(table) == 0


def test_producers_expire_by_the_timestamp_of_their_last_batch() -> None:
    table = table_of(header(0, producer=1, timestamp=10), header(0, producer=2, timestamp=20))
    assert table.expire(20) == 1
    assert table.check(header(99, producer=1)) is None  # unknown again
    assert table.check(header(0, producer=2)) == 101


def test_a_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(CorruptLog, match="version 9"):
        ProducerTable.restore(b"\x09" + bytes(4))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_snapshot_that_is_cut_short_is_refused(cut: int) -> None:
    state = table_of(header(0), header(1)).snapshot()
    with pytest.raises(CorruptLog, match="ends too early"):
        ProducerTable.restore(state[:-cut])


class Model:
    """The same rules on a list of all that was ever written."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int, int]] = []  # epoch, first, records, offset

    def check(self, epoch: int, sequence: int, records: int) -> object:
        if not self.written:
            return None
        newest = self.written[-1][0]
        if epoch < newest:
            return ProducerFenced
        same = [batch for batch in self.written if batch[0] == newest] if epoch == newest else []
        for _, first, count, offset in same[-5:]:
            if (first, count) == (sequence, records):
                return offset
        due = (same[-1][1] + same[-1][2]) % 2**31 if same else 0
        return None if sequence == due else OutOfOrderSequence


# Few sequences, near the wrap, so that hits, repeats and gaps all happen.
batches = st.tuples(
    st.integers(0, 2), st.integers(-3, 6).map(lambda number: (LAST + 1 + number) % 2**31), st.integers(1, 3)
)


@given(st.lists(st.tuples(batches, st.booleans()), max_size=40))
def test_the_table_agrees_with_a_list_of_everything_written(steps: list[tuple[tuple[int, int, int], bool]]) -> None:
    table, model = ProducerTable(), Model()
    for offset, ((epoch, sequence, records), restart) in enumerate(steps):
        one = header(sequence, records, epoch=epoch)
        found: object
        try:
            found = table.check(one)
        except (ProducerFenced, OutOfOrderSequence) as error:
            found = type(error)
        assert found == model.check(epoch, sequence, records)
        if found is None:
            table.update(one, offset)
            model.written.append((epoch, sequence, records, offset))
        if restart:
            table = ProducerTable.restore(table.snapshot())


def test_the_last_batch_of_each_producer_is_one_that_cannot_be_lost_any_more() -> None:
    table = ProducerTable()
    for sequence in range(9):
        table.update(header(sequence, producer=3), 10 * sequence)
    table.update(header(0, producer=4), 85)

    assert table.last_batches(90) == {3: 80, 4: 85}
    assert table.last_batches(80) == {3: 70, 4: 0}
    assert table.last_batches(40) == {3: 0, 4: 0}, "only five are remembered: it may be any"
