"""Several queues on the same topics, through restarts and power failures, beside a model of what each must hold.

What is special here: positions are noted all the time, for all queues of a source together and by each for itself, as a
source of many gigabytes would have it. So a crash finds notes of every age beside queues that were made, altered, reset
or deleted after them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trunkline import Broker, open_broker
from trunkline.errors import TrunklineError
from trunkline.filters import RecordFilter
from trunkline.queues import Block, Queue, QueueConfig, QueueConsumer, QueueSource, unwritten
from trunkline.queues.config import Start
from trunkline.testing import SimulatedDisk

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "25"))

TOPICS = ("one", "two", "three")  # the first two are the homes of queues, too
QUEUES = ("one", "two", "other")
STARTS: tuple[Start, Start] = ("earliest", "latest")
PATTERNS = ("#", "a", "b", "*")
KEYS = (b"a", b"b", b"c.d")

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["publish"] * 8,
                *["settle", "settle", "flush", "alter", "alter", "reset", "remake", "race", "retopic", "many"],
                *["restart", "crash", "crash", "look"],
            ]
        ),
        st.integers(0, 100),
        st.integers(0, 100),
    ),
    min_size=25,
    max_size=60,
)


class Taker(QueueConsumer):
    """Settles all that it is given."""

    def __init__(self, queue: Queue, limit: int) -> None:
        self.values: list[bytes] = []
        self.left = limit
        self.hold = queue.consume(self, prefetch=1)

    def deliver(self, blocks: list[Block]) -> None:
        for block in blocks:
            if self.left:
                self.left -= 1
                self.values += [record.value or b"" for record in block.records()]
                self.hold.settle([(block.sequence, block.sequence + block.count)])

    def cancelled(self, error: TrunklineError) -> None:
        pass


class Model:
    """What topics hold, what queues want, and what each queue must hold, or may hold after a crash."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.disk = SimulatedDisk(seed)
        self.topics: dict[str, list[tuple[bytes, bytes]]] = {}
        self.sources: dict[str, dict[str, str]] = {}  # of each queue: topic -> pattern
        self.must: dict[str, dict[bytes, None]] = {}
        self.may: dict[str, set[bytes]] = {}
        self.published = 0
        self.broker: Broker | None = None

    def queue(self, name: str) -> Queue:
        assert self.broker is not None
        return self.broker.queues.get(name)

    def _wants(self, name: str, topic: str, key: bytes) -> bool:
        pattern = self.sources[name].get(topic, "#" if topic == name else None)
        return pattern is not None and RecordFilter(pattern).matches(key, ())

    def _all_wanted(self, name: str, topic: str) -> dict[bytes, None]:
        return {value: None for key, value in self.topics.get(topic, ()) if self._wants(name, topic, key)}

    # -- steps -------------------------------------------------------------------------------------

    async def publish(self, a: int, b: int) -> None:
        assert self.broker is not None
        topic, key, value = TOPICS[a % 3], KEYS[b % 3], b"%d" % self.published
        self.published += 1
        await self.broker.ensure_topic(topic)
        self.topics.setdefault(topic, []).append((key, value))
        await self.broker.publish(topic, value, key=key)
        for name in self.sources:
            if self._wants(name, topic, key):
                self.must[name][value] = None

    async def many(self, a: int, b: int) -> None:
        for _ in range(b % 20):
            await self.publish(a, b)

    async def settle(self, a: int, b: int) -> None:
        name = QUEUES[a % 3]
        wanted = min(len(self.must[name]), 1 + b % 3)
        taker = Taker(self.queue(name), wanted)
        while taker.left:
            await self.round()
        taker.hold.close()
        assert len(taker.values) == wanted
        for value in taker.values:
            assert value in self.must[name], f"{name} gave {value!r}"
            del self.must[name][value]
            self.may[name].add(value)

    async def flush(self, a: int, b: int) -> None:
        name = QUEUES[a % 3]
        await self.queue(name).wait_durable()
        self.may[name].clear()

    async def alter(self, a: int, b: int) -> None:
        """Take from one topic by another filter, from its beginning or from now on; or not at all any more."""
        assert self.broker is not None
        name, topic, pattern = QUEUES[a % 3], TOPICS[b % 3], PATTERNS[a // 3 % 4]
        start = STARTS[b // 3 % 2]
        had = self.sources[name]
        kept = [QueueSource(one, RecordFilter(had[one])) for one in had if one != topic]
        if b % 5 and had.get(topic) != pattern:
            if topic in had or topic == name:
                start = "latest"  # what it had of this topic by the old filter it would have twice
            added = [QueueSource(topic, RecordFilter(pattern), start)]
            self.sources[name] = {one: had[one] for one in had if one != topic} | {topic: pattern}
        else:
            added = []
            self.sources[name] = {one: had[one] for one in had if one != topic}
        await self.broker.queues.alter(name, sources=(*kept, *added))
        self.may[name].clear()
        if added and start == "earliest":
            twice = self._all_wanted(name, topic)
            if twice.keys() & self.must[name].keys():
                await self.reset_to_nothing(name)
                return
            self.must[name].update(twice)
        await self.loaded(name)

    async def reset(self, a: int, b: int) -> None:
        name = QUEUES[a % 3]
        if b % 3 == 0:
            await self.reset_to_nothing(name)
            return
        await self.queue(name).reset("earliest")
        self.may[name].clear()
        self.must[name] = {}
        for topic in TOPICS:
            self.must[name] |= self._all_wanted(name, topic)
        await self.loaded(name)

    async def reset_to_nothing(self, name: str) -> None:
        await self.loaded(name)
        await self.queue(name).reset("latest")
        self.must[name], self.may[name] = {}, set()

    async def remake(self, a: int, b: int) -> None:
        assert self.broker is not None
        name, topic = QUEUES[a % 3], TOPICS[b % 3]
        start = STARTS[b // 3 % 2]
        await self.broker.queues.delete(name)
        del self.sources[name]
        config = QueueConfig((QueueSource(topic, RecordFilter("a"), start),))
        await self.declare(name, config, {topic: "a"})
        if topic != name:
            self.must[name] |= self._all_wanted(name, name)  # all that its home holds
        if start == "earliest" or topic not in self.topics:
            self.must[name] |= self._all_wanted(name, topic)
        await self.loaded(name)

    async def race(self, a: int, b: int) -> None:
        """A queue is made of all that a topic holds, while more is published there."""
        assert self.broker is not None
        name, topic = QUEUES[a % 3], TOPICS[b % 3]
        await self.broker.queues.delete(name)
        del self.sources[name]
        config = QueueConfig((QueueSource(topic, RecordFilter("a"), "earliest"),))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.declare, name, config, {topic: "a"})
            for _ in range(8):
                await self.publish(b % 3, 0)
        self.must[name] = self._all_wanted(name, name) | self._all_wanted(name, topic)
        await self.loaded(name)

    async def retopic(self, a: int, b: int) -> None:
        """Delete a topic; the next record makes it again."""
        assert self.broker is not None
        topic = TOPICS[a % 3]
        if topic in self.topics:
            gone = {value for _, value in self.topics.pop(topic)}
            await self.broker.delete_topic(topic)
            for held in self.must.values():
                for value in gone & held.keys():
                    del held[value]
            for maybe in self.may.values():
                maybe -= gone

    async def look(self, a: int, b: int) -> None:
        for name in self.sources:
            await self.loaded(name)
            found = await self.values(name)
            assert sorted(found) == sorted(self.must[name]), name

    # -- all together ------------------------------------------------------------------------------

    async def round(self) -> None:
        assert self.broker is not None
        done = trio.Event()
        self.broker.views.rounds.call_soon(done.set)
        await done.wait()

    async def loaded(self, name: str) -> None:
        while self.queue(name).is_loading:
            await self.round()

    async def values(self, name: str) -> list[bytes]:
        return [found.record.value or b"" for found in await self.queue(name).peek(10_000)]

    async def declare(self, name: str, config: QueueConfig, sources: dict[str, str]) -> None:
        assert self.broker is not None
        await self.broker.queues.declare(name, config)
        self.sources[name] = sources
        self.must[name], self.may[name] = {}, set()

    async def found_again(self) -> None:
        for name in self.sources:
            await self.loaded(name)
            found = await self.values(name)
            assert len(found) == len(set(found)), f"{name} has a record twice"
            assert self.must[name].keys() <= set(found), f"{name} lost a record"
            assert set(found) <= self.must[name].keys() | self.may[name], f"{name} has a record again"
            self.must[name], self.may[name] = dict.fromkeys(found), set()
            await self.queue(name).wait_durable()

    async def live(self, steps: list[Step]) -> str:
        """From one start to the next end; gives what ended it, and takes off the steps that were done."""
        ended = "over"
        try:
            async with open_broker(self.directory, disk=self.disk) as broker:
                self.broker = broker
                if not self.sources:
                    for name in QUEUES:
                        await self.declare(
                            name, QueueConfig((QueueSource("three", RecordFilter("a")),)), {"three": "a"}
                        )
                await self.found_again()
                while steps:
                    name, a, b = steps.pop(0)
                    if name in ("restart", "crash"):
                        ended = name
                        break
                    await getattr(self, name)(a, b)
                if ended == "crash":
                    self.disk.cut_power()
                else:
                    await self.look(0, 0)
        except OSError:
            if ended != "crash":
                raise
        return ended

    async def run(self, steps: list[Step]) -> None:
        ended = ""
        while ended != "over":
            with trio.fail_after(60):
                ended = await self.live(steps)
            if ended == "crash":
                self.disk.crash()
            else:
                self.may = {name: set() for name in self.may}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS, st.integers(0, 1000), st.sampled_from([200, 800, 3000]))
def test_every_queue_holds_what_its_model_says(steps: list[Step], seed: int, age_bytes: int) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.multiple(unwritten, AGE_BYTES=age_bytes, TURN_BYTES=age_bytes // 4, NOTE_BYTES=1),
    ):
        trio.run(Model(Path(directory), seed).run, list(steps))
