"""A store in memory that does as a test tells it: fails, waits, and reports what it was asked.

It also watches its caller. Whatever the core promises a log (:mod:`trunkline.log`) is checked at every call,
and what was broken is in :attr:`ScriptedStore.violations`, because an exception raised in a commit thread would
only look like a failing disk. Records outlive ``close``, as they do on a disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trunkline.errors import StoreFull
from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Chunk, Log, SavedState, Store, TimestampedOffset, TopicPartition
from trunkline.settings import TopicSettings
from trunkline.testing.memory_store import MemoryStore

__all__ = ["ScriptedLog", "ScriptedStore"]

_CHANGES = frozenset({"append", "truncate", "trim", "close"})
_EXCLUSIVE = frozenset({"truncate", "trim", "close"})  # overlapped by reads only
_READS = frozenset({"read", "read_nowait", "find_timestamp", "find_keys"})
_WAIT_S = 20.0  # for a release that a failing test may never give


class ScriptedStore(Store):
    """The store and its script. It is its own plugin: ``PluginHost().add("scripted", store)`` offers ``scripted``.

    Attributes:
      blocking: see :class:`trunkline.log.Store`.
      reads_wait: ``read_nowait`` always says that it would have to wait.
      calls: name and log of every call so far, except reads of properties.
      violations: in words, how the caller broke what a log is promised.
    """

    def __init__(self, *, blocking: bool = False, reads_wait: bool = False) -> None:
        self.blocking = blocking
        self.reads_wait = reads_wait
        self.calls: list[tuple[str, TopicPartition]] = []
        self.violations: list[str] = []
        self._memory = MemoryStore()
        self._failures: dict[str, list[Exception]] = {}
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._open: set[TopicPartition] = set()

    @hookimpl
    def register_stores(self, register: RegisterStore) -> None:
        register("scripted", lambda context: self)

    # -- the script --------------------------------------------------------------------------------

    def fail_next(self, call: str, error: Exception) -> None:
        """Let the next call of this name raise ``error``, after doing nothing; say it again for the one after."""
        self._failures.setdefault(call, []).append(error)

    def hold(self, call: str) -> None:
        """Let calls of this name wait, from now until :meth:`release`."""
        self._gates[call] = threading.Event()

    def release(self, call: str) -> None:
        """Let waiting calls of this name go on, and later ones not wait."""
        self._gates.pop(call).set()

    def count(self, call: str) -> int:
        """How many calls of this name there were."""
        return sum(name == call for name, _ in self.calls)

    @contextmanager
    def called(self, call: str, name: TopicPartition) -> Iterator[None]:
        """Around everything that is done for the caller."""
        self.calls.append((call, name))
        gate = self._gates.get(call)
        if gate is not None:
            gate.wait(_WAIT_S)
        failures = self._failures.get(call)
        if failures:
            raise failures.pop(0)
        yield

    # -- the store ---------------------------------------------------------------------------------

    def list(self) -> list[TopicPartition]:
        return self._memory.list()

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        with self.called("open", name):
            if name in self._open:
                self.violations.append(f"{name} was opened twice")
            self._open.add(name)
            return ScriptedLog(self, name, self._memory.open(name, settings))

    def delete(self, name: TopicPartition) -> None:
        with self.called("delete", name):
            if name in self._open:
                self.violations.append(f"{name} was deleted while it was open")
            self._memory.delete(name)

    def closed(self, name: TopicPartition) -> None:
        """A log was closed."""
        self._open.discard(name)

    def close(self) -> None:
        self._open.clear()


class ScriptedLog(Log):
    """One log of a :class:`ScriptedStore`."""

    def __init__(self, store: ScriptedStore, name: TopicPartition, log: Log) -> None:
        self._store = store
        self._name = name
        self._log = log
        self._lock = threading.Lock()
        self._running: list[str] = []
        self._is_closed = False
        self._failed: set[str] = set()

    @contextmanager
    def _called(self, call: str) -> Iterator[None]:
        with self._lock:
            self._store.violations.extend(f"{self._name}: {call} {why}" for why in self._problems(call))
            self._running.append(call)
        try:
            with self._store.called(call, self._name):
                yield
        except StoreFull:
            raise  # nothing was written, and the log stays usable
        except Exception:
            self._failed.add(call)
            raise
        finally:
            with self._lock:
                self._running.remove(call)

    def _problems(self, call: str) -> Iterator[str]:
        if self._is_closed:
            yield "after close"
        if call == "append" and self._failed & {"append", "flush"}:
            yield "after a failed append or flush"
        if call == "flush" and "flush" in self._failed:
            yield "after a failed flush"
        for other in self._running:
            both = {call, other}
            if (
                both <= _CHANGES
                or (call == other and call in ("flush", "save_state"))
                or (both & _EXCLUSIVE and not both & _READS)
            ):
                yield f"during {other}"

    @property
    def start_offset(self) -> int:
        return self._log.start_offset

    @property
    def end_offset(self) -> int:
        return self._log.end_offset

    def append(self, batches: Sequence[bytes]) -> None:
        with self._called("append"):
            self._log.append(batches)

    def flush(self) -> int:
        with self._called("flush"):
            return self._log.flush()

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        with self._called("read"):
            return self._log.read(offset, max_bytes, end_offset)

    def read_nowait(self, offset: int, max_bytes: int, end_offset: int) -> bytes | None:
        if self._store.reads_wait:
            return None
        with self._called("read_nowait"):
            return self._log.read(offset, max_bytes, end_offset)

    def find_timestamp(self, timestamp: int, end_offset: int) -> TimestampedOffset | None:
        with self._called("find_timestamp"):
            return self._log.find_timestamp(timestamp, end_offset)

    def find_keys(
        self, offset: int, end_offset: int, wants: Callable[[bytes], bool], max_offsets: int
    ) -> tuple[list[int], int]:
        with self._called("find_keys"):
            return self._log.find_keys(offset, end_offset, wants, max_offsets)

    def truncate(self, offset: int) -> None:
        with self._called("truncate"):
            self._log.truncate(offset)

    def trim(self, offset: int) -> None:
        with self._called("trim"):
            self._log.trim(offset)

    def chunks(self) -> Iterator[Chunk]:
        with self._called("chunks"):
            return self._log.chunks()

    @property
    def rewritable_end_offset(self) -> int:
        return self._log.rewritable_end_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        with self._called("rewrite"):
            self._log.rewrite(end_offset, transform)

    def size_bytes(self) -> int:
        return self._log.size_bytes()

    def save_state(self, state: SavedState) -> None:
        with self._called("save_state"):
            self._log.save_state(state)

    def load_state(self) -> SavedState | None:
        return self._log.load_state()

    def close(self) -> None:
        with self._called("close"):
            self._is_closed = True
            self._log.close()
            self._store.closed(self._name)
