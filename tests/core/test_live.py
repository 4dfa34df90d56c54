"""Live tails: who gets which record, once, in order, however slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trunkline.errors import BrokerClosing, CorruptLog, LocalProtocolError, LogStopped, TrunklineError
from trunkline.filters import key_text, matches
from trunkline.live import Delivery, LiveSubscriber, LiveTail, Watcher
from trunkline.partition import Partition
from trunkline.sparse import wanted_keys
from trunkline.testing.batches import unreadable_batch
from trunkline.testing.scripted_store import ScriptedStore

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


class Subscriber(LiveSubscriber):
    """Takes ``window`` records and then says stop."""

    def __init__(self, window: int = 1 << 30) -> None:
        self.window = window
        self.got: list[int] = []
        self.options: list[list[Any]] = []
        self.lost: list[int] = []
        self.closed: list[TrunklineError | None] = []

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        assert self.window > 0, "nothing is delivered after a stop"
        self.window -= 1
        self.got += range(delivery.record.offset, delivery.record.offset + delivery.count)
        self.options.append(sorted(options))
        return self.window > 0

    def missed(self, partition: Partition, records: int) -> None:
        self.lost.append(records)

    def live_closed(self, error: TrunklineError | None) -> None:
        self.closed.append(error)


class LiveBench:
    """A live tail over a partition bench."""

    def __init__(self, bench: PartitionBench) -> None:
        self.bench = bench
        self.tail = LiveTail(bench.partition, bench.rounds, lambda fn, *args: bench.spawned.append((fn, args)))

    def publish(self, *keys: bytes | None) -> None:
        for key in keys:
            self.bench.stage(b"", key=key)
        self.bench.commit()

    def resume(self, subscriber: Subscriber, window: int = 1 << 30) -> None:
        subscriber.window = window
        self.tail.resume(subscriber)

    def settle(self) -> None:
        """Rounds until none is asked for."""
        while True:
            before = self.bench.wakes
            self.bench.round()
            if self.bench.spawned:
                trio.run(self.bench.run_spawned)
            if self.bench.wakes == before:
                return


@pytest.fixture
def live(bench: PartitionBench) -> LiveBench:
    return LiveBench(bench)


def test_a_subscriber_gets_what_is_committed_after_it_came_and_matches(live: LiveBench) -> None:
    live.publish(b"a/1")
    subscriber = Subscriber()
    live.tail.subscribe(subscriber, "a/+", 0)
    live.publish(b"a/2", b"b/1", b"a/3", None, b"\xff")
    assert subscriber.got == [1, 3]


def test_overlapping_filters_give_the_record_once_with_all_options(live: LiveBench) -> None:
    subscriber = Subscriber()
    for filter, options in (("a", 1), ("+", 2), ("#", 3), ("b", 4)):
        live.tail.subscribe(subscriber, filter, options)
    live.publish(b"a")
    assert (subscriber.got, subscriber.options) == ([0], [[1, 2, 3]])


def test_the_same_filter_again_replaces_its_options(live: LiveBench) -> None:
    subscriber = Subscriber()
    assert live.tail.subscribe(subscriber, "a", 1)
    assert not live.tail.subscribe(subscriber, "a", 2)
    live.publish(b"a")
    assert subscriber.options == [[2]]


def test_a_bad_filter_leaves_nothing_behind(live: LiveBench) -> None:
    with pytest.raises(ValueError, match="#"):
        live.tail.subscribe(Subscriber(), "a/#/b", 0)
    assert live.tail.statistics().subscribers == 0


def test_nothing_comes_before_it_is_committed(live: LiveBench) -> None:
    subscriber = Subscriber()
    live.tail.subscribe(subscriber, "#", 0)
    live.bench.stage(b"", key=b"a")
    live.bench.round()
    assert subscriber.got == []


def test_one_that_said_stop_gets_the_rest_when_it_resumes_and_then_is_live(live: LiveBench) -> None:
    subscriber = Subscriber(window=2)
    live.tail.subscribe(subscriber, "#", 0)
    live.publish(*[b"a"] * 5)
    live.publish(b"a")
    assert subscriber.got == [0, 1]
    assert live.tail.statistics().behind == 1
    live.resume(subscriber, 2)
    live.settle()
    assert subscriber.got == [0, 1, 2, 3]
    live.resume(subscriber)
    live.settle()
    assert live.tail.statistics().behind == 0
    live.publish(b"a")
    assert subscriber.got == [0, 1, 2, 3, 4, 5, 6]


def test_a_slow_subscriber_does_not_hold_up_another(live: LiveBench) -> None:
    slow, quick = Subscriber(window=1), Subscriber()
    live.tail.subscribe(slow, "#", 0)
    live.tail.subscribe(quick, "#", 0)
    live.publish(*[b"a"] * 4)
    assert (slow.got, quick.got) == ([0], [0, 1, 2, 3])


def test_a_filter_added_while_behind_gets_nothing_older_than_itself(live: LiveBench) -> None:
    subscriber = Subscriber(window=1)
    live.tail.subscribe(subscriber, "a", 1)
    live.publish(b"a", b"b", b"a")
    live.tail.subscribe(subscriber, "b", 2)
    live.publish(b"b", b"a")
    live.resume(subscriber)
    live.settle()
    assert subscriber.got == [0, 2, 3, 4]


def test_a_filter_taken_away_while_behind_gives_nothing_more(live: LiveBench) -> None:
    subscriber = Subscriber(window=1)
    live.tail.subscribe(subscriber, "a", 1)
    live.tail.subscribe(subscriber, "b", 2)
    live.publish(b"a", b"b", b"a")
    assert live.tail.unsubscribe(subscriber, "b")
    assert not live.tail.unsubscribe(subscriber, "b")
    live.resume(subscriber)
    live.settle()
    assert subscriber.got == [0, 2]


def test_one_removed_by_another_during_delivery_gets_nothing_more(live: LiveBench) -> None:
    second = Subscriber()

    class Jealous(Subscriber):
        def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
            live.tail.remove(second)
            return super().deliver(delivery, options)

    first = Jealous()
    live.tail.subscribe(first, "#", 0)
    live.tail.subscribe(second, "#", 0)
    live.publish(b"a", b"a")
    assert (first.got, second.got) == ([0, 1], [])


def test_one_that_leaves_while_it_catches_up_gets_nothing_more(live: LiveBench) -> None:
    class Leaving(Subscriber):
        def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
            if len(self.got) == 2:
                live.tail.unsubscribe(self, "#")
            return super().deliver(delivery, options)

    subscriber = Leaving(window=1)
    live.tail.subscribe(subscriber, "#", 0)
    live.publish(*[b"a"] * 9)
    live.resume(subscriber)
    live.settle()
    assert subscriber.got == [0, 1, 2]
    assert live.tail.statistics().subscribers == 0


def test_what_retention_removed_first_is_reported_and_skipped(live: LiveBench) -> None:
    subscriber = Subscriber(window=1)
    live.tail.subscribe(subscriber, "#", 0)
    for _ in range(5):
        live.publish(b"a")
    live.bench.partition.log.trim(3)
    live.resume(subscriber)
    live.settle()
    assert (subscriber.got, subscriber.lost) == ([0, 3, 4], [2])


@pytest.mark.parametrize("window", [1, 1 << 30], ids=["behind", "live"])
def test_a_batch_of_nonsense_does_not_cost_its_neighbours(live: LiveBench, window: int) -> None:
    subscriber = Subscriber(window)
    live.tail.subscribe(subscriber, "#", 0)
    live.publish(b"a", b"a")
    live.bench.partition.stage_batch(unreadable_batch())
    live.publish(b"a")
    live.resume(subscriber)
    live.settle()
    live.publish(b"a")
    assert subscriber.got == [0, 1, 3, 4]


@pytest.mark.parametrize("error", [CorruptLog("damaged"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("reads_wait", [False, True])
def test_one_that_cannot_be_served_from_the_log_is_told_and_the_others_go_on(
    live: LiveBench, error: Exception, reads_wait: bool
) -> None:
    behind, other = Subscriber(window=1), Subscriber()
    live.tail.subscribe(behind, "#", 0)
    live.tail.subscribe(other, "#", 0)
    live.publish(b"a", b"a")
    live.bench.store.reads_wait = reads_wait
    live.bench.store.fail_next("read" if reads_wait else "read_nowait", error)
    live.resume(behind)
    live.settle()
    live.publish(b"a")
    assert [type(closed) for closed in behind.closed] == [CorruptLog]
    assert (behind.got, other.got) == ([0], [0, 1, 2])


@pytest.mark.parametrize("window", [1, 1 << 30], ids=["behind", "live"])
def test_all_are_told_when_the_log_stops(live: LiveBench, window: int) -> None:
    subscriber = Subscriber(window)
    live.tail.subscribe(subscriber, "#", 0)
    live.publish(b"a", b"a")
    live.bench.store.fail_next("append", OSError(28, "No space left on device"))
    live.publish(b"a")
    live.settle()
    assert [type(closed) for closed in subscriber.closed] == [LogStopped]


def test_a_read_that_comes_back_after_the_partition_closed_is_dropped(live: LiveBench) -> None:
    subscriber = Subscriber(window=1)
    live.tail.subscribe(subscriber, "#", 0)
    live.publish(b"a", b"a")
    live.bench.store.reads_wait = True
    live.resume(subscriber)
    live.bench.round()  # the read is with a worker
    live.bench.partition.refuse(BrokerClosing("closing"))
    live.bench.partition.close_listeners(None)
    live.settle()
    assert (subscriber.got, subscriber.closed) == ([0], [None])


# -- the model -----------------------------------------------------------------------------------------

FILTERS = ["a", "b", "a/+", "+", "#", "a/x"]
keys = st.sampled_from([b"a", b"b", b"a/x", b"a/y", b"$a", b"\xff", None])
who = st.integers(0, 2)
step = st.one_of(
    st.tuples(st.just("publish"), st.lists(keys, min_size=1, max_size=6)),
    st.tuples(st.just("publish"), st.lists(keys, min_size=1, max_size=6)),
    st.tuples(st.just("subscribe"), st.tuples(who, st.sampled_from(FILTERS))),
    st.tuples(st.just("unsubscribe"), st.tuples(who, st.sampled_from(FILTERS))),
    st.tuples(st.just("remove"), who),
    st.tuples(st.just("resume"), st.tuples(who, st.integers(1, 4))),
    st.tuples(st.just("round"), st.none()),
)


class Checked(Subscriber):
    """Knows its filters and where each began, and checks every delivery against them."""

    def __init__(self) -> None:
        super().__init__(window=2)
        self.filters: dict[str, int] = {}

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        offset = delivery.record.offset
        assert not self.got or offset > self.got[-1], "in order, no double"
        wanted = [name for name, start in self.filters.items() if offset >= start and matches(name, delivery.text)]
        assert sorted(options) == sorted(wanted) != []
        return super().deliver(delivery, options)


class Model:
    def __init__(self, bench: PartitionBench) -> None:
        self.live = LiveBench(bench)
        self.keys: list[bytes | None] = []
        self.subscribers = [Checked() for _ in range(3)]

    def publish(self, keys: list[bytes | None]) -> None:
        self.keys += keys
        self.live.publish(*keys)

    def subscribe(self, given: tuple[int, str]) -> None:
        subscriber, name = self.subscribers[given[0]], given[1]
        is_new = self.live.tail.subscribe(subscriber, name, name)
        assert is_new == (name not in subscriber.filters)
        subscriber.filters.setdefault(name, len(self.keys))

    def unsubscribe(self, given: tuple[int, str]) -> None:
        subscriber, name = self.subscribers[given[0]], given[1]
        assert self.live.tail.unsubscribe(subscriber, name) == (name in subscriber.filters)
        self._forget(subscriber, name)

    def remove(self, number: int) -> None:
        subscriber = self.subscribers[number]
        self.live.tail.remove(subscriber)
        for name in list(subscriber.filters):
            self._forget(subscriber, name)

    def _forget(self, subscriber: Checked, name: str) -> None:
        subscriber.filters.pop(name, None)
        if not subscriber.filters:  # a door that lets go of its last filter starts afresh
            subscriber.window = max(subscriber.window, 2)

    def resume(self, given: tuple[int, int]) -> None:
        self.live.resume(self.subscribers[given[0]], given[1])

    def round(self, _: None) -> None:
        self.live.bench.round()
        trio.run(self.live.bench.run_spawned)

    def check(self) -> None:
        """With endless windows everybody has, in the end, everything since each filter it still has."""
        for subscriber in self.subscribers:
            self.live.resume(subscriber)
        self.live.settle()
        for subscriber in self.subscribers:
            for name, start in subscriber.filters.items():
                texts = ["" if key is None else key.decode(errors="replace") for key in self.keys]
                due = {offset for offset, text in enumerate(texts) if offset >= start and matches(name, text)}
                due -= {offset for offset, key in enumerate(self.keys) if key in (None, b"\xff")}
                assert due <= set(subscriber.got), f"{name} from {start}: a gap"


def run_model(
    make_bench: Callable[[ScriptedStore], PartitionBench], steps: list[tuple[str, Any]], reads_wait: bool
) -> None:
    store = ScriptedStore(reads_wait=reads_wait)
    model = Model(make_bench(store))
    for name, argument in steps:
        getattr(model, name)(argument)
    model.check()
    assert store.violations == []


@given(steps=st.lists(step, max_size=30))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
def test_nobody_misses_or_repeats_anything_whatever_happens(
    make_bench_on: Callable[[ScriptedStore], PartitionBench], steps: list[tuple[str, Any]]
) -> None:
    run_model(make_bench_on, steps, reads_wait=False)


@given(steps=st.lists(step, max_size=20))
@settings(max_examples=25, deadline=None)
def test_nor_with_reads_that_wait(
    make_bench_on: Callable[[ScriptedStore], PartitionBench], steps: list[tuple[str, Any]]
) -> None:
    run_model(make_bench_on, steps, reads_wait=True)


# -- starting in the past --------------------------------------------------------------------------


def test_a_subscriber_may_start_in_the_past(live: LiveBench) -> None:
    live.publish(b"a", b"a")
    live.publish(b"b", b"a")
    subscriber = Subscriber()
    live.tail.subscribe(subscriber, "a", "x", start=1)
    live.publish(b"a")
    live.settle()
    live.publish(b"a")
    assert subscriber.got == [1, 3, 4, 5]


def test_each_filter_has_its_own_start(live: LiveBench) -> None:
    live.publish(b"a", b"b", b"a", b"b", b"c")
    subscriber = Subscriber()
    live.tail.subscribe(subscriber, "c", "c")
    live.tail.subscribe(subscriber, "a", "a", start=2)
    live.tail.subscribe(subscriber, "b", "b", start=0)
    live.settle()
    assert (subscriber.got, subscriber.options) == ([1, 2, 3], [["b"], ["a"], ["b"]])
    live.publish(b"c")
    assert subscriber.got[-1] == 5


def test_a_subscriber_that_is_served_cannot_go_back(live: LiveBench) -> None:
    live.publish(b"a")
    subscriber = Subscriber()
    live.tail.subscribe(subscriber, "a", "x")
    live.publish(b"a")
    with pytest.raises(LocalProtocolError, match="cannot start at 0"):
        live.tail.subscribe(subscriber, "b", "y", start=0)


def test_filters_of_both_syntaxes_live_and_behind(live: LiveBench) -> None:
    live.publish(b"a.b", b"a/b", None)
    words, levels = Subscriber(), Subscriber()
    live.tail.subscribe(words, "#", "x", start=0, syntax="amqp")
    live.tail.subscribe(levels, "a/+", "y", start=0)
    live.settle()
    live.publish(b"a.b", b"a/b", None)
    assert words.got == [0, 1, 2, 3, 4, 5]
    assert levels.got == [1, 4]
    assert live.tail.unsubscribe(words, "#", syntax="amqp")
    assert live.tail.statistics().filters == 1


class Watching(Watcher):
    def __init__(self) -> None:
        self.got: list[int] = []

    def deliver(self, delivery: Delivery, options: list[Any]) -> bool:
        self.got.append(delivery.record.offset)
        return True


def test_a_watcher_is_told_of_what_is_committed_and_the_tail_keeps_nothing_else_of_it(live: LiveBench) -> None:
    live.publish(b"a")
    watcher, other = Watching(), Subscriber()
    live.tail.watch(watcher, "+")
    live.tail.watch(watcher, "+")
    live.tail.subscribe(other, "a", "x")
    live.publish(b"a", b"b", b"a/b")
    statistics = live.tail.statistics()
    live.tail.unwatch(watcher, "+")
    live.tail.unwatch(watcher, "+")
    live.publish(b"a")

    assert (watcher.got, other.got) == ([1, 2], [1, 4])
    assert (statistics.subscribers, statistics.filters) == (1, 2)


class Failing(Subscriber):
    """Takes records, and fails at everything else it is told."""

    def missed(self, partition: Partition, records: int) -> None:
        raise RuntimeError("a bug")

    def live_closed(self, error: TrunklineError | None) -> None:
        raise RuntimeError("a bug")


def test_a_subscriber_that_fails_at_the_end_keeps_nobody_else_from_being_told(
    live: LiveBench, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = Subscriber()
    live.tail.subscribe(Failing(), "a", "x")
    live.tail.subscribe(subscriber, "a", "x")
    live.bench.partition.close_listeners(None)
    assert subscriber.closed == [None]
    assert "failed when it was told of the end" in caplog.text


def test_a_subscriber_that_fails_at_a_gap_goes_on_behind_it(live: LiveBench, caplog: pytest.LogCaptureFixture) -> None:
    live.publish(b"a")
    live.publish(b"a")
    subscriber = Failing()
    live.tail.subscribe(subscriber, "a", "x", start=0)
    live.bench.partition.log.trim(1)
    live.settle()
    assert subscriber.got == [1]
    assert "failed when it was told of a gap" in caplog.text


class TestFarBehind:
    """Who is far behind and wants little: what it wants is looked up by key."""

    @pytest.fixture(autouse=True)
    def _near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trunkline.live.behind.FAR_BEHIND", 10)

    def test_it_is_given_what_it_wants_and_reads_little_else(self, live: LiveBench, store: ScriptedStore) -> None:
        for number in range(300):
            live.publish(b"rare/1" if number in (3, 150, 299) else b"common/%d" % (number % 7))
        subscriber = Subscriber()

        live.tail.subscribe(subscriber, "rare/+", None, start=0)
        live.settle()

        assert subscriber.got == [3, 150, 299]
        assert store.count("find_keys") == 1
        assert store.count("read_nowait") == 3
        live.publish(b"rare/2")
        assert subscriber.got[-1] == 300, "it is live"

    @pytest.mark.parametrize("pattern", ["common/+", "+/#"])
    def test_where_much_is_wanted_the_log_is_read(self, live: LiveBench, store: ScriptedStore, pattern: str) -> None:
        for number in range(100):
            live.publish(b"common/%d" % (number % 7))
        subscriber = Subscriber()

        live.tail.subscribe(subscriber, pattern, None, start=0)
        live.settle()

        assert subscriber.got == [*range(100)]
        assert store.count("find_keys") <= 8

    @pytest.mark.parametrize(("pattern", "syntax"), [("#", "mqtt"), ("#", "amqp"), ("#.#", "amqp"), ("", "amqp")])
    def test_a_filter_for_everything_looks_for_nothing(
        self, live: LiveBench, store: ScriptedStore, pattern: str, syntax: Any
    ) -> None:
        for number in range(30):
            live.publish(b"" if number % 2 else None)
        subscriber = Subscriber()

        live.tail.subscribe(subscriber, pattern, None, start=0, syntax=syntax)
        live.settle()

        assert subscriber.got == [n for n in range(30) if syntax == "amqp" or n % 2]
        assert store.count("find_keys") == 0

    @given(st.data())
    @settings(max_examples=40, deadline=None)
    def test_it_gets_what_a_plain_reader_would(
        self, make_bench_on: Callable[[ScriptedStore], PartitionBench], data: st.DataObject
    ) -> None:
        store = ScriptedStore(reads_wait=data.draw(st.booleans()))
        live = LiveBench(make_bench_on(store))
        patterns = ["a", "a/+", "+/b", "b/#", "+"]
        keys = [None, b"a", b"a/b", b"b", b"b/c/d", b"$x", b"\xff"]
        live.publish(*data.draw(st.lists(st.sampled_from(keys), min_size=20, max_size=80)))
        subscriber, wanted = Subscriber(window=data.draw(st.integers(1, 9))), []
        chosen = data.draw(st.lists(st.sampled_from(patterns), min_size=1, unique=True))
        start = data.draw(st.integers(0, 10))
        for pattern in chosen:
            live.tail.subscribe(subscriber, pattern, pattern, start=start)
        steps = st.tuples(st.lists(st.sampled_from(keys), max_size=15), st.integers(1, 30))
        for published, window in data.draw(st.lists(steps, max_size=8)):
            live.settle()
            live.publish(*published)
            if not subscriber.window:
                live.resume(subscriber, window)
        live.resume(subscriber)
        live.settle()

        for record in live.bench.stored:
            text = key_text(record.key, "mqtt")
            if record.offset >= start and text is not None and any(matches(pattern, text) for pattern in chosen):
                wanted.append(record.offset)
        assert subscriber.got == wanted
        assert live.tail.position(subscriber) == live.bench.partition.high_watermark


PATTERNS = [("a", "mqtt"), ("a/+", "mqtt"), ("+/b", "mqtt"), ("a/b/#", "mqtt"), ("#", "mqtt"), ("b", "mqtt")]
PATTERNS += [("a", "amqp"), ("a.#", "amqp"), ("*.b", "amqp"), ("#.c", "amqp"), ("a.*", "amqp"), ("a/b", "amqp")]


@given(st.lists(st.sampled_from(PATTERNS), min_size=1))
def test_keys_are_wanted_as_filters_match(filters: list[tuple[str, Any]]) -> None:
    wants = wanted_keys(filters)

    for key in (b"a", b"a/b", b"a/b/c", b"ab", b"a.b", b"b", b"a.b.c", b"\xff", b""):
        texts = ((pattern, key_text(key, syntax), syntax) for pattern, syntax in filters)
        assert wants(key) == any(text is not None and matches(p, text, syntax) for p, text, syntax in texts)
