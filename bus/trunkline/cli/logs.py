"""The server's log on stderr, written by a thread of its own.

A broker must not stop because whoever reads its stderr did: records go into a bounded queue, and when
that is full they are dropped and counted, and the count is logged once there is room. Of many lines that are alike, but
for errors, the thread writes some (:mod:`trunkline.cli.repeats`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Final, TypeAlias

from trunkline.cli.repeats import Repeats

__all__ = ["logging_to_stderr"]

_QUEUE_RECORDS: Final = 10_000
_STDERR: Final = 2
_GRACE_S: Final = 2.0  # how long closing waits for a reader of stderr that does not read

_Queue: TypeAlias = "queue.Queue[logging.LogRecord | None]"


class _BoundedHandler(logging.Handler):
    """Never waits; drops what does not fit, and says how much when something fits again."""

    def __init__(self, waiting: _Queue) -> None:
        super().__init__()
        self._waiting = waiting
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                lost = f"{self._dropped} log messages were dropped: stderr is not read quickly enough"
                self._waiting.put_nowait(_warning(lost))
                self._dropped = 0
            self._waiting.put_nowait(self._prepare(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # a message that does not fit its arguments must not hurt who logged it
            self.handleError(record)

    def _prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Format now what may change before the thread comes to it."""
        record = copy.copy(record)
        record.kind = record.levelno, record.name, record.msg
        if record.exc_info:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        return record


def _warning(message: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time_of(record)} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        return f"{text}\n{record.exc_text}" if record.exc_text else text


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "event": "log",
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_text:
            fields["traceback"] = record.exc_text
        return json.dumps(fields, ensure_ascii=False)


def _time_of(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


@contextlib.contextmanager
def logging_to_stderr(level: str, *, as_json: bool) -> Iterator[None]:
    """Inside the block, log to stderr from ``level`` up. On leaving it everything is written out, if stderr is read."""
    waiting: _Queue = queue.Queue(_QUEUE_RECORDS)
    formatter = _JsonLines() if as_json else _Lines()
    writer = threading.Thread(target=_write_all, args=(waiting, formatter), name="log writer", daemon=True)
    handler = _BoundedHandler(waiting)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=_GRACE_S)
            writer.join(_GRACE_S)


def _write_all(waiting: _Queue, formatter: logging.Formatter) -> None:
    repeats: Repeats[logging.LogRecord] = Repeats()
    while True:
        due = repeats.next_due()
        try:
            record = waiting.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
        except queue.Empty:
            _write_left_out(repeats, time.monotonic(), formatter)
            continue
        now = time.monotonic()
        _write_left_out(repeats, math.inf if record is None else now, formatter)
        if record is None:
            return
        kind = getattr(record, "kind", None)
        if kind is None or record.levelno >= logging.ERROR or repeats.admit(kind, record, now):
            _write(formatter.format(record))


def _write_left_out(repeats: Repeats[logging.LogRecord], now: float, formatter: logging.Formatter) -> None:
    for count, last in repeats.over(now):
        last.msg = f"{count:,} more lines like these were left out; the last: {last.getMessage()}"
        _write(formatter.format(last))


def _write(text: str) -> None:
    """Write to the descriptor itself: writing to ``sys.stderr`` holds a lock that the interpreter's exit waits for."""
    line = f"{text}\n".encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # a stderr that is closed, or a full disk: nowhere to say so
        while line:
            line = line[os.write(_STDERR, line) :]
