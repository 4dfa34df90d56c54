"""A whole queue over a broker, step by step beside a simple model, through restarts and power failures.

The model knows the state of each record. It is asked at every delivery (was it ready, was it the next, how often had it
been delivered), and after every step all counts must be equal. A crash may undo what was not durable: then each record
must be in a state that it had since the last time that everything was, and the model goes on with that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trunkline import Broker, open_broker
from trunkline.errors import TrunklineError
from trunkline.queues import Block, Consumption, Queue, QueueConfig, QueueConsumer
from trunkline.records import encode
from trunkline.testing import SimulatedDisk

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "80"))
READY, DONE, DEAD, DELAYED = "ready", "done", "dead", "delayed"

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["publish"] * 3,
                *["settle"] * 4,
                *["attach", "release", "release", "reject", "close", "durable", "jump", "prefetch"],
                *["delay", "purge", "restart", "crash"],
            ]
        ),
        st.integers(0, 100),
        st.integers(1, 6),
    ),
    max_size=40,
)


class Taker(QueueConsumer):
    """A consumer that tells the model what it is given."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.hold: Consumption | None = None
        self.has: list[int] = []

    def deliver(self, blocks: list[Block]) -> None:
        for block in blocks:
            for number, record in enumerate(block.records()):
                self.model.delivered(self, block.sequence + number, record.value, block.deliveries)

    def cancelled(self, error: TrunklineError) -> None:
        self.model.left(self)


class Model:
    """What is known of a queue with one source, so that sequences are offsets."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.disk = SimulatedDisk(seed)
        self.clock = MockClock()
        self.states: list[str | Taker] = []
        self.counts: list[int] = []
        self.possible: list[set[str]] = []  # what each may be found as after a crash: READY, DONE or DEAD
        self.takers: list[Taker] = []
        self.failure: AssertionError | None = None
        self.broker: Broker | None = None

    @property
    def queue(self) -> Queue:
        assert self.broker is not None
        return self.broker.queues.get("jobs")

    # -- what the queue says -----------------------------------------------------------------------

    def delivered(self, taker: Taker, sequence: int, value: bytes | None, deliveries: int) -> None:
        try:
            assert value == b"%d" % sequence
            assert self.states[sequence] == READY
            assert sequence == self.states.index(READY), "the first that is ready comes first"
            assert deliveries == self.counts[sequence]
        except AssertionError as error:  # the queue would take it for the consumer's own failure
            self.failure = self.failure or error
        self.states[sequence] = taker
        taker.has.append(sequence)

    def left(self, taker: Taker) -> None:
        for sequence in taker.has:
            if self.states[sequence] is taker:
                self.states[sequence] = READY
                self.counts[sequence] += 1
        taker.has.clear()
        if taker in self.takers:
            self.takers.remove(taker)

    def change(self, sequence: int, state: str) -> None:
        self.states[sequence] = state
        self.possible[sequence].add(READY if state == DELAYED else state)

    # -- steps -------------------------------------------------------------------------------------

    async def publish(self, a: int, b: int) -> None:
        assert self.broker is not None
        done = trio.Event()

        class Told:
            def append_done(self, token: object, offset: int) -> None:
                done.set()

            def append_failed(self, token: object, error: TrunklineError) -> None:
                raise AssertionError(error)

        first = len(self.states)
        for _ in range(b):
            self.states.append(READY)
            self.counts.append(0)
            self.possible.append({READY})
        values = [(1000, None, b"%d" % n, ()) for n in range(first, first + b)]
        self.broker.partition("jobs", 0).stage_batch(encode(values), Told())
        await done.wait()

    async def attach(self, a: int, b: int) -> None:
        taker = Taker(self)
        taker.hold = self.queue.consume(taker, prefetch=b, priority=a % 3)
        self.takers.append(taker)

    def _choose(self, a: int, b: int) -> tuple[Taker, list[int], list[tuple[int, int]]] | None:
        takers = [taker for taker in self.takers if taker.has]
        if not takers:
            return None
        taker = takers[a % len(takers)]
        chosen = taker.has[a % len(taker.has) :][:b]
        for sequence in chosen:
            taker.has.remove(sequence)
        return taker, chosen, [(sequence, sequence + 1) for sequence in chosen]

    async def settle(self, a: int, b: int) -> None:
        if (chosen := self._choose(a, b)) is not None:
            taker, sequences, ranges = chosen
            for sequence in sequences:
                self.change(sequence, DONE)
            assert taker.hold is not None
            assert taker.hold.settle(ranges) == len(sequences)
            assert taker.hold.settle(ranges) == 0, "nothing takes effect twice"

    async def release(self, a: int, b: int, delay_s: float = 0.0) -> None:
        if (chosen := self._choose(a, b)) is not None:
            taker, sequences, ranges = chosen
            for sequence in sequences:
                self.change(sequence, DELAYED if delay_s else READY)
                self.counts[sequence] += 1
            assert taker.hold is not None
            assert taker.hold.release(ranges, delay_s=delay_s) == len(sequences)

    async def delay(self, a: int, b: int) -> None:
        await self.release(a, b, 10.0)

    async def jump(self, a: int, b: int) -> None:
        for sequence, state in enumerate(self.states):
            if state == DELAYED:
                self.states[sequence] = READY
        self.clock.jump(11)
        while self.queue.state.delayed:
            await self._round()

    async def reject(self, a: int, b: int) -> None:
        if (chosen := self._choose(a, b)) is not None:
            taker, sequences, ranges = chosen
            for sequence in sequences:
                self.change(sequence, DEAD)
            assert taker.hold is not None
            assert taker.hold.reject(ranges) == len(sequences)
            while self.queue.statistics().leaving:
                await self._round()

    async def close(self, a: int, b: int) -> None:
        if self.takers:
            taker = self.takers[a % len(self.takers)]
            self.left(taker)
            assert taker.hold is not None
            taker.hold.close()

    async def prefetch(self, a: int, b: int) -> None:
        if self.takers:
            hold = self.takers[a % len(self.takers)].hold
            assert hold is not None
            hold.set_prefetch(b)

    async def durable(self, a: int, b: int) -> None:
        await self.queue.wait_durable()
        for sequence, state in enumerate(self.states):
            self.possible[sequence] = {state if state in (DONE, DEAD) else READY}

    async def purge(self, a: int, b: int) -> None:
        wanted = [n for n, state in enumerate(self.states) if state in (READY, DELAYED)]
        for sequence in wanted:
            self.change(sequence, DONE)
        assert await self.queue.purge() == len(wanted)

    # -- all together ------------------------------------------------------------------------------

    async def _round(self) -> None:
        assert self.broker is not None
        done = trio.Event()
        self.broker.views.rounds.call_soon(done.set)
        await done.wait()

    async def check(self) -> None:
        for _ in range(4):
            await self._round()
        if self.failure is not None:
            raise self.failure
        state = self.queue.state
        held = sum(isinstance(one, Taker) for one in self.states)
        expected = self.states.count(READY), held, self.states.count(DELAYED)
        assert (state.ready, state.unacked, state.delayed) == expected
        free = sum(taker.hold.free > 0 for taker in self.takers if taker.hold is not None)
        assert not (state.ready and free), "nobody waits while there is something"

    async def found_again(self) -> None:
        """After a start: what the queue has is what it may have."""
        found, _ = self.queue.state.peek(10_000)
        there = {one.sequence + number: one for one in found for number in range(one.count)}
        for sequence in range(len(self.states)):
            if sequence in there:
                assert READY in self.possible[sequence], f"{sequence} came back"
                is_delayed = there[sequence].due_ms > 0
                self.states[sequence] = DELAYED if is_delayed else READY
                self.counts[sequence] = there[sequence].deliveries
            else:
                left = self.possible[sequence] - {READY}
                assert left, f"{sequence} is lost"
                self.states[sequence] = left.pop()
        await self.durable(0, 0)

    async def live(self, steps: list[Step]) -> str:
        """From one start to the next end; gives what ended it, and takes off the steps that were done."""
        now_ms = lambda: 1_000_000 + round(self.clock.current_time() * 1000)  # noqa: E731
        ended = "over"
        try:
            async with open_broker(self.directory, disk=self.disk, now_ms=now_ms) as broker:
                self.broker = broker
                await broker.queues.declare("jobs", QueueConfig())
                await broker.ensure_topic("jobs")
                await self.found_again()
                while steps:
                    name, a, b = steps.pop(0)
                    if name in ("restart", "crash"):
                        ended = name
                        break
                    step: Callable[[int, int], Awaitable[Any]] = getattr(self, name)
                    await step(a, b)
                    await self.check()
                if ended == "crash":
                    self.disk.cut_power()
                elif ended == "over":
                    await self.drain()
        except OSError:
            if ended != "crash":
                raise
        return ended

    async def drain(self) -> None:
        """In the end everything can be finished with."""
        await self.jump(0, 0)
        await self.attach(0, 0)
        while any(state not in (DONE, DEAD) for state in self.states):
            for number in range(len(self.takers)):
                await self.settle(number, 100)
            await self.check()

    async def run(self, steps: list[Step]) -> None:
        ended = ""
        while ended != "over":
            ended = await self.live(steps)
            self.takers.clear()
            if ended == "crash":
                self.disk.crash()
            else:
                for sequence, state in enumerate(self.states):
                    self.possible[sequence] = {state if state in (DONE, DEAD) else READY}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS, st.integers(0, 1000))
def test_a_queue_does_what_its_model_does(steps: list[Step], seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        model = Model(Path(directory), seed)
        trio.run(model.run, list(steps), clock=model.clock)
