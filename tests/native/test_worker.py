"""Workers: a function run over a queue, on both event loops and without one."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from trunkline.errors import ClientClosed, UnknownQueue
from trunkline_native.client import Bus, QueueRecord, connect, connect_blocking

if TYPE_CHECKING:
    from tests.native.conftest import RestartableBroker

pytestmark = pytest.mark.anyio

WAIT_S = 30.0


def number_of(job: QueueRecord) -> int:
    return int(job.value or b"")


async def fill(bus: Bus, count: int) -> None:
    for number in range(count):
        await bus.queue("work").send(str(number))
    await bus.flush()


async def counts(bus: Bus) -> tuple[int, int, int]:
    found = await bus.queue("work").describe()
    return found.ready, found.unacked, found.delayed


async def run(worker: Awaitable[None]) -> None:
    with anyio.fail_after(WAIT_S):
        await worker


async def test_every_record_is_handled_and_acknowledged(bus: Bus) -> None:
    await fill(bus, 100)
    seen: list[int] = []

    async def handle(job: QueueRecord) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(number_of(job))
        if len(seen) == 100:
            worker.stop()

    worker = bus.worker("work", handle, concurrency=7)
    await run(worker)
    assert sorted(seen) == list(range(100))
    assert (worker.succeeded, worker.failed, worker.running) == (100, 0, 0)
    assert await counts(bus) == (0, 0, 0)


async def test_no_more_run_at_a_time_than_allowed_and_no_more_are_taken(bus: Bus) -> None:
    await fill(bus, 10)
    running: list[int] = []
    enough = anyio.Event()

    async def handle(job: QueueRecord) -> None:
        running.append(number_of(job))
        if len(running) == 3:
            enough.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        worker = bus.worker("work", handle, concurrency=3, shutdown_timeout_s=0)
        tasks.start_soon(worker.run)
        with anyio.fail_after(WAIT_S):
            await enough.wait()
        assert await counts(bus) == (7, 3, 0)
        worker.stop()
    assert sorted(running) == [0, 1, 2]
    assert await counts(bus) == (10, 0, 0)


async def test_what_fails_is_tried_again_and_at_last_rejected(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    await fill(bus, 2)
    attempts: list[tuple[int, int]] = []
    failures: list[tuple[int, str, float | None]] = []

    async def handle(job: QueueRecord) -> None:
        attempts.append((number_of(job), job.deliveries))
        if job.value == b"0" or job.deliveries < 1:
            raise ValueError("not today")

    def on_failure(job: QueueRecord, error: Exception, delay_s: float | None) -> None:
        failures.append((number_of(job), str(error), delay_s))

    worker = bus.worker("work", handle, retries=2, backoff=lambda count: count * 0.01, on_failure=on_failure)
    async with bus.tail("work.dead", start="earliest") as dead, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        with anyio.fail_after(WAIT_S):
            assert (await anext(dead)).value == b"0"
        worker.stop()
    assert sorted(attempts) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert sorted(failures, key=lambda failure: (failure[0], failure[2] or 9)) == [
        (0, "not today", 0.01),
        (0, "not today", 0.02),
        (0, "not today", None),
        (1, "not today", 0.01),
    ]
    assert (worker.succeeded, worker.failed, worker.rejected) == (1, 4, 1)
    (letter,) = [letter async for letter in bus.queue("work").dead_letters()]
    assert (letter.reason, letter.deliveries) == ("ValueError: not today", 2)
    (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "goes to the dead letters" in logged.message
    assert logged.exc_info is not None


async def test_a_failing_failure_handler_changes_nothing(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    await fill(bus, 1)

    async def handle(job: QueueRecord) -> None:
        if job.deliveries:
            worker.stop()
        else:
            raise ValueError("once")

    async def on_failure(*_: object) -> None:
        raise KeyError("twice")

    worker = bus.worker("work", handle, backoff=lambda count: 0, on_failure=on_failure)
    await run(worker)
    assert (worker.succeeded, worker.failed) == (1, 1)
    assert "on_failure has failed itself" in caplog.text


async def test_too_slow_is_a_failure(bus: Bus) -> None:
    await fill(bus, 1)

    async def handle(job: QueueRecord) -> None:
        if job.deliveries:
            worker.stop()
        else:
            await anyio.sleep_forever()

    worker = bus.worker("work", handle, timeout_s=0.01, backoff=lambda count: 0)
    await run(worker)
    assert (worker.succeeded, worker.failed) == (1, 1)


async def test_what_a_function_says_of_a_record_itself_is_what_happens(bus: Bus) -> None:
    await fill(bus, 2)

    async def handle(job: QueueRecord) -> None:
        if job.value == b"0":
            job.release(delay=3600)
        else:
            worker.stop()

    worker = bus.worker("work", handle, concurrency=1)
    await run(worker)
    assert await counts(bus) == (0, 0, 1)


async def test_stopping_lets_what_runs_end(bus: Bus) -> None:
    await fill(bus, 5)
    begun, go_on = anyio.Event(), anyio.Event()

    async def handle(job: QueueRecord) -> None:
        begun.set()
        await go_on.wait()

    async with anyio.create_task_group() as tasks:
        worker = bus.worker("work", handle, concurrency=1, prefetch=4)
        tasks.start_soon(worker.run)
        with anyio.fail_after(WAIT_S):
            await begun.wait()
        worker.stop()
        await anyio.wait_all_tasks_blocked()
        assert worker.running == 1
        go_on.set()
    assert worker.succeeded == 1
    assert await counts(bus) == (4, 0, 0)
    assert [entry.deliveries for entry in await bus.queue("work").peek()] == [0, 0, 0, 0]


@pytest.mark.parametrize("is_in_time", [True, False])
async def test_a_cancelled_worker_stops_in_the_same_way(bus: Bus, is_in_time: bool) -> None:
    await fill(bus, 3)
    begun, ended = anyio.Event(), anyio.Event()

    async def handle(job: QueueRecord) -> None:
        begun.set()
        with anyio.CancelScope(shield=is_in_time):
            await (anyio.wait_all_tasks_blocked() if is_in_time else anyio.sleep_forever())
        ended.set()

    worker = bus.worker("work", handle, concurrency=1, shutdown_timeout_s=WAIT_S if is_in_time else 0.01)
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await begun.wait()
            tasks.cancel_scope.cancel()
    assert ended.is_set() == is_in_time
    assert await counts(bus) == ((2, 0, 0) if is_in_time else (3, 0, 0))


async def test_a_worker_that_was_stopped_before_it_began_does_nothing(bus: Bus) -> None:
    await fill(bus, 1)
    worker = bus.worker("work", lambda job: None)
    worker.stop()
    await run(worker)
    assert worker.succeeded == 0


async def test_plain_functions_run_in_threads(bus: Bus) -> None:
    await fill(bus, 8)
    barrier = threading.Barrier(4)
    token = anyio.lowlevel.current_token()

    def handle(prefix: str, job: QueueRecord) -> None:
        assert threading.current_thread() is not threading.main_thread()
        barrier.wait(WAIT_S)
        if job.value == b"7":
            anyio.from_thread.run_sync(worker.stop, token=token)

    worker = bus.worker("work", functools.partial(handle, "a"), concurrency=4)
    await run(worker)
    assert worker.succeeded == 8


async def test_objects_with_an_async_call_run_in_the_loop(bus: Bus) -> None:
    await fill(bus, 1)

    class Handle:
        async def __call__(self, job: QueueRecord) -> None:
            assert threading.current_thread() is threading.main_thread()
            worker.stop()

    worker = bus.worker("work", Handle())
    await run(worker)
    assert worker.succeeded == 1


class Watched:
    """Tells when a record's lock was extended."""

    def __init__(self, holder: Any) -> None:
        self.holder = holder
        self.extended = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.holder, name)

    def extend(self, sequence: int, lock_timeout_s: float) -> None:
        self.holder.extend(sequence, lock_timeout_s)
        self.extended.set()


async def test_locks_are_kept_while_a_function_takes_its_time(bus: Bus) -> None:
    await fill(bus, 1)

    async def handle(job: QueueRecord) -> None:
        watched = Watched(job.holder)
        job.holder = watched
        await watched.extended.wait()
        worker.stop()

    worker = bus.worker("work", handle, settings={"lock.timeout.ms": 300})
    await run(worker)
    assert worker.succeeded == 1


async def test_a_worker_ends_with_its_queue(broker: RestartableBroker, bus: Bus) -> None:
    async def delete(job: QueueRecord) -> None:
        await bus.queue("work").delete()

    await fill(bus, 1)
    with pytest.raises(UnknownQueue):
        await run(bus.worker("work", delete))
    async with connect(broker.url) as short:
        worker = short.worker("work", delete)
    with pytest.raises(ClientClosed):
        await run(worker)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"retries": -1}, {"shutdown_timeout_s": -1}])
async def test_options_that_make_no_sense_are_refused(bus: Bus, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        bus.worker("work", print, **options)


# -- without an event loop ------------------------------------------------------------------------


def test_a_blocking_worker_runs_until_it_is_stopped(broker: RestartableBroker) -> None:
    seen: list[int] = []

    def handle(job: QueueRecord) -> None:
        seen.append(number_of(job))
        if len(seen) == 20:
            worker.stop()

    with connect_blocking(broker.url) as bus:
        for number in range(20):
            bus.queue("work").publish(str(number))
        worker = bus.worker("work", handle, concurrency=1)
        worker.run()
        assert seen == list(range(20))
        assert (worker.succeeded, worker.failed, worker.rejected, worker.running) == (20, 0, 0, 0)


def test_ctrl_c_lets_a_blocking_worker_finish_what_it_is_at(
    broker: RestartableBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(job: QueueRecord) -> None:
        begun.set()
        assert go_on.wait(WAIT_S)

    with connect_blocking(broker.url) as bus:
        bus.queue("work").publish("1")
        worker = bus.worker("work", handle)
        start = bus._start

        def interrupted(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            future = start(function, *args)
            if begun.is_set():
                go_on.set()  # the worker was told to stop
                return future
            wait = future.result

            def interrupt_once(timeout: float | None = None) -> Any:
                future.result = wait  # type: ignore[method-assign]  # the second wait is a real one
                assert begun.wait(WAIT_S)
                raise KeyboardInterrupt

            future.result = interrupt_once  # type: ignore[method-assign]  # as if Ctrl-C came here
            return future

        monkeypatch.setattr(bus, "_start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.run()
        assert worker.succeeded == 1
