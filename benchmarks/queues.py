"""What many queues, and long ones, cost the broker: ``python benchmarks/queues.py MODE``. One JSON line for each case.

    dispatch   10,000 queues take from one topic, each by a filter of its own, with a consumer each; batches of 100
               records are published, each record for one queue. Processor time of the broker's thread for one record:
               ``taken`` without consumers, ``given`` to one that waits, ``settled`` by it in the same call and durable.
               ``one``: as ``given``, but each record in a batch of its own, published when the one before was
               given. ``publish`` and ``publish_one``: without any queue, which is part of the others
    idle       100,000 queues that hold nothing: bytes of each, as Python's allocator counts them, in the run in which
               they were declared and after a restart, and how long that took; without a source, and (a tenth as many)
               with a filter each on one topic
    restart    1,000 queues hold 1,000,000 records when their broker is killed, and as many that came between these are
               settled: seconds until a new process is ready, and has counted them. ``filters``: of one topic, where a
               queue's records lie far apart; ``homes``: each queue has its own topic, in batches of 100
    backlog    one queue, filled in steps: resident memory of the process after each. ``whole``: it takes everything, in
               batches of 1,000; ``picked``: a filter leaves it every other record, which is the most an index can need

The broker is in this process, without doors, but for the second half of restart; the garbage collector is set as
``trunkline serve`` sets it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from brokers import trunkline
from native_load import Peer
from probe import cpu_seconds, resident_kib
from trunkline import Broker, open_broker
from trunkline.cli.serve import GC_THRESHOLDS
from trunkline.errors import TrunklineError
from trunkline.filters import RecordFilter
from trunkline.queues import Block, Consumption, Queue, QueueConfig, QueueConsumer, QueueSource
from trunkline.records import encode
from trunkline_native import queue_frames as q
from trunkline_native.codec import decode_cbor

TOPIC = "jobs"
VALUE = bytes(100)
UNDER_WAY = 20  # batches
DECLARED = 1000  # at once
LIMIT_S = 120.0


class Taker(QueueConsumer):
    """Counts what it is given, together with others, in ``given``; settles it at once if it shall."""

    given = 0

    def __init__(self, queue: Queue, *, settles: bool, prefetch: int = 0) -> None:
        self.settles = settles
        self.hold: Consumption = queue.consume(self, prefetch=prefetch)

    def deliver(self, blocks: list[Block]) -> None:
        for block in blocks:
            Taker.given += block.count
            if self.settles:
                self.hold.settle([(block.sequence, block.sequence + block.count)])

    def cancelled(self, error: TrunklineError) -> None:
        pass


def source(pattern: str) -> QueueSource:
    return QueueSource(TOPIC, RecordFilter(pattern))


def batch_for(keys: Iterable[bytes | None], value: bytes = VALUE) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    return encode([(now_ms, key, value, ()) for key in keys])


async def publish(broker: Broker, topic: str, batches: Iterable[bytes]) -> None:
    """So many at a time, until all are committed."""
    partition = broker.partition(topic, 0)
    for number, batch in enumerate(batches):
        partition.stage_batch(batch)
        if number % UNDER_WAY == UNDER_WAY - 1:
            await partition.wait_past(partition.next_offset - 1)
    if partition.high_watermark < partition.next_offset:
        await partition.wait_past(partition.next_offset - 1)


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - there is no event for it, as nobody else asks
            await trio.sleep(0.002)


async def declare_all(broker: Broker, configs: Mapping[str, QueueConfig]) -> None:
    """All of them at once, so that they share their fsyncs."""
    async with trio.open_nursery() as nursery:
        for name, config in configs.items():
            nursery.start_soon(broker.queues.declare, name, config)


async def purge_all(broker: Broker) -> None:
    async with trio.open_nursery() as nursery:
        for queue in broker.queues:
            nursery.start_soon(queue.purge)


def ready(broker: Broker) -> int:
    return sum(queue.statistics().ready for queue in broker.queues)


# -- dispatch --------------------------------------------------------------------------------------


async def dispatch(options: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    queues, batch, rounds = options.queues or 10_000, options.batch, options.batches
    numbers = [(number * 7919) % queues for number in range(batch * rounds)]
    batches = [
        batch_for(b"dev.%d.boot" % number for number in numbers[at : at + batch])
        for at in range(0, len(numbers), batch)
    ]
    singles = [batch_for([b"dev.%d.boot" % number]) for number in numbers[: len(numbers) // 10]]
    figures: dict[str, float] = {}

    @contextmanager
    def measured(name: str, records: int = len(numbers)) -> Iterator[None]:
        gc.collect()
        start = time.thread_time()
        yield
        figures[f"{name}_us"] = round((time.thread_time() - start) / records * 1e6, 2)

    async with open_broker(data) as broker:
        await broker.create_topic(TOPIC)
        with measured("publish"):
            await publish(broker, TOPIC, batches)
        with measured("publish_one", len(singles)):
            for single in singles:
                await publish(broker, TOPIC, [single])
        await declare_all(broker, {f"q{number}": QueueConfig((source(f"dev.{number}.*"),)) for number in range(queues)})
        await publish(broker, TOPIC, batches)  # who wants which key is known from now on, as it is to a busy broker
        with measured("taken"):
            await publish(broker, TOPIC, batches)
        await purge_all(broker)
        for name, settles in (("given", False), ("settled", True)):
            takers = [Taker(queue, settles=settles) for queue in broker.queues]
            await trio.sleep(0.1)  # all are known to their queues
            Taker.given = 0
            with measured(name):
                await publish(broker, TOPIC, batches)
                await until(lambda: Taker.given >= len(numbers))
                if settles:
                    for queue in broker.queues:
                        await queue.wait_durable()
            if not settles:
                with measured("one", len(singles)):
                    for single in singles:
                        await publish(broker, TOPIC, [single])
            for taker in takers:
                taker.hold.close()
            await purge_all(broker)
    return [{"queues": queues, "records": len(numbers), **figures}]


# -- idle ------------------------------------------------------------------------------------------


async def idle(options: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    queues = options.queues or 100_000
    return [
        await idle_case(data / "plain", "plain", queues, lambda number: QueueConfig()),
        await idle_case(
            data / "filters", "filters", queues // 10, lambda number: QueueConfig((source(f"dev.{number}.*"),))
        ),
    ]


async def idle_case(data: Path, name: str, queues: int, config: Callable[[int], QueueConfig]) -> dict[str, Any]:
    def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with open_broker(data) as broker:
        await broker.create_topic(TOPIC)
        await broker.queues.declare("first")
        tracemalloc.start()
        before = used()
        for first in range(0, queues, DECLARED):
            numbers = range(first, min(first + DECLARED, queues))
            await declare_all(broker, {f"queue-{number}": config(number) for number in numbers})
        declared = used() - before
        tracemalloc.stop()
    start = time.perf_counter()
    async with open_broker(data) as broker:
        seconds = time.perf_counter() - start
        assert len(broker.queues) == queues + 1
    tracemalloc.start()
    before = used()
    async with open_broker(data) as broker:
        again = used() - before
    tracemalloc.stop()
    figures = {"declared_bytes": round(declared / queues), "restarted_bytes": round(again / queues)}
    return {"case": name, "queues": queues, **figures, "start_s": round(seconds, 2)}


# -- restart ---------------------------------------------------------------------------------------


async def leave_unfinished(data: Path, shape: str, queues: int, each: int) -> None:
    """Fill, settle, and go without a word."""
    async with open_broker(data) as broker:
        names = [f"queue-{number}" for number in range(queues)]
        if shape == "filters":
            await broker.create_topic(TOPIC)
        for number, name in enumerate(names):
            if shape == "homes":
                await broker.create_topic(name)
            config = QueueConfig((source(f"dev.{number}.*"),)) if shape == "filters" else QueueConfig()
            await broker.queues.declare(name, config)
        takers = [Taker(broker.queues.get(name), settles=False) for name in names]  # first: before it is far behind
        await trio.sleep(0.1)
        size = min(each, 100)
        if shape == "homes":
            for name in names:
                await publish(broker, name, [batch_for([None] * size)] * (each * 2 // size))
        else:
            keys = [b"dev.%d.boot" % number for number in range(queues)]
            batches = [batch_for(keys[at : at + size]) for at in range(0, queues, size)]
            for _ in range(each * 2):
                await publish(broker, TOPIC, batches)
        await until(lambda: Taker.given == queues * each * 2)
        for taker in takers:
            taker.hold.settle([(sequence, sequence + 1) for sequence in range(0, each * 2, 2)])
            await taker.hold.queue.wait_durable()
            taker.hold.close()
        assert ready(broker) == queues * each
        os._exit(0)


def counted(port: int) -> int:
    """Records that are ready, by the broker's word, when all queues have looked at everything."""
    peer = Peer("127.0.0.1", port)
    deadline = time.monotonic() + LIMIT_S
    while True:
        answer = peer.ask(q.DescribeQueues(1))
        states = msgspec.convert(decode_cbor(answer.body), list[q.QueueState])
        if not any(state.statistics["is_loading"] for state in states) or time.monotonic() > deadline:
            peer.sock.close()
            return sum(state.statistics["ready"] for state in states)


async def restart(options: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    queues = options.queues or 1000
    each = (options.records or 1_000_000) // queues
    found = []
    for shape in ("filters", "homes"):
        place = data / shape
        command = [sys.executable, __file__, "unfinished", "--dir", str(place), "--queues", str(queues)]
        await trio.run_process([*command, "--records", str(each), "--shape", shape])
        start = time.perf_counter()
        with trunkline(place, start_limit_s=LIMIT_S) as running:
            assert running.native_port is not None
            cpu_s, rss = cpu_seconds(running.pid), resident_kib(running.pid)
            records = await trio.to_thread.run_sync(counted, running.native_port)
            seconds = time.perf_counter() - start
        figures = {"ready_s": round(running.ready_s, 2), "ready_cpu_s": cpu_s, "counted_s": round(seconds, 2)}
        found.append({"case": shape, "queues": queues, "records": records, **figures, "rss_mib": rss // 1024})
    return found


# -- backlog ---------------------------------------------------------------------------------------


async def backlog(options: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    records = options.records or 30_000_000
    found = []
    for shape in ("whole", "picked"):
        command = [sys.executable, __file__, "fill", "--dir", str(data / shape), "--shape", shape]
        wanted = records if shape == "whole" else records // 6
        done = await trio.run_process(
            [*command, "--records", str(wanted), "--steps", str(options.steps)], capture_stdout=True
        )
        found += [json.loads(line) for line in done.stdout.splitlines()]
    return found


async def fill(data: Path, shape: str, records: int, steps: int) -> None:
    """In a process of its own, for its memory."""
    async with open_broker(data) as broker:
        await broker.create_topic(TOPIC)
        is_whole = shape == "whole"
        queue = await broker.queues.declare("long", QueueConfig((source("#" if is_whole else "this"),)))
        size = 1000 if is_whole else 2000
        batch = batch_for([None] * size if is_whole else [b"this", b"that"] * (size // 2), b"0123456789")
        published = records // steps // 1000 * 1000
        for step in range(steps + 1):
            gc.collect()
            figures = {"records": queue.statistics().ready, "rss_mib": round(resident_kib(os.getpid()) / 1024, 1)}
            print(json.dumps({"case": shape, **figures}), flush=True)
            if step < steps:
                await publish(broker, TOPIC, [batch] * (published // 1000))
        taker = Taker(queue, settles=True, prefetch=10_000)  # and the head of it, after a long time
        start, cpu = Taker.given, time.process_time()
        await until(lambda: Taker.given - start >= min(published, 100_000))
        await queue.wait_durable()
        taker.hold.pause()
        used = (time.process_time() - cpu) / (Taker.given - start) * 1e6
        rss = round(resident_kib(os.getpid()) / 1024, 1)
        print(json.dumps({"case": f"{shape}, consumed", "rss_mib": rss, "us_per_record": round(used, 2)}), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {"dispatch": dispatch, "idle": idle, "restart": restart, "backlog": backlog}
    parser.add_argument("mode", choices=[*modes, "unfinished", "fill"], help="the last two are parts of others")
    parser.add_argument("--queues", type=int)
    parser.add_argument("--records", type=int, help="restart: in all queues; backlog: of the queue that takes all")
    parser.add_argument("--batch", type=int, default=100, help="dispatch: records in each")
    parser.add_argument("--batches", type=int, default=1000, help="dispatch: how many")
    parser.add_argument("--steps", type=int, default=3, help="backlog: how often memory is looked at")
    parser.add_argument("--shape", default="", help=argparse.SUPPRESS)
    parser.add_argument("--dir", type=Path, help="where the data directories go  [default: the temporary directory]")
    options = parser.parse_args(arguments)
    gc.set_threshold(*GC_THRESHOLDS)
    if options.mode == "unfinished":
        trio.run(leave_unfinished, options.dir, options.shape, options.queues, options.records)
    elif options.mode == "fill":
        trio.run(fill, options.dir, options.shape, options.records, options.steps)
    else:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as directory:
            for figures in trio.run(modes[options.mode], options, Path(directory)):
                print(json.dumps({"mode": options.mode, **figures}), flush=True)


if __name__ == "__main__":
    main()
