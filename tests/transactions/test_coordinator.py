"""Transactions of a running broker: timeouts, restarts between the steps of an end, what is forgotten."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig, TransactionsConfig
from trunkline.errors import (
    InvalidTransactionState,
    Overloaded,
    ProducerFenced,
    StoreFull,
    UnknownTransactionalId,
)
from trunkline.groups import OffsetAndMetadata
from trunkline.log import TopicPartition
from trunkline.pending import WaitForAppends
from trunkline.plugins import PluginHost
from trunkline.records import encode
from trunkline.testing.scripted_store import ScriptedStore
from trunkline.transactions.coordinator import TransactionCoordinator
from trunkline.transactions.state import MAX_EPOCH, ProducerIdentity, TransactionState, initialise

pytestmark = pytest.mark.trio

PLACE = TopicPartition("t", 0)
TIMEOUT_MS = 60_000
WAIT_S = 20.0

Open = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def open_again(store: ScriptedStore, tmp_path: Path) -> Open:
    """Opens a broker on the same store as before."""

    def opened(transactions: TransactionsConfig | None = None) -> AbstractAsyncContextManager[Broker]:
        host = PluginHost()
        host.add("scripted", store)
        config = BrokerConfig(listen={}, plugins=[], transactions=transactions or TransactionsConfig())
        return open_broker(tmp_path, store="scripted", plugins=host, config=config)

    return opened


async def until(condition: Callable[[], bool]) -> None:
    """By the real clock, as trio's may stand still."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        await trio.lowlevel.checkpoint()


async def write(
    broker: Broker, producer: ProducerIdentity, value: bytes, *, name: str = "mine", first: int = 0
) -> None:
    batch = encode(
        [(1, None, value, ())],
        producer_id=producer.producer_id,
        producer_epoch=producer.epoch,
        base_sequence=first,
        is_transactional=True,
    )
    waiting = WaitForAppends()
    broker.transactions.check_append(name, producer, *PLACE)
    broker.partition(*PLACE).stage_batch(batch, waiting.one_more(), in_transaction=True)
    await waiting.wait()


async def begin(broker: Broker, value: bytes = b"a", *, name: str = "mine") -> ProducerIdentity:
    """A transaction with one record and an offset."""
    await broker.ensure_topic("t")
    producer = await broker.transactions.initialise(name, TIMEOUT_MS)
    await broker.transactions.add_partitions(name, producer, [PLACE])
    await write(broker, producer, value, name=name)
    await broker.transactions.add_group(name, producer, "g")
    waiting = WaitForAppends()
    offsets = {PLACE: OffsetAndMetadata(1)}
    broker.transactions.stage_offsets(name, producer, "g", offsets, receiver=waiting.one_more())
    await waiting.wait()
    return producer


async def visible(broker: Broker) -> list[bytes | None]:
    return [record.value async for record in broker.read("t", follow=False)]


def state(broker: Broker, name: str = "mine") -> TransactionState:
    return broker.transactions.describe(name).state


# -- time ----------------------------------------------------------------------------------------------


async def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(
    open_again: Open, mock_clock: trio.testing.MockClock
) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        mock_clock.jump(59)
        await trio.testing.wait_all_tasks_blocked()
        assert state(broker) is TransactionState.ONGOING
        mock_clock.jump(2)
        await until(lambda: state(broker) is TransactionState.COMPLETE_ABORT)
        assert await visible(broker) == []
        assert broker.groups.committed("g") == {}
        with pytest.raises(ProducerFenced):
            await broker.transactions.end("mine", producer, is_commit=True)
        with pytest.raises(ProducerFenced):
            await write(broker, producer, b"late", first=1)
        statistics = broker.statistics().transactions
        assert (statistics.aborted, statistics.timed_out, statistics.ongoing) == (1, 1, 0)


async def test_each_transaction_has_its_own_time(open_again: Open, mock_clock: trio.testing.MockClock) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        mock_clock.jump(40)
        await broker.transactions.end("mine", producer, is_commit=True)
        await broker.transactions.add_partitions("mine", producer, [PLACE])
        mock_clock.jump(40)
        await trio.testing.wait_all_tasks_blocked()
        assert state(broker) is TransactionState.ONGOING
        mock_clock.jump(21)
        await until(lambda: state(broker) is TransactionState.COMPLETE_ABORT)


async def test_transactional_ids_are_forgotten_when_they_have_long_been_idle(
    open_again: Open, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    config = BrokerConfig(listen={}, plugins=[], transactions=TransactionsConfig(id_expiration_s=7200))
    now_ms = [1_000_000_000]
    async with open_broker(tmp_path / "other", store="memory", config=config, now_ms=lambda: now_ms[0]) as broker:
        await begin(broker, name="busy")
        await broker.transactions.initialise("idle", TIMEOUT_MS)
        for hours in (1, 2):
            now_ms[0] += 3_600_000 * hours
            mock_clock.jump(50)  # for the sweep, not for the timeout of what is ongoing
            broker.transactions._sweep()
        assert [each.transactional_id for each in broker.transactions.list()] == ["busy"]


# -- restarts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_commit", [True, False])
async def test_what_was_decided_is_completed_at_the_next_start(
    open_again: Open, store: ScriptedStore, is_commit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        partition = broker.partition(*PLACE)
        partition.stop(OSError("the disk has failed"))  # so the marker cannot be written
        await broker.transactions.end("mine", producer, is_commit=is_commit)
        prepared = TransactionState.PREPARE_COMMIT if is_commit else TransactionState.PREPARE_ABORT
        assert state(broker) is prepared, "it is decided, and answered so"
        assert broker.transactions.statistics().ending == 1
    async with open_again() as broker:
        await until(lambda: not state(broker).is_prepared)
        assert await visible(broker) == ([b"a"] if is_commit else [])
        assert {offset.offset for offset in broker.groups.committed("g").values()} == ({1} if is_commit else set())
        assert not broker.groups.unstable("g")
        await broker.transactions.end("mine", producer, is_commit=is_commit)
        with pytest.raises(InvalidTransactionState):
            await broker.transactions.end("mine", producer, is_commit=not is_commit)


@pytest.mark.parametrize("epoch", [4, MAX_EPOCH])
async def test_an_end_with_a_new_epoch_is_completed_at_the_next_start(
    open_again: Open, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    monkeypatch.setattr(
        "trunkline.transactions.coordinator.initialise",
        lambda *args, **rest: msgspec.structs.replace(initialise(*args, **rest), epoch=epoch),
    )
    async with open_again() as broker:
        producer = await begin(broker)
        assert producer.epoch == epoch
        broker.partition(*PLACE).stop(OSError("the disk has failed"))  # so the marker cannot be written
        following = await broker.transactions.end("mine", producer, is_commit=True, bumps=True)
        assert state(broker) is TransactionState.PREPARE_COMMIT
    async with open_again() as broker:
        await until(lambda: not state(broker).is_prepared)
        assert broker.transactions.describe("mine").producer == following
        assert await broker.transactions.end("mine", producer, is_commit=True, bumps=True) == following
        if epoch < MAX_EPOCH:
            assert following == ProducerIdentity(producer.producer_id, epoch + 1)
        else:
            assert (following.producer_id > producer.producer_id, following.epoch) == (True, 0)
        with pytest.raises((ProducerFenced, UnknownTransactionalId)):
            await write(broker, producer, b"late", first=1)
        await broker.transactions.add_partitions("mine", following, [PLACE])
        await write(broker, following, b"b")
        await broker.transactions.end("mine", following, is_commit=True, bumps=True)
        assert await visible(broker) == [b"a", b"b"]


async def test_what_was_not_decided_goes_on_after_a_restart(open_again: Open) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
    async with open_again() as broker:
        assert await visible(broker) == []
        await write(broker, producer, b"b", first=1)
        await broker.transactions.end("mine", producer, is_commit=True)
        assert await visible(broker) == [b"a", b"b"]


async def test_what_is_ongoing_at_a_restart_is_aborted_when_its_time_is_over(
    open_again: Open, mock_clock: trio.testing.MockClock
) -> None:
    async with open_again() as broker:
        await begin(broker)
    async with open_again() as broker:
        assert state(broker) is TransactionState.ONGOING
        mock_clock.jump(61)
        await until(lambda: state(broker) is TransactionState.COMPLETE_ABORT)
        assert await visible(broker) == []


async def test_a_transaction_that_nobody_remembers_is_aborted_at_the_start(
    open_again: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_again() as broker:
        await broker.create_topic("t")
        batch = encode([(1, None, b"a", ())], producer_id=99, producer_epoch=3, base_sequence=0, is_transactional=True)
        waiting = WaitForAppends()
        broker.partition(*PLACE).stage_batch(batch, waiting.one_more(), in_transaction=True)
        await waiting.wait()
        await broker.publish("t", b"behind")
        assert await visible(broker) == []
    with caplog.at_level(logging.WARNING, "trunkline.transactions"):
        async with open_again() as broker:
            await until(lambda: not broker.partition(*PLACE).is_held_back)
            assert await visible(broker) == [b"behind"]
    assert "nobody remembers" in caplog.text


# -- failing writes ------------------------------------------------------------------------------------


async def test_a_commit_that_cannot_be_decided_leaves_the_transaction_as_it_was(
    open_again: Open, store: ScriptedStore
) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        store.fail_next("append", StoreFull("full"))
        with pytest.raises(StoreFull):
            await broker.transactions.end("mine", producer, is_commit=True)
        await write(broker, producer, b"b", first=1)
        await broker.transactions.end("mine", producer, is_commit=False)
        assert await visible(broker) == []


async def test_a_marker_that_finds_no_room_is_written_later(
    open_again: Open, store: ScriptedStore, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        tell = TransactionCoordinator._tell
        failures = iter([StoreFull("full")])

        async def tell_or_fail(self: TransactionCoordinator, transaction: object) -> None:
            for failure in failures:
                raise failure
            await tell(self, transaction)  # type: ignore[arg-type]  # it is one

        monkeypatch.setattr(TransactionCoordinator, "_tell", tell_or_fail)
        await broker.transactions.end("mine", producer, is_commit=True)
        assert state(broker) is TransactionState.PREPARE_COMMIT

        def is_complete() -> bool:
            mock_clock.jump(0.1)
            return state(broker) is TransactionState.COMPLETE_COMMIT

        await until(is_complete)
        assert await visible(broker) == [b"a"]


# -- people --------------------------------------------------------------------------------------------


async def test_what_is_open_can_be_aborted_by_hand(open_again: Open) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        assert await broker.transactions.abort("mine")
        assert not await broker.transactions.abort("mine")
        with pytest.raises(ProducerFenced):
            await broker.transactions.end("mine", producer, is_commit=True)
        with pytest.raises(UnknownTransactionalId):
            await broker.transactions.abort("other")
        assert await visible(broker) == []


async def test_the_transactional_ids_of_a_broker_are_bounded(open_again: Open) -> None:
    async with open_again(transactions=TransactionsConfig(max_ids=1)) as broker:
        await broker.transactions.initialise("first", TIMEOUT_MS)
        with pytest.raises(Overloaded):
            await broker.transactions.initialise("second", TIMEOUT_MS)
        await broker.transactions.initialise("first", TIMEOUT_MS)


async def test_two_who_initialise_at_once_are_two(open_again: Open) -> None:
    async with open_again() as broker:
        found: list[ProducerIdentity] = []

        async def initialise() -> None:
            found.append(await broker.transactions.initialise("mine", TIMEOUT_MS))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(initialise)
            nursery.start_soon(initialise)
        assert {each.epoch for each in found} == {0, 1}
        assert len({each.producer_id for each in found}) == 1


async def test_deleting_a_topic_does_not_keep_a_transaction_from_ending(open_again: Open) -> None:
    async with open_again() as broker:
        producer = await begin(broker)
        await broker.delete_topic("t")
        await broker.create_topic("t")
        await broker.transactions.end("mine", producer, is_commit=True)
        assert state(broker) is TransactionState.COMPLETE_COMMIT
        assert broker.groups.committed("g") == {}, "its offset meant another topic"
