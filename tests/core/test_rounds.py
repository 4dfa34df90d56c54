"""Rounds, without a reactor: the test counts how often one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline.errors import TrunklineError

if TYPE_CHECKING:
    from tests.core.conftest import PartitionBench


def test_many_requests_wake_the_reactor_once(bench: PartitionBench) -> None:
    for _ in range(3):
        bench.rounds.request()
    assert bench.wakes == 1


def test_a_request_made_in_a_round_is_served_by_it(bench: PartitionBench) -> None:
    bench.rounds.begin()
    bench.stage(b"a")
    bench.rounds.finish()
    assert bench.wakes == 0
    assert bench.store.count("append") == 1


def test_after_a_round_requests_wake_again(bench: PartitionBench) -> None:
    bench.round()
    bench.stage(b"a")
    assert bench.wakes == 1


def test_what_is_called_soon_comes_in_the_next_round_and_in_order(bench: PartitionBench) -> None:
    called: list[str] = []
    bench.rounds.call_soon(lambda: called.append("first"))
    bench.rounds.call_soon(lambda: called.append("second"))
    assert called == []
    bench.round()
    assert called == ["first", "second"]


def test_what_asks_for_itself_again_gets_another_round_not_the_same(bench: PartitionBench) -> None:
    called: list[int] = []

    def again() -> None:
        called.append(len(called))
        bench.rounds.call_soon(again)

    bench.rounds.call_soon(again)
    bench.round()
    assert called == [0]
    assert bench.wakes == 2  # the second so that the next round comes


def test_many_appends_of_a_round_are_one_write(bench: PartitionBench) -> None:
    for number in range(100):
        bench.stage(b"%d" % number)
    bench.commit()
    assert bench.store.count("append") == 1
    assert len(bench.stored) == 100


def test_rounds_during_a_flush_share_the_next_one(bench: PartitionBench) -> None:
    bench.stage(b"a")
    bench.round()
    for value in (b"b", b"c", b"d"):
        bench.stage(value)
        bench.round()
    bench.flush()
    bench.commit()
    assert bench.store.count("flush") == 2
    assert bench.partition.high_watermark == 4


def test_saturated_above_the_limit_until_it_is_durable(bench: PartitionBench) -> None:
    bench.stage(bytes(2000))
    bench.round()
    assert bench.rounds.is_saturated
    bench.flush()
    bench.round()
    assert not bench.rounds.is_saturated
    assert bench.rounds.unacknowledged_bytes == 0


def test_idle_means_nothing_staged_written_or_waiting_for_the_disk(bench: PartitionBench) -> None:
    idle = [bench.rounds.is_idle]
    bench.stage(b"a")
    idle.append(bench.rounds.is_idle)
    bench.round()
    idle.append(bench.rounds.is_idle)
    bench.flush()
    idle.append(bench.rounds.is_idle)
    bench.round()
    idle.append(bench.rounds.is_idle)
    assert idle == [True, False, False, False, True]


def test_an_acknowledgement_may_stage_more(bench: PartitionBench) -> None:
    class Chain:
        def append_done(self, token: object, offset: int) -> None:
            bench.stage(b"more", "second")

        def append_failed(self, token: object, error: TrunklineError) -> None:
            raise error

    bench.partition.stage_record(1, None, b"first", receiver=Chain())
    bench.commit()
    bench.flush()
    bench.round()
    assert bench.receipts.done == [("second", 1)]


def test_what_is_called_last_comes_after_the_acknowledgements_of_the_round(bench: PartitionBench) -> None:
    called: list[str] = []

    class Receiver:
        def append_done(self, token: object, offset: int) -> None:
            called.append("acknowledged")
            if token is None:
                bench.rounds.call_last(lambda: called.append("last"))

        def append_failed(self, token: object, error: TrunklineError) -> None:
            raise error

    for token in (None, 1):
        bench.partition.stage_record(1, None, b"a", receiver=Receiver(), token=token)
    bench.round()
    bench.flush()
    bench.round()
    assert called == ["acknowledged", "acknowledged", "last"]
