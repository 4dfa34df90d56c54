"""The commit thread, run here in the test's own thread, or in a real one where waiting is the point."""

from __future__ import annotations

import threading

import pytest

from trunkline.commit import Committer


class Disk:
    """Flushes by name; says in ``notified`` when results are there."""

    def __init__(self) -> None:
        self.flushed: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.notified = 0
        self.committer: Committer[str] = Committer(self.flush, self.notify)

    def flush(self, name: str) -> int:
        self.flushed.append(name)
        if name in self.failing:
            raise self.failing[name]
        return len(self.flushed)

    def notify(self) -> None:
        self.notified += 1

    def work(self) -> None:
        self.committer.stop()
        self.committer.run()


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_logs_of_a_group_are_flushed_in_order_and_answered_together(disk: Disk) -> None:
    disk.committer.add("a")
    disk.committer.add("b")
    disk.committer.start_group()
    disk.work()
    assert disk.notified == 1
    assert disk.committer.take_results() == [("a", 1), ("b", 2)]
    assert disk.committer.is_idle


def test_a_log_that_is_added_often_is_flushed_once(disk: Disk) -> None:
    for _ in range(3):
        disk.committer.add("a")
    disk.committer.start_group()
    disk.work()
    assert disk.flushed == ["a"]


def test_what_is_added_during_a_flush_waits_for_the_next_group(disk: Disk) -> None:
    disk.committer.add("a")
    disk.committer.start_group()
    disk.committer.add("b")
    disk.committer.start_group()  # too early: a's group is not answered yet
    disk.work()
    assert disk.committer.take_results() == [("a", 1)]
    assert not disk.committer.is_idle
    disk.committer.start_group()
    disk.work()
    assert disk.committer.take_results() == [("b", 2)]


def test_an_error_is_the_answer_of_its_log_alone(disk: Disk) -> None:
    disk.failing["a"] = OSError(5, "Input/output error")
    for name in ("a", "b"):
        disk.committer.add(name)
    disk.committer.start_group()
    disk.work()
    assert disk.committer.take_results() == [("a", disk.failing["a"]), ("b", 2)]


def test_a_discarded_log_is_not_flushed(disk: Disk) -> None:
    disk.committer.add("a")
    disk.committer.add("b")
    disk.committer.discard("a")
    disk.committer.discard("never added")
    disk.committer.start_group()
    disk.work()
    assert disk.flushed == ["b"]


def test_a_log_is_known_from_when_it_is_added_until_it_is_answered(disk: Disk) -> None:
    known = [disk.committer.has("a")]
    disk.committer.add("a")
    known.append(disk.committer.has("a"))
    disk.committer.start_group()
    disk.work()
    known.append(disk.committer.has("a"))
    disk.committer.take_results()
    known.append(disk.committer.has("a"))
    assert known == [False, True, True, False]


def test_no_results_while_the_group_is_being_flushed(disk: Disk) -> None:
    is_flushing, may_end = threading.Event(), threading.Event()

    def flush(name: str) -> int:
        is_flushing.set()
        assert may_end.wait(10)
        return 1

    committer: Committer[str] = Committer(flush, lambda: None)
    thread = threading.Thread(target=committer.run)
    thread.start()
    committer.add("a")
    committer.start_group()
    assert is_flushing.wait(10)
    assert committer.take_results() == []
    may_end.set()
    committer.stop()
    thread.join()
    assert committer.take_results() == [("a", 1)]
