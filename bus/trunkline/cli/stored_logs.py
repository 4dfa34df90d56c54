"""Finds the logs that a directory holds: a data directory, a store in one, a log in that, or copies of these.

Nothing that is looked at is changed: stores get an :class:`~trunkline.overlay.OverlayDisk`. (SQLite opens its files
itself, and may do with them what it does whenever a database is opened.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from trunkline.config import BrokerConfig
from trunkline.config_sources import load_config
from trunkline.disk import RealDisk
from trunkline.errors import CorruptLog
from trunkline.lock import lock_directory
from trunkline.log import Fault, Store, TopicPartition
from trunkline.offline import OfflineData, StoredTopic, is_data_directory, make_store
from trunkline.overlay import OverlayDisk
from trunkline.plugins import PluginHost
from trunkline.settings import TopicSettings

__all__ = ["StoredLog", "StoredLogs", "open_stored_logs"]

_DEFAULT_STORE = "segments"


class StoredLog(NamedTuple):
    """A log, and what it takes to open it. ``real_store`` gives the store on the real disk, to change it."""

    store_name: str
    store: Store
    directory: Path
    name: TopicPartition
    settings: TopicSettings


class StoredLogs:
    """What :func:`open_stored_logs` found.

    Attributes:
      faults: of what is not in one log: a store that cannot be opened, a log that is missing; by store.
    """

    def __init__(self, config: BrokerConfig, stack: ExitStack) -> None:
        self.faults: list[tuple[str, Fault]] = []
        self.logs: list[StoredLog] = []
        self._config = config
        self._host = PluginHost()
        self._stack = stack

    def add_data(self, directory: Path, only_store: str | None, only_log: str | None) -> None:
        """The logs of a data directory, or those of one store, or one log of it."""
        data = OfflineData(directory, self._config, OverlayDisk(RealDisk()), self._host)
        topics = [topic for topic in data.topics() if not topic.is_deleting]
        names = {topic.storage for topic in topics} if only_store is None else {only_store}
        for name in sorted(names):
            store = self.add_store(name, directory / name, topics, only_log)
            present = set(store.list()) if store is not None else set()
            for topic in topics:
                if topic.storage == name and store is not None and only_log is None:
                    self._report_missing(topic, present)

    def add_store(
        self, store_name: str, directory: Path, topics: list[StoredTopic], only_log: str | None = None
    ) -> Store | None:
        """The logs in a store's directory. None if the store cannot be opened."""
        if not directory.is_dir():
            self.faults.append((store_name, Fault(str(directory), None, None, "the store's directory is missing")))
            return None
        try:
            store = make_store(store_name, directory, self._config, self._host, OverlayDisk(RealDisk()))
        except CorruptLog as error:
            self.faults.append((store_name, Fault(str(directory), None, None, str(error))))
            return None
        self._stack.callback(store.close)
        settings = {topic.name: topic.parsed_settings for topic in topics}
        for name in sorted(store.list()):
            if only_log is None or _directory_name(name) == only_log:
                parsed = settings.get(name.topic, TopicSettings())
                self.logs.append(StoredLog(store_name, store, directory, name, parsed))
        return store

    def _report_missing(self, topic: StoredTopic, present: set[TopicPartition]) -> None:
        for name in topic.logs:
            if name not in present:
                reason = "the topic has this partition, but there is no log of it; the broker would make an empty one"
                self.faults.append((topic.storage, Fault(str(name), None, None, reason)))

    def real_store(self, log: StoredLog) -> Store:
        """The log's store on the real disk; for the caller to close."""
        return make_store(log.store_name, log.directory, self._config, self._host, RealDisk())


@contextmanager
def open_stored_logs(directory: Path, store_name: str | None, config_file: Path | None) -> Iterator[StoredLogs]:
    """Find the logs of a directory, locked against brokers if it belongs to a data directory.

    Args:
      store_name: what keeps the logs, where the directory does not say.

    Raises a usage error if there are none, DataDirectoryLocked, ConfigurationError, PluginError.
    """
    directory = directory.absolute()
    if not directory.is_dir():
        raise click.BadParameter(f"{directory} is no directory", param_hint="DIR")
    with ExitStack() as stack:
        found = StoredLogs(load_config(config_file, environ=os.environ), stack)
        for depth, data in enumerate((directory, *directory.parents[:2])):
            if is_data_directory(data):
                stack.enter_context(lock_directory(data))
                below = directory.relative_to(data).parts
                found.add_data(data, below[0] if depth > 0 else None, below[1] if depth > 1 else None)
                break
        else:
            name = store_name or _DEFAULT_STORE
            found.add_store(name, directory.parent, [], directory.name)
            if not found.logs:
                found.add_store(name, directory, [])
            if store_name is None:  # a guess, and many a foreign directory is called like a log
                found.logs = [log for log in found.logs if _has_segments(log)]
        if not found.logs and not found.faults and not is_data_directory(directory):
            raise click.BadParameter(f"{directory} holds no logs; give a broker's data directory", param_hint="DIR")
        yield found


def _directory_name(name: TopicPartition) -> str:
    """As stores with a directory for each log call it."""
    return f"{name.topic}-{name.partition}"


def _has_segments(log: StoredLog) -> bool:
    return any((log.directory / _directory_name(log.name)).glob("*.log"))
