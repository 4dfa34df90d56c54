"""Queues without an event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from trunkline.errors import QueueExists, UnknownQueue
from trunkline_native.client import BlockingBus, connect_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.native.conftest import RestartableBroker


@pytest.fixture
def bus(broker: RestartableBroker) -> Iterator[BlockingBus]:
    with connect_blocking(broker.url) as connected:
        yield connected


def fill(bus: BlockingBus, count: int) -> None:
    for number in range(count):
        bus.send("work", str(number))
    bus.flush()


def states(bus: BlockingBus) -> tuple[int, int]:
    found = bus.queue("work").describe()
    return found.ready, found.unacked


def test_records_are_taken_and_acknowledged(bus: BlockingBus) -> None:
    fill(bus, 10)
    with bus.queue("work") as jobs:
        for job in jobs:
            job.ack()
            if job.value == b"4":
                break
        jobs.flush()
        assert bus.queue("work").describe().statistics["acknowledged"] == 5
    assert states(bus) == (5, 0)
    assert {entry.deliveries for entry in bus.queue("work").peek()} == {0}


def test_leaving_passes_on_what_was_said_last(broker: RestartableBroker, bus: BlockingBus) -> None:
    fill(bus, 4)
    with connect_blocking(broker.url) as short, short.queue("work") as jobs:
        chunk = jobs.next_chunk()
        assert len(chunk) == 4
        jobs.ack(chunk[:2])
        jobs.release(chunk[2], delay=3600)
    found = bus.queue("work").describe()
    assert (found.ready, found.delayed, found.unacked) == (1, 1, 0)


def test_threads_may_acknowledge_what_another_one_took(bus: BlockingBus) -> None:
    fill(bus, 1000)
    with bus.queue("work") as jobs:
        taken = [next(jobs) for _ in range(1000)]
        threads = [
            threading.Thread(target=lambda part: [job.ack() for job in part], args=(taken[first::4],))
            for first in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        jobs.flush()
    assert states(bus) == (0, 0)


def test_next_chunk_waits_no_longer_than_told(bus: BlockingBus) -> None:
    with bus.queue("work", prefetch=1) as jobs:
        assert jobs.next_chunk(timeout=0.01) == []
        fill(bus, 3)
        (first,) = jobs.next_chunk(timeout=30)
        jobs.set_prefetch(2)
        (second,) = jobs.next_chunk(timeout=30)
        jobs.extend([first, second], 60)
        jobs.reject(first, "no good")
        jobs.ack(second)
        assert [job.value for job in jobs.next_chunk(timeout=30)] == [b"2"]


def test_with_auto_ack_the_record_in_hand_is_not_done_yet(bus: BlockingBus) -> None:
    fill(bus, 3)
    with bus.queue("work", auto_ack=True) as jobs:
        assert [next(jobs).value for _ in range(2)] == [b"0", b"1"]
    assert states(bus) == (2, 0)
    with bus.queue("work", auto_ack=True) as jobs:
        assert len(jobs.next_chunk()) == 2
        assert jobs.next_chunk(timeout=0.01) == []
    assert states(bus) == (0, 0)


def test_a_queue_is_managed(bus: BlockingBus) -> None:
    bus.create_topic("jobs")
    made = bus.create_queue("work", sources=["jobs"], filter="a.*", settings={"max.length": 100})
    assert made.sources[0].filter == "a.*"
    with pytest.raises(QueueExists):
        bus.create_queue("work")
    queue = bus.queue("work")
    assert [found.name for found in bus.list_queues()] == ["work"]
    queue.publish("x", key="k", priority=1)
    assert queue.alter({"max.length": None}).settings["max.length"] == "-1"
    assert queue.describe(explain=True).explanation
    assert [entry.record.key for entry in queue.peek(5)] == [b"k"]
    assert queue.move("elsewhere", limit=1) == 1
    assert queue.purge() == 0
    assert queue.reset("earliest") == 0
    with queue as jobs, bus.tail("work.dead", start="earliest") as dead:
        next(jobs).reject("no good")
        next(dead)
    assert [letter.reason for letter in queue.dead_letters()] == ["no good"]
    assert queue.replay_dead_letters(limit=1) == 1
    assert queue.drop_dead_letters() == 0
    assert queue.delete() == 1
    with pytest.raises(UnknownQueue):
        queue.describe()
