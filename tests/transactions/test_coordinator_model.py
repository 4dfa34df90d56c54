"""The coordinator through any order of requests, writes that become durable or fail, crashes and timeouts.

Three clients, two of which have the same transactional id, so that each is the other's zombie. Everything the
coordinator writes to is in memory: its own topic, that of the groups, two partitions. What is written there becomes
durable at once, or when the test says so, or fails, or is lost in a crash. In the end every transaction was committed
everywhere, in partitions and groups, or nowhere; and what somebody was told of one is so.

Each transaction goes by the first or the second protocol. Of those that ended by the second, requests come again,
late: nothing that was written so is ever taken.

For longer runs by hand: ``TRUNKLINE_MODEL_EXAMPLES=5000 pytest tests/transactions/test_coordinator_model.py``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.groups.world import MemoryDisk, MemoryStateTopic

from trunkline.config import GroupsConfig, TransactionsConfig
from trunkline.errors import CoordinatorLoading, StoreFull, TrunklineError, UnknownTopic
from trunkline.groups import GroupCoordinator, OffsetAndMetadata
from trunkline.log import TopicPartition
from trunkline.pending import AppendReceiver, WaitForAppends
from trunkline.transactions.coordinator import TransactionCoordinator
from trunkline.transactions.in_log import LogTransactions
from trunkline.transactions.state import ProducerIdentity

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "40"))
TIMEOUT_MS = 10_000
PLACES = (TopicPartition("t", 0), TopicPartition("t", 1))
NAMES = ("a", "a", "b")

Entry = tuple[int, int | None, bool]
"""Producer, number of the transaction that it writes for (None: a marker), whether that commits."""


class MemoryPartition:
    """A log of entries, as far as the coordinator knows partitions."""

    def __init__(self, index: int) -> None:
        self.topic = SimpleNamespace(name="t", id="00000000-0000-0000-0000-000000000001")
        self.index = index
        self.name = f"t/{index}"
        self.log_start_offset, self.high_watermark = 0, 1000
        self.readers: dict[str, int] = {}
        self.removed_unread: dict[str, int] = {}
        self.records: list[Entry] = []
        self.staged: list[tuple[Entry, AppendReceiver | None, object]] = []
        self.transactions = LogTransactions()

    def _rebuild(self) -> None:
        self.transactions = LogTransactions()
        for offset, entry in enumerate([*self.records, *(staged[0] for staged in self.staged)]):
            self._note(entry, offset)

    def _note(self, entry: Entry, offset: int) -> None:
        producer_id, number, is_commit = entry
        if number is None:
            self.transactions.ended(producer_id, offset, is_commit=is_commit)
        else:
            self.transactions.wrote(producer_id, offset)

    def write(self, entry: Entry, receiver: AppendReceiver | None = None, token: object = None) -> None:
        self._note(entry, len(self.records) + len(self.staged))
        self.staged.append((entry, receiver, token))

    def stage_marker(
        self, producer_id: int, epoch: int, *, is_commit: bool, receiver: AppendReceiver | None = None
    ) -> None:
        assert self.transactions.is_open(producer_id), "nothing is ended twice"
        self.write((producer_id, None, is_commit), receiver)

    def producer_epoch(self, producer_id: int) -> int:
        return 0

    def commit(self, count: int | None = None) -> None:
        taken, self.staged = self.staged[:count], [] if count is None else self.staged[count:]
        for entry, receiver, token in taken:
            self.records.append(entry)
            if receiver is not None:
                receiver.append_done(token, len(self.records) - 1)

    def refuse(self) -> None:
        taken, self.staged = self.staged, []
        self._rebuild()
        for _, receiver, token in taken:
            if receiver is not None:
                receiver.append_failed(token, StoreFull("no room"))

    def crash(self, durable: int) -> None:
        self.records += [entry for entry, _, _ in self.staged[:durable]]
        self.staged.clear()
        self.readers.clear()
        self._rebuild()

    def outcomes(self) -> dict[int, bool]:
        """By transaction, whether what it wrote here was committed."""
        open_now: dict[int, set[int]] = {}
        found: dict[int, bool] = {}
        for producer_id, number, is_commit in self.records:
            if number is not None:
                open_now.setdefault(producer_id, set()).add(number)
                continue
            for ended in open_now.pop(producer_id, ()):
                assert found.setdefault(ended, is_commit) == is_commit
        assert not open_now, "nothing is open any more"
        return found


class Attempt:
    """A transaction as its client knows it.

    ``asked`` is how the client wants it to end: from then on it asks for that and nothing else, as Kafka's clients do.
    ``told`` is how it ended, once the client has been told. ``is_second``: which protocol it goes by.
    """

    def __init__(self, number: int, is_second: bool) -> None:
        self.number = number
        self.is_second = is_second
        self.group = f"g{number}"
        self.written: set[TopicPartition] = set()
        self.has_offset = False
        self.asked: bool | None = None
        self.told: bool | None = None


class Client:
    """One producer; a request at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity: ProducerIdentity | None = None
        self.attempt: Attempt | None = None
        self.is_second = False  # of its next transaction
        self.past: list[tuple[ProducerIdentity, Attempt]] = []  # what ended by the second protocol
        self.is_busy = False


class World:
    """A coordinator and all it needs."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.now = 0.0
        self.disks = {"__transactions": MemoryDisk(), "__offsets": MemoryDisk()}
        self.partitions = [MemoryPartition(index) for index in range(2)]
        self.is_held = [False] * 4  # whether what is written to each of these waits to be durable
        self.soon: list[Callable[[], None]] = []
        self.clients = [Client(name) for name in NAMES]
        self.attempts: list[Attempt] = []
        self.scopes: set[trio.CancelScope] = set()  # of all that a crash ends
        self._ids = iter(range(1000))
        self.groups: GroupCoordinator
        self.coordinator: TransactionCoordinator

    async def open(self) -> None:
        topic: Any = SimpleNamespace(name="t", id=self.partitions[0].topic.id, partitions=self.partitions)
        topic.partition = lambda index: self.partitions[index]

        def get(name: str) -> Any:
            if name != "t":
                raise UnknownTopic(name, topic=name)
            return topic

        services: Any = SimpleNamespace(
            config=SimpleNamespace(groups=GroupsConfig(), transactions=TransactionsConfig()),
            catalog=SimpleNamespace(
                topics={"t": topic}, get=get, on_change=lambda told: None, on_growth=lambda told: None,
                partitions=lambda: self.partitions,
            ),
            rounds=SimpleNamespace(now_ms=lambda: round(self.now * 1000) + 1, call_soon=self.soon.append),
            spawn=self._spawn,
            state_topic=lambda name: MemoryStateTopic(self.disks[name]),
            rng=random.Random(0),
        )  # fmt: skip
        self.groups = GroupCoordinator(services, clock=lambda: self.now)
        self.coordinator = TransactionCoordinator(services, self.groups, self._new_id, clock=lambda: self.now)
        await self.groups.open()
        await self.coordinator.open()

    async def _new_id(self) -> int:
        return next(self._ids)

    def _spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        if "_run_timers" in function.__qualname__:
            return  # the test says when time has passed
        self.nursery.start_soon(self._live, function, *args)

    async def _live(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run it until the crash."""
        with self._life():
            await function(*args)

    @contextmanager
    def _life(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                yield
            finally:
                self.scopes.discard(scope)

    @property
    def targets(self) -> list[Any]:
        return [*self.disks.values(), *self.partitions]

    async def rest(self) -> None:
        """Until nothing moves any more by itself."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            quick = [each for each, is_held in zip(self.targets, self.is_held, strict=True) if not is_held]
            if not self.soon and not any(each.staged for each in quick):
                return
            for target in quick:
                target.commit()
            soon, self.soon[:] = list(self.soon), []
            for function in soon:
                function()

    async def settle(self) -> None:
        """With disks that work, until everything is done."""
        for _ in range(100):
            await self.rest()
            await trio.sleep(60)  # of a clock that jumps: whoever waits before trying again has tried
            await self.rest()
            if not any(target.staged for target in self.targets):
                return
            for target in self.targets:
                target.commit()
        raise AssertionError("it does not come to rest")

    async def crash(self, durable: tuple[int, ...]) -> None:
        for scope in [*self.scopes]:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        self.soon.clear()
        self.is_held = [False] * 4
        for disk, count in zip(self.disks.values(), durable, strict=False):
            disk.records += [(key, value) for key, value, _, _ in disk.staged[:count]]
            disk.staged.clear()
        for partition, count in zip(self.partitions, durable[2:], strict=True):
            partition.crash(count)
        await self.open()

    # -- clients -----------------------------------------------------------------------------------

    def ask(self, client: Client, request: Callable[[Client], Awaitable[None]]) -> None:
        if not client.is_busy:
            client.is_busy = True
            self.nursery.start_soon(self._ask, client, request)

    async def _ask(self, client: Client, request: Callable[[Client], Awaitable[None]]) -> None:
        with self._life(), suppress(TrunklineError):
            await request(client)
        client.is_busy = False

    async def initialise(self, client: Client) -> None:
        client.attempt = None
        client.identity = None
        client.identity = await self.coordinator.initialise(client.name, TIMEOUT_MS)

    def _attempt(self, client: Client) -> Attempt:
        if client.attempt is None:
            client.attempt = Attempt(len(self.attempts), client.is_second)
            self.attempts.append(client.attempt)
        return client.attempt

    async def write(self, client: Client, place: TopicPartition) -> None:
        attempt, identity = self._attempt(client), client.identity
        if identity is None or attempt.asked is not None:
            return
        await self.coordinator.add_partitions(client.name, identity, [place])
        self.coordinator.check_append(client.name, identity, *place)
        waiting = WaitForAppends()
        self.partitions[place.partition].write((identity.producer_id, attempt.number, False), waiting.one_more())
        await waiting.wait()
        attempt.written.add(place)

    async def stage(self, client: Client) -> None:
        attempt = self._attempt(client)
        if client.identity is None or attempt.asked is not None:
            return
        await self.coordinator.add_group(client.name, client.identity, attempt.group)
        waiting = WaitForAppends()
        offsets = {PLACES[0]: OffsetAndMetadata(7)}
        self.coordinator.stage_offsets(
            client.name, client.identity, attempt.group, offsets, receiver=waiting.one_more()
        )
        await waiting.wait()
        attempt.has_offset = True

    async def end(self, client: Client, is_commit: bool) -> None:
        if client.identity is None or client.attempt is None:
            return
        attempt, was = client.attempt, client.identity
        if attempt.asked is None:
            attempt.asked = is_commit
        bumps = attempt.is_second
        client.identity = await self.coordinator.end(client.name, was, is_commit=attempt.asked, bumps=bumps)
        attempt.told = attempt.asked
        client.attempt = None
        if bumps:
            client.past.append((was, attempt))

    async def come_late(self, client: Client) -> None:
        """A batch, offsets and an end of an earlier transaction, all said in its name, arrive now."""
        for was, attempt in client.past[-2:]:
            with suppress(TrunklineError):
                await self.coordinator.end(client.name, was, is_commit=bool(attempt.asked), bumps=True)
            with suppress(TrunklineError):
                await self.coordinator.add_group(client.name, was, attempt.group)
                raise AssertionError("its offsets were taken")
            with suppress(TrunklineError):
                await self.coordinator.add_partitions(client.name, was, PLACES)
                raise AssertionError("its partitions were taken")
            with suppress(TrunklineError):
                self.coordinator.check_append(client.name, was, *PLACES[0])
                raise AssertionError("its batch was taken")

    async def fill(self, client: Client) -> None:
        """Write everywhere; where it gets to is up to what happens meanwhile."""
        for place in PLACES:
            await self.write(client, place)
        await self.stage(client)

    async def transact(self, client: Client, is_commit: bool, is_second: bool = False) -> None:
        """A whole transaction, unless it has begun before."""
        client.is_second = is_second
        await self.fill(client)
        await self.end(client, is_commit)

    # -- in the end --------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let everything that was left open be aborted, and compare."""
        await self.settle()
        for name in sorted(set(NAMES)):
            client = Client(name)
            self.ask(client, self.initialise)
            await self.settle()
            assert client.identity is not None
        found = [partition.outcomes() for partition in self.partitions]
        for attempt in self.attempts:
            outcomes = {found[place.partition][attempt.number] for place in attempt.written}
            if attempt.has_offset:
                outcomes.add(bool(self.groups.committed(attempt.group)))
            assert len(outcomes) <= 1, f"transaction {attempt.number} is torn"
            if attempt.told is not None and outcomes:
                assert outcomes == {attempt.told}
            assert not self.groups.unstable(attempt.group)


CLIENT = st.integers(0, len(NAMES) - 1)
COUNT = st.integers(0, 3)
TARGET = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("initialise"), CLIENT),
    *[st.tuples(st.just("transact"), CLIENT, st.sampled_from([True, True, False]), st.booleans())] * 6,
    *[st.tuples(st.just("come late"), CLIENT)] * 3,
    st.tuples(st.just("crash in the end"), CLIENT, TARGET, st.tuples(COUNT, COUNT, COUNT, COUNT)),
    st.tuples(st.just("write"), CLIENT, st.sampled_from(PLACES)),
    st.tuples(st.just("stage"), CLIENT),
    st.tuples(st.just("end"), CLIENT, st.sampled_from([True, True, False])),
    *[st.tuples(st.just("hold"), TARGET)] * 2,
    st.tuples(st.just("durable"), TARGET, st.integers(1, 3)),
    st.tuples(st.just("let go"), TARGET),
    st.tuples(st.just("full"), TARGET),
    st.tuples(st.just("crash"), st.tuples(COUNT, COUNT, COUNT, COUNT)),
    st.tuples(st.just("time"), st.sampled_from([1.0, 11.0])),
)


async def run(steps: list[Any]) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.open()
        for client in world.clients[1:]:
            world.ask(client, world.initialise)
            await world.rest()
        for name, *args in steps:
            await step(world, name, args)
            await world.rest()
        await world.finish()
        nursery.cancel_scope.cancel()


async def step(world: World, name: str, args: list[Any]) -> None:
    if name == "initialise":
        world.ask(world.clients[args[0]], world.initialise)
    elif name == "write":
        world.ask(world.clients[args[0]], lambda client: world.write(client, args[1]))
    elif name == "stage":
        world.ask(world.clients[args[0]], world.stage)
    elif name == "end":
        world.ask(world.clients[args[0]], lambda client: world.end(client, args[1]))
    elif name == "transact":
        world.ask(world.clients[args[0]], lambda client: world.transact(client, *args[1:]))
    elif name == "come late":
        world.ask(world.clients[args[0]], world.come_late)
    elif name == "crash in the end":
        client = world.clients[args[0]]
        world.ask(client, world.fill)
        await world.rest()
        world.is_held[args[1]] = True
        world.ask(client, lambda client: world.end(client, True))
        await world.rest()
        await world.crash(args[2])
    elif name in ("hold", "let go"):
        world.is_held[args[0]] = name == "hold"
    elif name == "durable":
        world.targets[args[0]].commit(args[1])
    elif name == "full":
        world.targets[args[0]].refuse()
    elif name == "crash":
        await world.crash(args[0])
    else:
        world.now += args[0]
        world.coordinator.run_timers()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=40, max_size=80))
def test_no_transaction_is_torn(steps: list[Any]) -> None:
    trio.run(run, steps, clock=trio.testing.MockClock(autojump_threshold=0))


def test_requests_before_the_coordinator_is_open_are_told_to_come_again() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            await world.open()
            services: Any = SimpleNamespace(
                config=SimpleNamespace(transactions=TransactionsConfig()), catalog=None, rounds=None, spawn=None,
                state_topic=lambda name: None,
            )  # fmt: skip
            unopened = TransactionCoordinator(services, world.groups, world._new_id)
            for call in (unopened.list, lambda: unopened.describe("a")):
                try:
                    call()
                except CoordinatorLoading:
                    continue
                raise AssertionError("it answered")

    trio.run(main)
