"""A real Celery application: workers, results, retries, countdowns, priorities, lost processes, events, inspection."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trunkline.testing.background import BackgroundBroker

pytestmark = pytest.mark.slow

WAIT_S = 60.0
PREFIX = "celery-test"
URGENT = [3, 9, 1, 7]


@pytest.fixture(scope="module")
def application(amqp_broker: BackgroundBroker) -> Iterator[Any]:
    """The module with the application."""
    host, port = amqp_broker.addresses["amqp"]
    os.environ["TRUNKLINE_CELERY_BROKER"] = f"amqp://guest:guest@{host}:{port}//"
    os.environ["TRUNKLINE_CELERY_PREFIX"] = PREFIX
    sys.path.insert(0, str(Path(__file__).parent))
    module = import_module("celery_app")
    yield module
    module.app.close()
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def urgent(application: Any) -> list[Any]:
    """Results of tasks that were waiting, with priorities, before any worker was there."""
    return [application.when.apply_async(queue=f"{PREFIX}.urgent", priority=priority) for priority in URGENT]


@pytest.fixture(scope="module")
def workers(application: Any, urgent: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two: one for everything that grows and shrinks, one that takes urgent tasks one by one."""
    logs = tmp_path_factory.mktemp("celery")
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            for command, log in (
                (_worker("general", PREFIX, "--autoscale=3,1"), stack.enter_context((logs / "general").open("wb"))),
                (_worker("urgent", f"{PREFIX}.urgent", "-c1"), stack.enter_context((logs / "urgent").open("wb"))),
            )
        ]
        try:
            deadline = time.monotonic() + WAIT_S
            while not all(b" ready." in (logs / name).read_bytes() for name in ("general", "urgent")):
                assert all(worker.poll() is None for worker in started), (logs / "general").read_text()
                assert time.monotonic() < deadline, (logs / "general").read_text()
                time.sleep(0.1)
            yield
        finally:
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.wait(WAIT_S)
    assert b"Unrecoverable error" not in (logs / "general").read_bytes()


def _worker(name: str, queue: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "celery", "--workdir", str(Path(__file__).parent), "-A", "celery_app", "worker"]
    return [*command, "-n", f"{name}@test", "-Q", queue, "-E", "--loglevel=INFO", *options]


@pytest.mark.usefixtures("workers")
class TestCelery:
    def test_results_come_back(self, application: Any) -> None:
        results = [application.add.delay(number, number) for number in range(30)]
        assert [result.get(WAIT_S) for result in results] == [2 * number for number in range(30)]

    def test_a_task_is_tried_again(self, application: Any) -> None:
        assert application.flaky.delay().get(WAIT_S) == 2

    def test_a_task_with_a_countdown_runs_later(self, application: Any) -> None:
        before = time.time()
        assert application.when.apply_async(countdown=0.7).get(WAIT_S) >= before + 0.7

    def test_more_tasks_may_wait_for_their_time_than_a_worker_prefetches(self, application: Any) -> None:
        """Celery raises the prefetch for each: it needs a limit for the whole channel that may change."""
        waiting = [application.when.apply_async(countdown=1.5) for _ in range(20)]
        assert application.add.delay(1, 2).get(WAIT_S) == 3
        first = time.time()
        assert min(result.get(WAIT_S) for result in waiting) > first - 0.1

    def test_a_task_whose_process_is_killed_is_done_again(self, application: Any) -> None:
        assert application.dies_once.delay().get(WAIT_S) == "survived"

    def test_the_highest_priority_goes_first(self, urgent: list[Any]) -> None:
        times = {priority: result.get(WAIT_S) for priority, result in zip(URGENT, urgent, strict=True)}
        assert sorted(times, key=lambda priority: times[priority]) == sorted(URGENT, reverse=True)

    def test_workers_are_inspected_and_their_pool_resized(self, application: Any) -> None:
        control = application.app.control
        assert sorted(next(iter(answer)) for answer in control.ping(timeout=5, limit=2)) == [
            "general@test",
            "urgent@test",
        ]
        assert control.pool_grow(1, destination=["urgent@test"], reply=True, timeout=10, limit=1) == [
            {"urgent@test": {"ok": "pool will grow"}}
        ]
        queues = control.inspect(["general@test"], timeout=10, limit=1).active_queues()
        assert [queue["name"] for queue in queues["general@test"]] == [PREFIX]

    def test_events_tell_what_became_of_a_task(self, application: Any) -> None:
        task = str(uuid.uuid4())
        seen: list[str] = []

        def on_event(event: dict[str, Any]) -> None:
            if event.get("uuid") == task:
                seen.append(event["type"])
                receiver.should_stop = event["type"] == "task-succeeded"

        with application.app.connection_for_read() as connection:
            receiver = application.app.events.Receiver(connection, handlers={"*": on_event})
            events = receiver.itercapture(limit=None, timeout=WAIT_S, wakeup=True)
            next(events)  # the workers have answered, so it has begun to listen
            application.add.apply_async((1, 1), task_id=task)
            for _ in events:
                """Until on_event has seen enough."""
        assert sorted(seen) == ["task-received", "task-sent", "task-started", "task-succeeded"]
