"""What the checks of the store suite have in common."""

from __future__ import annotations

import reprlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from trunkline.log import Log, Store, TopicPartition
from trunkline.records import Record
from trunkline.settings import TopicSettings
from trunkline.testing.batches import content, next_offset

__all__ = ["MANY_BYTES", "NAME", "Promises", "SuiteStore", "beside", "expect"]

MANY_BYTES = 1 << 20
"""More than any log of the suite holds, where a check is not about the limit."""


NAME = TopicPartition("orders", 0)
"""The log that most checks use."""


def expect(promise: str, found: Any, wanted: Any) -> None:
    """Fail, quoting the promise, unless what was found is what was wanted."""
    if found != wanted:
        shorten = _Shortened().repr
        raise AssertionError(f"broken promise: {promise}\n  wanted: {shorten(wanted)}\n  found:  {shorten(found)}")


@contextmanager
def beside(*functions: Callable[[], object]) -> Iterator[None]:
    """Run each of these in a thread beside the block, and wait for all of them behind it.

    They take turns 25 times as often as Python lets threads by itself. So they meet each other in more places, and
    who comes back from the disk does not wait 5 ms for one that keeps busy.
    """
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        threads = [threading.Thread(target=function) for function in functions]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)


class _Shortened(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 20
        self.maxother = self.maxstring = 200


class SuiteStore:
    """The store under test, with what it takes to close it and open it again."""

    def __init__(
        self, factory: Callable[[Path], Store], directory: Path, settings: TopicSettings, *, is_durable: bool
    ) -> None:
        self._factory = factory
        self._directory = directory
        self._is_durable = is_durable
        self._logs: dict[TopicPartition, Log] = {}
        self.settings = settings
        self.store = factory(directory)

    def open(self, name: TopicPartition) -> Log:
        log = self._logs[name] = self.store.open(name, self.settings)
        return log

    def close_log(self, name: TopicPartition) -> None:
        self._logs.pop(name).close()

    def restart(self) -> None:
        """Close everything; if logs are to outlive the store, make a new one in the same directory."""
        for name in [*self._logs]:
            self.close_log(name)
        if self._is_durable:
            self.store.close()
            self.store = self._factory(self._directory)

    def reopen(self, name: TopicPartition = NAME) -> Log:
        """Restart, then open a log."""
        self.restart()
        return self.open(name)

    def before_and_after_restart(self, log: Log) -> Iterator[Log]:
        """The log, and once that was looked at, the same one reopened: nothing is called after ``close``."""
        yield log
        yield self.reopen()

    def close(self) -> None:
        for name in [*self._logs]:
            self.close_log(name)
        self.store.close()


class Promises:
    """Base of the parts of the suite."""

    supports_truncate: ClassVar[bool]
    is_durable: ClassVar[bool]
    keeps_batches_verbatim: ClassVar[bool]

    def expect_batches(self, promise: str, found: bytes, wanted: Sequence[bytes], from_offset: int = 0) -> None:
        """Fail unless these batches were given: their bytes, or where those may differ, their records."""
        joined = b"".join(wanted)
        if self.keeps_batches_verbatim and found == joined:
            return
        expect(promise, _records(found, from_offset), _records(joined, from_offset))
        if self.keeps_batches_verbatim:
            expect(f"{promise}; the store declares that it keeps batches verbatim, byte for byte", found, joined)

    def expect_log(self, promise: str, log: Log, wanted: Sequence[bytes]) -> None:
        """Fail unless the log gives exactly these batches from its start offset on."""
        found, offset = b"", log.start_offset
        while offset < log.end_offset:
            data = log.read(offset, MANY_BYTES, log.end_offset)
            expect(f"there are records at offset {offset}, so a read is not empty", len(data) > 0, True)
            found += data
            offset = next_offset(data)
        self.expect_batches(promise, found, wanted, log.start_offset)


def _records(batches: bytes, from_offset: int) -> list[Record]:
    return [record for record in content(batches) if record.offset >= from_offset]
