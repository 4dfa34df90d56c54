"""The server's log: complete when stderr is read, and never in the way when it is not."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys

import pytest

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


def test_a_stderr_that_nobody_reads_stops_nobody() -> None:
    program = """
import logging
from trunkline.cli import logs
logs._GRACE_S = 0.05
with logs.logging_to_stderr("info", as_json=False):
    for number in range(30_000):
        logging.info("message %d", number)
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
