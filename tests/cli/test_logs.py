"""The server's log: complete when stderr is read, and never in the way when it is not."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys

import pytest

from trunkline.cli import repeats
from trunkline.cli.logs import _BoundedHandler, logging_to_stderr

logger = logging.getLogger("trunkline.test")


def test_lines_have_time_level_logger_and_message(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", as_json=False):
        logger.info("hello %s", "you")
        logger.debug("too much")
    time, level, name, *message = capfd.readouterr().err.split()
    assert (level, name, message) == ("info", "trunkline.test:", ["hello", "you"])
    assert time.endswith("Z")


def test_json_lines_keep_a_traceback_in_its_own_field(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", as_json=True):
        try:
            raise ValueError("bad")
        except ValueError:
            logger.exception("failed")
    entry = json.loads(capfd.readouterr().err)
    assert (entry["event"], entry["level"], entry["message"]) == ("log", "error", "failed")
    assert entry["traceback"].endswith("ValueError: bad")


def test_of_many_lines_that_are_alike_some_are_written_and_the_others_counted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "ALLOWED", 2)
    with logging_to_stderr("info", as_json=False):
        for number in range(5000):
            logger.info("client %d was silent", number)
            logger.error("bug %d", number) if number < 4 else None
        logger.info("another %d", 1)
    lines = [line.partition(": ")[2] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "client 0 was silent", "bug 0", "client 1 was silent", "bug 1", "bug 2", "bug 3", "another 1",
        "4,998 more lines like these were left out; the last: client 4999 was silent",
    ]  # fmt: skip


def test_lines_of_a_kind_are_counted_from_the_first_on() -> None:
    found: repeats.Repeats[str] = repeats.Repeats()
    assert found.next_due() is None
    admitted = [found.admit("a", f"a{number}", 5.0) for number in range(repeats.ALLOWED + 3)]
    assert admitted == [True] * repeats.ALLOWED + [False] * 3
    assert found.admit("b", "b", 6.0)
    assert found.next_due() == 5.0 + repeats.WINDOW_S
    assert [*found.over(14.9)] == []
    assert [*found.over(15.0)] == [(3, f"a{repeats.ALLOWED + 2}")]
    assert found.admit("a", "again", 15.0)
    assert [*found.over(99.0)] == []
    assert found.next_due() is None


def test_a_stderr_that_nobody_reads_stops_nobody() -> None:
    program = """
import logging
from trunkline.cli import logs
logs._GRACE_S = 0.05
with logs.logging_to_stderr("info", as_json=False):
    for number in range(30_000):
        logging.error("message %d", number)
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert b"message 0\n" in process.stderr.read()


def test_what_was_dropped_is_counted() -> None:
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(2)
    handler = _BoundedHandler(waiting)
    for number in range(5):
        handler.handle(logging.makeLogRecord({"msg": f"message {number}"}))
    waiting.get()
    waiting.get()
    handler.handle(logging.makeLogRecord({"msg": "message 5"}))
    left = [record.getMessage() for record in (waiting.get(), waiting.get()) if record is not None]
    assert left == ["3 log messages were dropped: stderr is not read quickly enough", "message 5"]
