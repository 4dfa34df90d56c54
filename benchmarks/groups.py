"""What consumer groups cost the broker, without a protocol in between: ``python benchmarks/groups.py MODE``.

    rebalance   members that all read the same topics join at once (first), one more joins (join), one leaves (leave);
                they give up what they must as soon as they are told. Processor time of the broker's thread until
                everybody has what it shall have, in ms: medians
    idle        groups with one committed offset each and no members: memory of each, as Python's allocator counts it,
                and how long a broker takes to start with them
    commits     commits of one offset each, by groups in turn, with so many under way: each is durable (fsync) before it
                is answered. Commits per second, and processor time of all threads for a million of them

One JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import trio

from trunkline import Broker, open_broker
from trunkline.errors import TrunklineError
from trunkline.groups import Assignment, OffsetAndMetadata
from trunkline.log import TopicPartition

GROUP = "bench"


class Member:
    """Gives up what it is asked for at once."""

    def __init__(self, broker: Broker, topics: Sequence[str]) -> None:
        self.coordinator = broker.groups
        self.member_id = broker.groups.join(GROUP, self, topics=topics, session_timeout_s=600).member_id

    def assignment_changed(self, assignment: Assignment) -> None:
        if assignment.revoked:
            self.coordinator.revoked(GROUP, self.member_id, assignment.revoked)

    def fenced(self, error: TrunklineError) -> None:
        raise error


async def settled_ms(broker: Broker, before: float, state: str = "Stable") -> float:
    """Processor time of this thread since ``before``, once the group has come to rest."""
    asking = 0.0  # is not the broker's work
    while True:
        asked = time.thread_time()
        is_settled = broker.groups.describe(GROUP).state == state
        asking += time.thread_time() - asked
        if is_settled:
            return (time.thread_time() - before - asking) * 1000
        await trio.sleep(0.01)


async def rebalance(members: int, partitions: int, topics: int, repetitions: int) -> dict[str, float]:
    figures: dict[str, list[float]] = {"first_ms": [], "join_ms": [], "leave_ms": []}
    async with open_broker(store="memory") as broker:
        names = [f"topic-{number}" for number in range(topics)]
        for name in names:
            await broker.create_topic(name, partitions=partitions // topics)
        for _ in range(repetitions):
            start = time.thread_time()
            joined = [Member(broker, names) for _ in range(members)]
            figures["first_ms"].append(await settled_ms(broker, start))
            start = time.thread_time()
            joined.append(Member(broker, names))
            figures["join_ms"].append(await settled_ms(broker, start))
            start = time.thread_time()
            broker.groups.leave(GROUP, joined.pop(0).member_id)
            figures["leave_ms"].append(await settled_ms(broker, start))
            for member in joined:
                broker.groups.leave(GROUP, member.member_id)
            await settled_ms(broker, 0.0, "Empty")
    medians = {name: round(statistics.median(values), 1) for name, values in figures.items()}
    return {"members": members, "partitions": partitions, "topics": topics, **medians}


class Commits:
    """Keeps ``window`` commits under way."""

    def __init__(self, broker: Broker, groups: int, count: int, window: int) -> None:
        self.broker = broker
        self.names = [f"group-{number}" for number in range(groups)]
        self.left = self.unanswered = count
        self.window = window
        self.done = trio.Event()

    async def run(self) -> None:
        for _ in range(min(self.window, self.left)):
            self.send()
        await self.done.wait()

    def send(self) -> None:
        self.left -= 1
        name = self.names[self.left % len(self.names)]
        offsets = {TopicPartition("orders", 0): OffsetAndMetadata(self.left)}
        self.broker.groups.commit(name, offsets, receiver=self)

    def append_done(self, token: object, offset: int) -> None:
        self.unanswered -= 1
        if self.left:
            self.send()
        elif not self.unanswered:
            self.done.set()

    def append_failed(self, token: object, error: TrunklineError) -> None:
        raise error


async def idle(groups: int, data: Path) -> dict[str, float]:
    async with open_broker(data) as broker:
        await broker.create_topic("orders")
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await Commits(broker, groups, groups, 1000).run()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    start = time.perf_counter()
    async with open_broker(data) as broker:
        seconds = time.perf_counter() - start
        assert len(broker.groups.list()) == groups
    return {"groups": groups, "bytes_per_group": round((after - before) / groups), "start_s": round(seconds, 2)}


async def commits(count: int, groups: int, window: int, data: Path) -> dict[str, float]:
    async with open_broker(data) as broker:
        await broker.create_topic("orders")
        await Commits(broker, groups, groups, window).run()  # the groups are there, and the internal topic
        start, cpu = time.perf_counter(), time.process_time()
        await Commits(broker, groups, count, window).run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    figures = {"commits_per_s": round(count / seconds), "cpu_s_per_million": round(cpu / count * 1e6, 2)}
    return {"commits": count, "groups": groups, "window": window, **figures}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["rebalance", "idle", "commits"])
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--groups", type=int, help="[default: 100000 for idle, 100 for commits]")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--dir", type=Path, help="where the data directories go  [default: the temporary directory]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory:
        data = Path(directory)
        found: dict[str, float]
        if options.mode == "rebalance":
            found = trio.run(rebalance, options.members, options.partitions, options.topics, options.reps)
        elif options.mode == "idle":
            found = trio.run(idle, options.groups or 100_000, data)
        else:
            found = trio.run(commits, options.count, options.groups or 100, options.window, data)
    print(json.dumps({"mode": options.mode, **found}))


if __name__ == "__main__":
    main()
