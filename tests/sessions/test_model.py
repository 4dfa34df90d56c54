"""One session against a simple model, on a simulated disk.

Filters come and go, records are published that match or do not, owners take what they like and finish it in any
order, go away, vanish and are taken over; retention removes records; the wall clock jumps; the broker is closed or
loses its power. Always: what is given is wanted, comes in partition order, and is never what was finished and then
checkpointed; what was not finished comes back with its id and state. In the end every record that a filter wanted from
its start on has been finished by somebody.

For longer runs by hand: ``TRUNKLINE_MODEL_EXAMPLES=5000 pytest tests/sessions/test_model.py``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.sessions.world import Machine, settle, stored

from trunkline.broker import Broker
from trunkline.filters import matches
from trunkline.live import Delivery
from trunkline.sessions import Session, SessionOwner, Unfinished

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "50"))

TOPICS = {"t": 2, "u": 1}
PATTERNS = ["a/+", "+/1", "a/#", "b/2", "c"]
KEYS = ["a/1", "a/2", "b/1", "b/2", "c", None]

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Owner(SessionOwner):
    """One connection; what it is told goes to the model."""

    def __init__(self, model: Model, room: int) -> None:
        self.model = model
        self.room = room
        self.session: Session
        self.is_over = False

    def deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        with self.model.noting_failures():
            return self._deliver(delivery, options)

    def _deliver(self, delivery: Delivery, options: list[bytes]) -> bool:
        assert not self.is_over, "nothing is given to who was fenced or has left"
        assert self.room > 0, "nothing is given after a stop"
        self.room -= 1
        partition = delivery.partition
        place = (partition.topic.name, partition.index, delivery.record.offset)
        id = self.model.given(place, options)
        self.session.track(id, partition, delivery.record.offset, id % 3)
        return self.room > 0

    def deliver_again(self, entry: Unfinished, delivery: Delivery | None, options: list[bytes]) -> bool:
        with self.model.noting_failures():
            assert not self.is_over
            self.room -= 1
            self.model.given_again(entry, is_gone=delivery is None)
            return self.room > 0

    def fenced(self, error: Exception) -> None:
        self.is_over = True


class Model:
    """What is known of the session, from outside."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.records: dict[Place, str | None] = {}
        self.trimming: dict[tuple[str, int], int] = {}  # up to where records were, or are being, removed
        self.trimmed: dict[tuple[str, int], int] = {}
        self.filters: dict[tuple[str, str], list[int]] = {}  # -> start by partition
        self.window: dict[int, tuple[Place, int]] = {}  # id -> record, state; what the present owner should know
        self.kept: dict[int, tuple[Place, int]] = {}  # the window, as of the last durable checkpoint
        self.settled: set[Place] = set()  # given, as of the last durable checkpoint
        self.given_now: set[Place] = set()  # given, since the last crash or before that checkpoint
        self.finished: set[Place] = set()
        self.expected: list[int] = []  # ids to be given again, in this order
        self.is_certain = True  # False after a crash: the last checkpoint may be later than we know
        self.ids: dict[int, Place] = {}
        self.last: dict[tuple[str, int], int] = {}
        self.next_id = 0
        self.failures: list[BaseException] = []

    @contextmanager
    def noting_failures(self) -> Iterator[None]:
        """A session logs what its owner raises, and goes on."""
        try:
            yield
        except BaseException as failure:
            self.failures.append(failure)
            raise

    def check(self) -> None:
        if self.failures:
            raise self.failures[0]

    # -- what the session does ---------------------------------------------------------------------

    def given(self, place: Place, options: list[bytes]) -> int:
        topic, _, offset = place
        assert not self.expected, "what was not finished is given first"
        assert place not in self.given_now, "nothing is given twice, but for a crash"
        assert offset > self.last.get(place[:2], -1), "a partition's records come in order"
        wanted = [p for (t, p), starts in self.filters.items() if t == topic and self.wants(place, p, starts)]
        assert sorted(options) == sorted(p.encode() for p in wanted), "it is given for exactly the filters that want it"
        assert wanted
        self.last[place[:2]] = offset
        self.given_now.add(place)
        self.next_id += 1
        self.window[self.next_id] = (place, self.next_id % 3)
        self.ids[self.next_id] = place
        return self.next_id

    def wants(self, place: Place, pattern: str, starts: list[int]) -> bool:
        key = self.records[place]
        return key is not None and matches(pattern, key) and place[2] >= starts[place[1]]

    def given_again(self, entry: Unfinished, *, is_gone: bool) -> None:
        place = (entry.partition.topic, entry.partition.partition, entry.offset)
        assert self.ids[entry.id] == place, "an id stays with its record"
        assert not is_gone or entry.offset < self.trimming.get(place[:2], 0), "it is gone only if retention took it"
        if self.is_certain:
            assert entry.id == self.expected.pop(0), "what was not finished is given again, in its order"
            assert self.window[entry.id] == (place, entry.state)
            return
        while self.expected and self.expected[0] != entry.id and self.expected[0] not in self.kept:
            self.expected.pop(0)  # finished before the crash, and that was stored
        if self.expected and self.expected[0] == entry.id:
            self.expected.pop(0)

    # -- what happens to it ------------------------------------------------------------------------

    def attached(self, session: Session) -> None:
        entries = session.unfinished
        found = {e.id: ((e.partition.topic, e.partition.partition, e.offset), e.state) for e in entries}
        if self.is_certain:
            assert list(found.items()) == list(self.window.items()), "the window is as it was left"
        else:
            assert all(self.ids[id] == place for id, (place, _) in found.items())
            lost = {id for id in self.kept if id not in found and self.kept[id][0] not in self.finished}
            assert not lost, "a checkpointed delivery is lost only by finishing it"
            again = {place for place, _ in found.values()} & self.settled
            assert again <= {place for place, _ in self.kept.values()}, "finished and checkpointed is finished for good"
            self.window = found
            # The last checkpoint may be later than the one we know of: what it has is given, too
            self.given_now = self.settled | {place for place, _ in found.values()}
            self.last = {}
        self.expected = [entry.id for entry in entries]
        self.is_certain = True

    def checkpointed(self, window: dict[int, tuple[Place, int]], given: set[Place]) -> None:
        self.kept = window
        self.settled = given

    def crashed(self) -> None:
        self.is_certain = False


class Life:
    """What happens between one start of the broker and its end."""

    def __init__(self, model: Model, machine: Machine, broker: Broker) -> None:
        self.model = model
        self.random = model.random
        self.machine = machine
        self.broker = broker
        self.owner: Owner | None = None

    async def run(self, steps: int) -> None:
        choices = [*[self.publish] * 4, *[self.finish] * 4, *[self.attach] * 2, self.resume, self.resume, self.detach]
        choices += [self.add_filter, self.add_filter, self.remove_filter, self.checkpoint, self.jump, self.trim]
        choices += [self.set_state, self.settle]
        for _ in range(steps):
            await self.random.choice(choices)()
            self.model.check()

    async def settle(self) -> None:
        await settle(self.broker)

    async def publish(self) -> None:
        topic = self.random.choice(list(TOPICS))
        partition = self.broker.partition(topic, self.random.randrange(TOPICS[topic]))
        first = partition.next_offset
        keys = [self.random.choice(KEYS) for _ in range(self.random.choice((1, 2, 5, 20)))]
        for number, key in enumerate(keys):
            self.model.records[topic, partition.index, first + number] = key
            partition.stage_record(1, None if key is None else key.encode(), b"value")
        await partition.wait_past(first + len(keys) - 1)

    async def attach(self) -> None:
        previous, room = self.owner, self.random.choice((1, 3, 10, 1000))
        owner = self.owner = Owner(self.model, room)
        was_there = previous is not None and not previous.is_over
        owner.session = self.broker.sessions.attach("s", owner)
        assert not was_there or (previous is not None and previous.is_over), "who had it is told"
        self.model.attached(owner.session)
        if self.random.random() < 0.7:
            owner.session.resume()

    async def detach(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.session.detach()
            owner.is_over = True
            if self.random.random() < 0.5:
                await stored(self.broker)

    async def resume(self) -> None:
        if self.owner is not None:
            self.owner.room = self.random.choice((1, 3, 10, 1000))
            self.owner.session.resume()

    async def finish(self) -> None:
        owner = self.owner
        if owner is None:
            return
        mine = [id for id in self.model.window if id not in self.model.expected]
        for id in self.random.sample(mine, min(len(mine), self.random.choice((1, 2, 20)))):
            assert owner.session.finish(id)
            self.model.finished.add(self.model.window.pop(id)[0])

    async def set_state(self) -> None:
        if self.owner is not None and self.model.window:
            id = self.random.choice(list(self.model.window))
            state = self.random.randrange(9)
            assert self.owner.session.set_state(id, state)
            self.model.window[id] = (self.model.window[id][0], state)

    async def checkpoint(self) -> None:
        if self.owner is not None:
            now = dict(self.model.window), set(self.model.given_now)  # more may be given while we wait
            await self.owner.session.checkpoint_durable()
            self.model.checkpointed(*now)

    async def add_filter(self) -> None:
        if self.owner is None:
            return
        topic, pattern = self.random.choice(list(TOPICS)), self.random.choice(PATTERNS)
        is_new = self.owner.session.subscribe(topic, pattern, pattern.encode())
        assert is_new == ((topic, pattern) not in self.model.filters)
        if is_new:
            self.model.filters[topic, pattern] = [p.high_watermark for p in self.broker.topic(topic).partitions]
        await self.checkpoint()  # else a crash may or may not undo it

    async def remove_filter(self) -> None:
        if self.owner is None or not self.model.filters:
            return
        topic, pattern = self.random.choice(list(self.model.filters))
        del self.model.filters[topic, pattern]
        assert self.owner.session.unsubscribe(topic, pattern)
        await self.checkpoint()

    async def jump(self) -> None:
        self.machine.now_ms = max(1, self.machine.now_ms + self.random.randint(-(10**10), 10**10))

    async def trim(self) -> None:
        if self.random.random() < 0.7:
            return
        topic = self.random.choice(list(TOPICS))
        index = self.random.randrange(TOPICS[topic])
        partition = self.broker.partition(topic, index)
        offset = self.random.randint(partition.log_start_offset, partition.high_watermark)
        await settle(self.broker)
        self.model.trimming[topic, index] = max(offset, self.model.trimming.get((topic, index), 0))
        await partition.trim(offset)
        self.model.trimmed[topic, index] = self.model.trimming[topic, index]

    async def finish_everything(self) -> None:
        """The end of the story: somebody takes all there is."""
        await self.attach()
        while True:
            await self.resume()
            await settle(self.broker)
            self.model.check()
            before = len(self.model.window)
            while self.model.window and not self.model.expected:
                await self.finish()
            if not before and self.owner is not None and self.owner.room == 1000:
                return


async def story(random: Random, directory: Path) -> None:
    model, machine = Model(random), Machine(directory, seed=random.randrange(1 << 30))
    machine.disk.nowait_misses = random.choice((0.0, 0.3))
    for number in range(random.randint(1, 4)):
        is_killed = random.random() < 0.6
        async with machine.broker(kill=is_killed) as broker:
            if not number:
                for topic, partitions in TOPICS.items():
                    await broker.create_topic(topic, partitions=partitions, settings={"segment.bytes": "1024"})
            await Life(model, machine, broker).run(random.randint(0, 40))
            if not is_killed:
                await settle(broker)
        if is_killed:
            model.crashed()
        elif model.is_certain:  # else nobody has looked at it since the crash
            model.checkpointed(dict(model.window), set(model.given_now))
    async with machine.broker() as broker:
        life = Life(model, machine, broker)
        await life.finish_everything()
        for (topic, pattern), starts in model.filters.items():
            for place in model.records:
                is_there = place[2] >= model.trimmed.get(place[:2], 0)
                if place[0] == topic and is_there and model.wants(place, pattern, starts):
                    assert place in model.finished, f"{place} was wanted by {pattern} and never given"


@pytest.fixture(scope="module", autouse=True)
def _small_limits() -> Iterator[None]:
    """So that a few dozen records pass every limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trunkline.sessions.references.MAX_REFERENCES", 4)
        patch.setattr("trunkline.sessions.session.FINISHES_BETWEEN_CHECKPOINTS", 5)
        patch.setattr("trunkline.sessions.serving._RECORDS_A_ROUND", 3)
        patch.setattr("trunkline.live.behind.FAR_BEHIND", 8)
        yield


@given(st.integers(0, 1 << 32))  # a seed: threads make a story differ a little each time, so it cannot be shrunk
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
def test_a_session_does_what_the_model_says(seed: int) -> None:
    async def bounded(directory: str) -> None:
        with trio.fail_after(60):
            await story(Random(seed), Path(directory))

    with tempfile.TemporaryDirectory() as directory:
        trio.run(bounded, directory)
