"""What compaction keeps, batch by batch; when a log is due; and how a log is cleaned."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from trunkline.cleaner import Cleaner, RateLimiter
from trunkline.compaction import CompactionPlan, Compactor, note_keys, plan_compaction
from trunkline.errors import CorruptBatch, TrunklineError
from trunkline.keymap import BYTES_PER_KEY, KeyMap
from trunkline.log import Chunk, Log, TopicPartition
from trunkline.producers import ProducerTable
from trunkline.records import HEADER_BYTES, decode, decode_all, encode, iter_headers, read_header, with_records
from trunkline.settings import TopicSettings
from trunkline.testing import MemoryStore
from trunkline.transactions.aborted import NONE_ABORTED, AbortedTransactions

RETENTION_MS = 1_000
Row = tuple[bytes | None, bytes | None]


def make(offset: int, *rows: Row, timestamp: int = 5, **options: Any) -> bytes:
    return encode([(timestamp, key, value, ()) for key, value in rows], base_offset=offset, **options)


def compact(
    batches: list[bytes],
    *,
    now_ms: int = 100,
    last_batches: Mapping[int, int] | None = None,
    aborted: AbortedTransactions = NONE_ABORTED,
) -> list[bytes | None]:
    """Each batch of a log after a cleaning of all of them; a last one is there so that none of these is."""
    end = read_header(batches[-1]).next_offset
    newest = KeyMap(1 << 20, 1_000)
    for batch in batches:
        assert note_keys(batch, newest, aborted)
    compactor = Compactor(
        newest,
        end_offset=end + 1,
        last_batches=last_batches or {},
        delete_retention_ms=RETENTION_MS,
        aborted=aborted,
    )
    return [compactor.transform(batch, now_ms) for batch in batches]


def rows(batch: bytes | None) -> list[tuple[int, bytes | None, bytes | None]]:
    assert batch is not None
    return [(record.offset, record.key, record.value) for record in decode(batch)]


# -- records ---------------------------------------------------------------------------------------


def test_the_newest_record_of_each_key_is_kept() -> None:
    first, second = compact([make(0, (b"a", b"1"), (b"b", b"1"), (b"a", b"2")), make(3, (b"b", b"2"))])
    assert rows(first) == [(2, b"a", b"2")]
    assert rows(second) == [(3, b"b", b"2")]


def test_a_batch_in_which_nothing_changes_is_given_back_itself() -> None:
    batches = [make(0, (b"a", b"1")), make(1, (b"b", b"1"), (b"c", b"1"), compression=4)]
    assert all(new is old for new, old in zip(compact(batches), batches, strict=True))


def test_records_without_a_key_are_kept() -> None:
    (batch,) = compact([make(0, (None, b"1"), (b"a", b"1"), (None, None), (b"a", b"2"))])
    assert [offset for offset, _, _ in rows(batch)] == [0, 2, 3]


def test_an_empty_key_is_a_key() -> None:
    assert compact([make(0, (b"", b"1")), make(1, (b"", b"2"))])[0] is None


@pytest.mark.parametrize("compression", range(5))
def test_compression_and_what_a_batch_spans_are_kept(compression: int) -> None:
    row = (b"a", b"value" * 50)
    before = make(10, row, (b"b", b"value" * 50), row, compression=compression, leader_epoch=4)
    (after,) = compact([before])
    assert after is not None
    old, new = read_header(before), read_header(after)
    assert (new.base_offset, new.last_offset, new.leader_epoch) == (10, 12, 4)
    assert (new.compression, new.attributes, new.record_count) == (compression, old.attributes, 2)


def test_records_keep_their_timestamps_and_headers() -> None:
    batch = encode(
        [(50, b"a", b"1", ()), (900, b"a", b"2", ()), (70, b"b", b"1", (("name", b"value"),)), (60, b"a", b"3", ())]
    )
    (after,) = compact([batch])
    assert after is not None
    assert decode(after) == decode(batch)[2:]
    assert read_header(after).max_timestamp == 70, "searches by time and retention go by it"


def test_the_time_of_append_is_kept() -> None:
    (after,) = compact([make(0, (b"a", b"1"), (b"a", None), append_time=777)])
    assert after is not None
    assert read_header(after).is_append_time
    assert [record.timestamp for record in decode(after)] == [777]


def test_a_batch_that_cannot_be_decoded_is_kept_as_it_is() -> None:
    poison = with_records(read_header(make(0, (b"a", b"1"))), b"\x02nonsense")
    after = compact([poison, make(1, (b"a", b"2"))])
    assert after[0] is poison


def test_a_batch_that_cannot_be_decoded_takes_no_place() -> None:
    good = make(0, (b"a", b"1"))
    poison = with_records(read_header(make(1, (b"a", b"2"))), make(1, (b"a", b"2"))[HEADER_BYTES:] + b"!")
    assert compact([good, poison])[0] is good


def test_a_damaged_batch_stops_it_by_name() -> None:
    damaged = bytearray(make(3, (b"a", b"1")))
    damaged[-2] ^= 1
    compactor = Compactor(KeyMap(100, 1), end_offset=9, last_batches={}, delete_retention_ms=0)
    with pytest.raises(CorruptBatch, match="offset 3"):
        note_keys(bytes(damaged), KeyMap(100, 1))
    with pytest.raises(CorruptBatch, match="offset 3"):
        compactor.transform(bytes(damaged), 0)


# -- tombstones ------------------------------------------------------------------------------------


def test_the_first_cleaning_gives_a_tombstone_its_horizon() -> None:
    batch = encode([(50, b"a", None, ()), (20, b"b", b"1", ())], base_offset=4)
    (after,) = compact([batch], now_ms=100)
    assert after is not None
    assert read_header(after).delete_horizon == 100 + RETENTION_MS
    assert decode(after) == decode(batch), "timestamps count from the horizon now, and are what they were"
    assert read_header(after).max_timestamp == 50


def test_a_tombstone_stays_until_its_horizon_and_then_goes() -> None:
    (first,) = compact([make(0, (b"a", None), (b"b", b"1"))], now_ms=100)
    assert first is not None
    (later,) = compact([first], now_ms=99 + RETENTION_MS)
    assert later is first
    (last,) = compact([first], now_ms=100 + RETENTION_MS)
    assert rows(last) == [(1, b"b", b"1")]


def test_a_tombstone_deletes_what_was_before_it_at_once() -> None:
    first, second = compact([make(0, (b"a", b"1")), make(1, (b"a", None))])
    assert first is None
    assert rows(second) == [(1, b"a", None)]


def test_a_tombstone_gives_way_to_a_newer_record() -> None:
    assert compact([make(0, (b"a", None)), make(1, (b"a", b"1"))])[0] is None


# -- producers and the end -------------------------------------------------------------------------


def producer(sequence: int) -> dict[str, int]:
    return {"producer_id": 7, "producer_epoch": 1, "base_sequence": sequence}


def test_the_last_batch_of_a_producer_stays_without_records() -> None:
    batches = [make(0, (b"a", b"1"), **producer(0)), make(1, (b"a", b"2"), (b"a", b"3"), compression=1, **producer(1))]
    first, last, _ = compact([*batches, make(3, (b"a", b"4"))], last_batches={7: 1})
    assert first is None
    assert last is not None
    header = read_header(last)
    assert (header.record_count, header.base_offset, header.last_offset, header.base_sequence) == (0, 1, 2, 1)
    assert decode(last) == []
    table = ProducerTable()
    table.update(header, 1)
    assert table.check(read_header(make(0, (b"a", b"5"), **producer(3)))) is None, "the next sequence is known"
    assert table.check(read_header(make(0, (b"a", b"2"), (b"a", b"3"), **producer(1)))) == 1, "so is a repeat"


def test_an_empty_batch_goes_when_its_producer_has_written_again() -> None:
    empty = compact([make(0, (b"a", b"1"), **producer(0)), make(1, (b"a", b"2"))], last_batches={7: 0})[0]
    assert empty is not None
    assert compact([empty, make(1, (b"a", b"2"))], last_batches={7: 0})[0] is empty
    assert compact([empty, make(1, (b"a", b"2"))], last_batches={7: 1})[0] is None
    assert compact([empty, make(1, (b"a", b"2"))], last_batches={})[0] is None, "the producer is forgotten"


def test_the_last_batch_of_what_is_cleaned_stays_without_records() -> None:
    newest = KeyMap(1_000, 10)
    newest.put(b"a", 9)
    compactor = Compactor(newest, end_offset=2, last_batches={}, delete_retention_ms=0)
    assert compactor.transform(make(0, (b"a", b"1")), 0) is None
    last = compactor.transform(make(1, (b"a", b"2")), 0)
    assert rows(last) == []


# -- transactions ----------------------------------------------------------------------------------


def transactional(offset: int, *rows: Row, **options: Any) -> bytes:
    return make(offset, *rows, is_transactional=True, producer_id=9, producer_epoch=0, base_sequence=0, **options)


def marker(offset: int) -> bytes:
    return transactional(offset, (b"\0\0\0\1", b"\0\0\0\0\0\0"), is_control=True)


def test_a_record_of_a_committed_transaction_takes_the_place_of_an_older_one() -> None:
    assert compact([make(0, (b"a", b"1")), transactional(1, (b"a", b"2")), marker(2)])[0] is None


def test_a_record_of_an_aborted_transaction_goes_and_takes_no_place() -> None:
    aborted = AbortedTransactions()
    aborted.add(9, 1, 2, 3)
    batches = [make(0, (b"a", b"1")), transactional(1, (b"a", b"2")), marker(2)]
    kept, dropped, end = compact(batches, aborted=aborted)
    assert kept is batches[0]
    assert dropped is None
    assert end is not None, "its marker waits for readers who began before"
    assert read_header(end).delete_horizon == 100 + RETENTION_MS


def test_a_marker_stays_while_anything_of_its_transaction_does() -> None:
    batches = [transactional(0, (b"a", b"1"), (b"b", b"1")), marker(2), make(3, (b"a", b"2"))]
    for _ in range(3):
        data, end, _ = compact(batches, now_ms=10**9)
        assert rows(data) == [(1, b"b", b"1")]
        assert end is batches[1]


def test_a_marker_goes_once_its_transaction_and_its_horizon_have() -> None:
    data, end, _ = compact([transactional(0, (b"a", b"1")), marker(1), make(2, (b"a", b"2"))], now_ms=100)
    assert data is None
    assert end is not None
    assert read_header(end).delete_horizon == 100 + RETENTION_MS
    assert decode(end) == decode(marker(1))
    assert compact([end, make(2, (b"a", b"2"))], now_ms=99 + RETENTION_MS)[0] is end
    assert compact([end, make(2, (b"a", b"2"))], now_ms=100 + RETENTION_MS)[0] is None


# -- the key map -----------------------------------------------------------------------------------


def test_the_key_map_is_like_a_dict() -> None:
    keys, model = KeyMap(1 << 20, 3_000), {}
    for number in range(3_000):
        key = b"%d" % (number * 7919 % 2_000)
        keys.put(key, number)
        model[key] = number
    assert len(keys) == len(model)
    assert {key: keys.newest(key) for key in model} == model
    assert keys.newest(b"another") == -1


def test_the_key_map_keeps_within_its_memory() -> None:
    keys = KeyMap(BYTES_PER_KEY * 1_000, 10**9)
    assert keys.memory_bytes <= BYTES_PER_KEY * 1_000
    assert keys.capacity >= 999
    for number in range(keys.capacity):
        keys.put(b"%d" % number, number)
    assert not keys.room
    assert all(keys.newest(b"%d" % number) == number for number in range(keys.capacity))


def test_few_keys_take_little_memory() -> None:
    assert KeyMap(1 << 30, 100).memory_bytes < 100 * BYTES_PER_KEY + 100


# -- when ------------------------------------------------------------------------------------------

CHUNKS = [Chunk(0, 10, 100, 1_000), Chunk(10, 20, 100, 2_000), Chunk(20, 30, 200, 3_000)]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, CompactionPlan(0, 30, 400, 400)),
        ({"cleaned_offset": 10}, CompactionPlan(10, 30, 300, 400)),
        ({"cleaned_offset": 20}, CompactionPlan(20, 30, 200, 400)),
        ({"cleaned_offset": 20, "min_dirty_ratio": 0.51}, None),
        ({"cleaned_offset": 30, "min_dirty_ratio": 0}, None),
        ({"end_offset": 20}, CompactionPlan(0, 20, 200, 200)),
        ({"end_offset": 19}, CompactionPlan(0, 10, 100, 100)),
        ({"end_offset": 9}, None),
        ({"min_lag_ms": 500}, CompactionPlan(0, 20, 200, 200)),
        ({"min_lag_ms": 499, "now_ms": 3_500}, CompactionPlan(0, 30, 400, 400)),
    ],
)
def test_when_a_log_is_due_and_up_to_where(changed: dict[str, Any], wanted: CompactionPlan | None) -> None:
    given = {"cleaned_offset": 0, "end_offset": 30, "now_ms": 3_000, "min_dirty_ratio": 0.5, "min_lag_ms": 0}
    assert plan_compaction(CHUNKS, **(given | changed)) == wanted


# -- cleaning --------------------------------------------------------------------------------------


def filled_log(batches: int = 40, keys: int = 5) -> Log:
    log = MemoryStore().open(TopicPartition("orders", 0), TopicSettings())
    log.append([make(number, (b"%d" % (number % keys), b"value %d" % number)) for number in range(batches)])
    return log


def offsets(log: Log) -> list[int]:
    return [record.offset for record in decode_all(log.read(0, 1 << 20, log.end_offset))]


def clean(cleaner: Cleaner, log: Log, cleaned_offset: int = 0, end_offset: int | None = None) -> Any:
    return cleaner.clean(
        log,
        cleaned_offset=cleaned_offset,
        end_offset=log.end_offset if end_offset is None else end_offset,
        last_batches={},
        delete_retention_ms=RETENTION_MS,
    )


def test_a_cleaning_keeps_the_newest_of_each_key_and_counts() -> None:
    log = filled_log()
    size = log.size_bytes()
    done = clean(Cleaner(RateLimiter(0)), log)
    assert offsets(log) == [35, 36, 37, 38, 39]
    assert (done.cleaned_offset, done.is_complete, done.records_dropped, done.keys) == (40, True, 35, 5)
    assert (done.bytes_read, done.bytes_written) == (2 * size, log.size_bytes())


def test_a_cleaning_stops_at_its_end() -> None:
    log = filled_log()
    clean(Cleaner(RateLimiter(0)), log, end_offset=20)
    assert offsets(log) == [*range(15, 40)]


def test_what_does_not_fit_into_the_key_map_is_cleaned_the_next_time() -> None:
    log = filled_log(keys=10)
    cleaner = Cleaner(RateLimiter(0), key_map_bytes=4 * BYTES_PER_KEY)
    cleaned, rounds = 0, 0
    while cleaned < 40:
        done = clean(cleaner, log, cleaned)
        assert done.cleaned_offset > cleaned
        assert done.is_complete == (done.cleaned_offset == 40)
        cleaned, rounds = done.cleaned_offset, rounds + 1
    assert rounds > 5
    assert offsets(log) == [*range(30, 40)]


def test_a_batch_with_more_keys_than_the_key_map_has_room_for_is_an_error() -> None:
    log = MemoryStore().open(TopicPartition("orders", 0), TopicSettings())
    log.append([make(0, *((b"%d" % number, b"") for number in range(100)))])
    with pytest.raises(TrunklineError, match="more memory"):
        clean(Cleaner(RateLimiter(0), key_map_bytes=4 * BYTES_PER_KEY), log)


@pytest.mark.parametrize("batches", [0, 10, 41, 60, 79])
def test_a_stopped_cleaning_can_be_done_again(batches: int) -> None:
    log = filled_log()
    stopping = threading.Event()
    left = iter(range(batches))

    def count(seconds: float) -> None:
        if next(left, None) is None:
            stopping.set()

    limiter = RateLimiter(1, clock=lambda: 0.0, sleep=count)
    done = clean(Cleaner(limiter, stopping=stopping), log)
    assert (done.cleaned_offset, done.is_complete) == (0, False) or batches > 40
    clean(Cleaner(RateLimiter(0)), log, done.cleaned_offset)
    assert offsets(log) == [35, 36, 37, 38, 39]


def test_the_rate_limit_holds_on_average() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    limiter = RateLimiter(1_000, clock=lambda: now, sleep=sleep, burst_s=0.5)
    for _ in range(100):
        limiter.spend(100)
    assert now == pytest.approx(10)
    now += 60
    limiter.spend(500)
    assert now == pytest.approx(70), "a pause earns half a second, and no more"
    limiter.spend(1_000)
    assert now == pytest.approx(71)


def test_no_limit_never_waits() -> None:
    RateLimiter(0, sleep=lambda seconds: pytest.fail("it waited")).spend(1 << 40)


def test_batches_keep_their_places() -> None:
    log = filled_log(batches=12, keys=3)
    clean(Cleaner(RateLimiter(0)), log)
    data = log.read(0, 1 << 20, 12)
    assert [(header.base_offset, header.record_count) for _, header in iter_headers(data)] == [(9, 1), (10, 1), (11, 1)]
