"""A store that keeps everything in memory, for tests and for trying things out. It is a plugin: ``--store memory``.

Nothing outlives the store; a log that is closed and opened again in the same store still has its records.
"""

from __future__ import annotations

from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Log, Store, StoreContext, TopicPartition
from trunkline.memory_log import KeptBatches, MemoryLog
from trunkline.settings import TopicSettings

__all__ = ["MemoryStore", "register_stores"]


class MemoryStore(Store):
    """Logs in memory; see the module's docstring."""

    blocking = False

    def __init__(self, context: StoreContext | None = None) -> None:
        self._logs: dict[TopicPartition, KeptBatches] = {}

    def list(self) -> list[TopicPartition]:
        return [*self._logs]

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        return MemoryLog(name, self._logs.setdefault(name, KeptBatches()))

    def delete(self, name: TopicPartition) -> None:
        self._logs.pop(name, None)

    def close(self) -> None:
        self._logs.clear()


@hookimpl
def register_stores(register: RegisterStore) -> None:
    """Offer the store ``memory``."""
    register("memory", MemoryStore)
