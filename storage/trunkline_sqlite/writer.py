"""The one connection that writes, shared by all logs: group commit.

SQLite has one writer at a time and a commit that is to be durable costs an fsync, so a commit for each partition, one
after another, would make a busy broker wait for the sum of them. Instead, whoever wants to write puts the work
into a queue. If nobody is writing, it leads: it takes *all* that is queued, commits that as one transaction, wakes
those whose work it was, and hands the lead to the first of those that have come meanwhile. While a commit waits for the
disk the next group grows. There is no thread of its own: nothing to start, stop or hand results to. Work that came
first is in the first group. (With a plain lock in place of the hand-over, threads whose work was done stood in
line with those that had some, and groups had two pieces of work where they could have had sixteen.)

If one piece of work fails, the transaction is rolled back and each piece is tried by itself, so that what is
too large for the room that is left does not take others with it. Where the failure concerns the
file (an I/O error, a lock, damage) all fail.

**Durability.** Commits are ``synchronous=FULL`` if one of the group asks for it, else NORMAL, which leaves the fsync
out. One FULL commit syncs the -wal file, and so everything committed before it. Commits are numbered, and
``_durable`` is the last number known to be synced.

**After an I/O error nothing more is written**, for any log: they share the file, and a second fsync
may succeed for nothing after the first has failed. SQLite itself would go on.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from trunkline_sqlite.failures import explain, is_of_one_write, is_of_the_disk

__all__ = ["Work", "Writer"]

logger = logging.getLogger("trunkline.sqlite")

Work = Callable[[sqlite3.Connection], object]
"""Changes the database, inside a transaction that it neither begins nor ends. It may be called twice."""

_NORMAL, _FULL = 1, 2  # values of PRAGMA synchronous


class _Job:
    """A piece of work that somebody waits for, by acquiring ``wake``: until it is done or may lead."""

    __slots__ = ("commit", "error", "is_done", "is_durable", "then", "wake", "work")

    def __init__(self, work: Work, is_durable: bool, then: Callable[[], None] | None) -> None:
        self.work = work
        self.is_durable = is_durable
        self.then = then
        self.is_done = False
        self.error: BaseException | None = None
        self.commit = 0
        self.wake = threading.Lock()
        self.wake.acquire()


class Writer:
    """Commits the work of many threads. All methods may be called from any of them."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._queue: deque[_Job] = deque()
        self._lock = threading.Lock()  # for the queue and for who leads; never held for long
        self._has_leader = False  # only the leader uses the connection and what follows
        self._synchronous = 0
        self._commits = 0
        self._durable = 0
        self._failure: str | None = None
        connection.execute("PRAGMA cache_size = -16384")  # KiB

    def run(self, work: Work, *, is_durable: bool, then: Callable[[], None] | None = None) -> int:
        """Do ``work`` in a transaction and commit it; return the number of the commit.

        Args:
          is_durable: return only once it is on the disk.
          then: called after the commit, before any later one, in whatever thread commits; must not raise.

        Raises:
          StoreFull, CorruptLog, OSError: nothing of it was written. After a lock or a full disk it may be tried again.
        """
        job = _Job(work, is_durable, then)
        with self._lock:
            self._queue.append(job)
            has_to_wait, self._has_leader = self._has_leader, True
        if has_to_wait:
            job.wake.acquire()
        if not job.is_done:
            self._lead()
        if isinstance(job.error, sqlite3.Error):  # of all the group, hence a new error for each
            raise explain(job.error, self._path) from job.error
        if job.error is not None:
            raise job.error
        return job.commit

    def is_durable(self, commit: int) -> bool:
        """Whether the commit of that number, and so all before it, are on the disk."""
        return commit <= self._durable

    def _lead(self) -> None:
        """Do all that is queued, then let somebody else lead."""
        with self._lock:
            group = [*self._queue]
            self._queue.clear()
        self._run_group(group)
        with self._lock:
            following = self._queue[0] if self._queue else None
            self._has_leader = following is not None
        for job in group:
            job.wake.release()  # nobody waits for the leader's own
        if following is not None:
            following.wake.release()

    def _run_group(self, group: list[_Job]) -> None:
        """Commit all, each alone if together they fail."""
        error = self._commit(group)
        if error is not None and len(group) > 1 and is_of_one_write(error):
            for job in group:
                job.error = self._commit([job])
        else:
            for job in group:
                job.error = error
        for job in group:
            job.is_done = True

    def _commit(self, group: list[_Job]) -> BaseException | None:
        """One transaction; what went wrong, if anything, after which nothing of it was done."""
        if self._failure is not None:
            return OSError(errno.EIO, f"writing stopped after an error: {self._failure}", str(self._path))
        is_durable = any(job.is_durable for job in group)
        connection = self._connection
        try:
            self._set_synchronous(_FULL if is_durable else _NORMAL)
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                job.work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(error)
            return error
        self._commits += 1
        if is_durable:
            self._durable = self._commits
        for job in group:
            job.commit = self._commits
            if job.then is not None:
                job.then()
        return None

    def _roll_back(self, error: BaseException) -> None:
        try:
            if self._connection.in_transaction:  # SQLite may have done it already
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as another:
            self._failure = str(another)
        if is_of_the_disk(error, self._path):
            self._failure = str(error)
        if self._failure is not None:
            logger.critical("%s: nothing is written any more (%s); restart the broker", self._path, self._failure)

    def _set_synchronous(self, value: int) -> None:
        if value != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {value}")
            self._synchronous = value
