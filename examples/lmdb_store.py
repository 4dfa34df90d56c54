"""A store on LMDB, the memory-mapped B+tree: all logs in one file, with the system's page cache as its own.

    pip install lmdb
    python examples/lmdb_store.py

A batch is kept under its log's name and its *last* offset, so that the first key at or after (log, offset) is the batch
that holds the offset, or the one after a gap. An append is a transaction; it is durable when it has been committed,
which leaves nothing for ``flush`` to do. There is one writer at a time, for all logs together, so partitions
that are written to at once wait for each other's disk syncs.

It passes ``StoreCompliance``: see tests/test_example_store.py.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import lmdb
import msgspec
import trio

from trunkline import hookimpl, open_broker
from trunkline.errors import OffsetOutOfRange, StoreFull
from trunkline.hookspecs import RegisterStore
from trunkline.log import Chunk, Log, SavedState, Store, StoreContext, TimestampedOffset, TopicPartition
from trunkline.plugins import PluginHost
from trunkline.records import decode, read_header
from trunkline.settings import TopicSettings

KEPT_STATES: Final = 2


class LmdbSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[store.lmdb]``. ``max_bytes``: of the file; what is not used takes no room on the disk."""

    max_bytes: int = 64 * 1024**3


class Ends(msgspec.Struct):
    """What is kept of a log beside its batches, in the database ``logs``."""

    start_offset: int = 0
    end_offset: int = 0
    size_bytes: int = 0


def prefix(name: TopicPartition) -> bytes:
    return f"{name.topic}/{name.partition}/".encode()  # no topic has a slash


class LmdbLog(Log):
    """One log: a range of keys."""

    def __init__(self, store: LmdbStore, name: TopicPartition) -> None:
        self._env, self._batches, self._states, self._logs = store.env, store.batches, store.states, store.logs
        self._name, self._prefix = name, prefix(name)
        self._lock = threading.Lock()  # so that _ends follow the transactions in their order
        self._ends = Ends()
        self._change(lambda writing, ends: None)  # it exists from now on

    def _key(self, offset: int) -> bytes:
        return self._prefix + offset.to_bytes(8, "big")

    def _ends_in(self, transaction: lmdb.Transaction) -> Ends:
        stored = transaction.get(self._prefix, db=self._logs)
        return msgspec.json.decode(stored, type=Ends) if stored else Ends()

    def _change(self, work: Callable[[lmdb.Transaction, Ends], None]) -> None:
        """One transaction: all of it is durable, or nothing has happened. Raises StoreFull."""
        try:
            with self._lock:
                with self._env.begin(write=True) as writing:
                    ends = self._ends_in(writing)
                    work(writing, ends)
                    writing.put(self._prefix, msgspec.json.encode(ends), db=self._logs)
                self._ends = ends
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StoreFull(f"{self._name}: {error}; make room, or raise max_bytes of [store.lmdb]") from None

    def _walk(self, transaction: lmdb.Transaction, offset: int, end_offset: int) -> Iterator[bytes]:
        """The batches from the one that holds ``offset``, up to ``end_offset``."""
        with transaction.cursor(self._batches) as cursor:
            found = cursor.set_range(self._key(offset))
            while found and self._key(offset) <= bytes(cursor.key()) < self._key(end_offset):
                yield bytes(cursor.value())
                found = cursor.next()

    @property
    def start_offset(self) -> int:
        return self._ends.start_offset

    @property
    def end_offset(self) -> int:
        return self._ends.end_offset

    def append(self, batches: Sequence[bytes]) -> None:
        def work(writing: lmdb.Transaction, ends: Ends) -> None:
            for batch in batches:
                ends.end_offset = read_header(batch).next_offset
                writing.put(self._key(ends.end_offset - 1), batch, db=self._batches)
                ends.size_bytes += len(batch)

        if batches:
            self._change(work)

    def flush(self) -> int:
        return self.end_offset

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        with self._env.begin() as reading:
            ends = self._ends_in(reading)  # those of this transaction: a trim may have come between
            start, end = ends.start_offset, ends.end_offset
            if not start <= offset <= end:
                message = f"{self._name}: offset {offset} is outside {start} to {end}"
                raise OffsetOutOfRange(message, log_start_offset=start, high_watermark=end)
            found: list[bytes] = []
            size = 0
            for batch in self._walk(reading, offset, end_offset):
                if found and size + len(batch) > max_bytes:
                    break
                found.append(batch)
                size += len(batch)
            return b"".join(found)

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        with self._env.begin() as reading:
            start = self._ends_in(reading).start_offset
            for batch in self._walk(reading, start, end_offset):
                if read_header(batch).max_timestamp >= timestamp:
                    for record in decode(batch):
                        if record.timestamp >= timestamp and record.offset >= start:
                            return TimestampedOffset(record.offset, record.timestamp)
        return None

    def chunks(self) -> Iterator[Chunk]:
        with self._env.begin() as reading:
            ends = self._ends_in(reading)
            start = ends.start_offset
            headers = [read_header(batch) for batch in self._walk(reading, start, ends.end_offset)]
        for header in headers:
            yield Chunk(max(start, header.base_offset), header.next_offset, header.size_bytes, header.max_timestamp)

    def _remove(self, writing: lmdb.Transaction, start: int, end: int) -> int:
        """Remove the batches whose last offset is in ``[start, end)``; how many bytes they had."""
        size = 0
        for batch in list(self._walk(writing, start, end)):
            header = read_header(batch)
            writing.delete(self._key(header.last_offset), db=self._batches)
            size += header.size_bytes
        return size

    def trim(self, offset: int) -> None:
        def work(writing: lmdb.Transaction, ends: Ends) -> None:
            ends.size_bytes -= self._remove(writing, 0, offset)
            ends.start_offset = offset

        if offset > self.start_offset:
            self._change(work)
            self._change(lambda writing, ends: None)  # LMDB uses freed pages again from the second transaction on

    def truncate(self, offset: int) -> None:
        def work(writing: lmdb.Transaction, ends: Ends) -> None:
            ends.size_bytes -= self._remove(writing, offset, ends.end_offset)
            ends.end_offset = offset
            for state in self._saved(writing):
                if state.offset > offset:
                    writing.delete(self._key(state.offset), db=self._states)

        self._change(work)

    @property
    def rewritable_end_offset(self) -> int:
        return self.end_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        offset = self.start_offset
        while offset < end_offset:
            with self._env.begin() as reading:  # one batch at a time: transform may take long, and others write
                old = next(self._walk(reading, offset, end_offset), None)
            if old is None:
                return
            new = transform(old)
            if new is not old:
                self._change(partial(self._replace, old, new))
            offset = read_header(old).next_offset

    def _replace(self, old: bytes, new: bytes | None, writing: lmdb.Transaction, ends: Ends) -> None:
        key = self._key(read_header(old).last_offset)
        ends.size_bytes += len(new or b"") - len(old)
        if new is None:
            writing.delete(key, db=self._batches)
        else:
            writing.put(key, new, db=self._batches)

    def size_bytes(self) -> int:
        return self._ends.size_bytes

    def _saved(self, transaction: lmdb.Transaction) -> list[SavedState]:
        found = []
        with transaction.cursor(self._states) as cursor:
            is_there = cursor.set_range(self._prefix)
            while is_there and (key := bytes(cursor.key())).startswith(self._prefix):
                found.append(SavedState(int.from_bytes(key[-8:], "big"), bytes(cursor.value())))
                is_there = cursor.next()
        return found

    def save_state(self, state: SavedState) -> None:
        with self._env.begin(write=True) as writing:
            writing.put(self._key(state.offset), state.state, db=self._states)
            for old in self._saved(writing)[:-KEPT_STATES]:
                writing.delete(self._key(old.offset), db=self._states)

    def load_state(self) -> SavedState | None:
        with self._env.begin() as reading:
            return max((s for s in self._saved(reading) if s.offset <= self.end_offset), default=None)

    def close(self) -> None:
        """Everything is durable already."""


class LmdbStore(Store):
    """One environment, three databases: batches, saved states, and the ends of each log."""

    blocking = True  # a commit waits for the disk, and for the writer before it

    def __init__(self, context: StoreContext) -> None:
        settings = context.settings if isinstance(context.settings, LmdbSettings) else LmdbSettings()
        self.env = lmdb.open(str(context.directory), map_size=settings.max_bytes, max_dbs=3, max_readers=512)
        self.batches, self.states, self.logs = (self.env.open_db(name) for name in (b"batches", b"states", b"logs"))

    def list(self) -> list[TopicPartition]:
        with self.env.begin() as reading, reading.cursor(self.logs) as cursor:
            names = [bytes(key).decode().split("/") for key in cursor.iternext(values=False)]
        return [TopicPartition(topic, int(partition)) for topic, partition, _ in names]

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        return LmdbLog(self, name)

    def delete(self, name: TopicPartition) -> None:
        with self.env.begin(write=True) as writing:
            for database in (self.batches, self.states, self.logs):
                with writing.cursor(database) as cursor:
                    while cursor.set_range(prefix(name)) and bytes(cursor.key()).startswith(prefix(name)):
                        cursor.delete()

    def close(self) -> None:
        self.env.close()


@hookimpl
def register_stores(register: RegisterStore) -> None:
    register("lmdb", LmdbStore, settings=LmdbSettings)


async def main() -> None:
    host = PluginHost()
    host.add("lmdb", sys.modules[__name__])  # an installed plugin is found by its entry point instead
    async with open_broker(store="lmdb", plugins=host) as broker:
        for count in range(3):
            await broker.publish("orders", f"{count} apples".encode(), key=b"alice")
        async for record in broker.read("orders", follow=False):
            print(f"{record.offset}: {record.value!r}")


if __name__ == "__main__":
    trio.run(main)
