"""What the state of a queue costs, without any I/O: ``python benchmarks/queue_state.py --entries 200000``.

Each line is processor time in microseconds for one entry, or for what the line says, the best of ``--reps`` runs. The
garbage collector is off meanwhile, as the best run would hardly meet it anyway.

*Runs* are batches of 1,000 records that match a queue without a filter. *Singles* are what a filter leaves of
batches: each entry is a run of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from trunkline.queues.state import QueueState

RUN = 1000
HOLDER = 1
Case = Callable[[int], float]


def timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def filled(entries: int, run: int) -> QueueState:
    state = QueueState()
    for offset in range(0, entries, run):
        state.append(0, offset * 2, run, run * 100)
    return state


def leased(entries: int, run: int) -> QueueState:
    state = filled(entries, run)
    while state.ready:
        state.acquire(1000, HOLDER, 0)
    return state


def append(run: int) -> Case:
    return lambda entries: timed(lambda: filled(entries, run)) * run


def acquire(run: int) -> Case:
    def case(entries: int) -> float:
        state = filled(entries, run)
        return timed(lambda: [state.acquire(1000, HOLDER, 0) for _ in range(0, entries, 1000)])

    return case


def acquire_and_settle_runs(entries: int) -> float:
    state = filled(entries, RUN)

    def work() -> None:
        for first in range(0, entries, RUN):
            state.acquire(RUN, HOLDER, 0)
            state.settle(((first, first + RUN),), HOLDER)

    return timed(work)


def one_at_a_time(entries: int) -> float:
    state = filled(entries, RUN)

    def work() -> None:
        for first in range(entries):
            state.acquire(1, HOLDER, 0)
            state.settle(((first, first + 1),), HOLDER)

    return timed(work)


def settle(run: int, *, is_shuffled: bool = False) -> Case:
    def case(entries: int) -> float:
        state = leased(entries, run)
        order = list(range(entries))
        if is_shuffled:
            random.Random(1).shuffle(order)

        def work() -> None:
            for sequence in order:
                state.settle(((sequence, sequence + 1),), HOLDER)

        return timed(work)

    return case


def release_and_acquire(entries: int) -> float:
    state = leased(entries, 1)

    def work() -> None:
        for sequence in range(entries):
            state.release(((sequence, sequence + 1),), HOLDER)
        while state.ready:
            state.acquire(1000, HOLDER, 0)

    return timed(work)


def half_settled(entries: int) -> QueueState:
    state = leased(entries, 1)
    state.settle([(sequence, sequence + 1) for sequence in range(0, entries, 2)], HOLDER)
    state.take_sealed()
    return state


def delta(entries: int) -> float:
    state = half_settled(entries)
    return timed(state.take_delta)


def snapshot(entries: int) -> float:
    state = half_settled(entries)
    return timed(state.snapshot)


def seal(entries: int) -> float:
    state = filled(entries, 1)
    return timed(state.take_sealed)


def restore(entries: int) -> float:
    state = filled(entries, 1)
    state.acquire(entries, HOLDER, 0)
    state.settle([(sequence, sequence + 1) for sequence in range(0, entries, 2)], HOLDER)
    chunks = state.take_sealed()
    stored = state.snapshot()

    def work() -> None:
        again = QueueState.restore(stored)
        for number, data in chunks:
            again.recover_chunk(number, number, data)
        again.recovered()
        while again.ready:
            if (missing := again.missing_chunk) is not None:
                again.load_chunk(missing, chunks[missing][1])
            again.acquire(1000, HOLDER, 0)

    return timed(work)


CASES: dict[str, tuple[Case, float | None]] = {
    "append a run": (append(RUN), 2.0),
    "append a single": (append(1), 2.0),
    "acquire runs, 1,000 at a time": (acquire(RUN), None),
    "acquire singles, 1,000 at a time": (acquire(1), 3.0),
    "acquire and settle 1,000, runs": (acquire_and_settle_runs, 1.0),
    "acquire and settle one, runs": (one_at_a_time, None),
    "settle one, runs, in order": (settle(RUN), 1.5),
    "settle one, singles, in order": (settle(1), 1.5),
    "settle one, runs, at random": (settle(RUN, is_shuffled=True), None),
    "release one, acquire again": (release_and_acquire, None),
    "seal singles": (seal, None),
    "delta, every other settled": (delta, None),
    "snapshot, every other settled": (snapshot, None),
    "restore that, acquire all": (restore, None),
}


def measure(entries: int, reps: int) -> dict[str, float]:
    gc.disable()
    found: dict[str, float] = {}
    for name, (case, _) in CASES.items():
        found[name] = round(min(case(entries) for _ in range(reps)) / entries * 1e6, 4)
        gc.collect()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=200_000, help="in the queue; a multiple of 1,000")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object: microseconds by case")
    options = parser.parse_args(arguments)
    if options.entries < RUN or options.entries % RUN:
        parser.error("--entries takes a multiple of 1,000")
    found = measure(options.entries, options.reps)
    if options.json:
        json.dump(found, sys.stdout)
        return
    table = Table("case", "µs", "target")
    for name, (_, target) in CASES.items():
        table.add_row(name, f"{found[name]:.3f}", "" if target is None else f"at most {target}")
    Console().print(table)


if __name__ == "__main__":
    main()
