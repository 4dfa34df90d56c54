"""A data directory while no broker runs: its topics and stores, for tools that look at them or change them.

The directory is locked as a broker locks it, so that the two exclude each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from trunkline.config import BrokerConfig
from trunkline.disk import Disk, RealDisk
from trunkline.errors import ConfigurationError, UnknownTopic
from trunkline.lock import lock_directory
from trunkline.log import Store, StoreContext, TopicPartition
from trunkline.metadata import FileMetadata, MetadataEntry
from trunkline.plugins import PluginHost
from trunkline.settings import TopicSettings

__all__ = ["OfflineData", "StoredTopic", "is_data_directory", "make_store", "open_offline"]

_METADATA: Final = "metadata.json"
_LOCK: Final = "lock"


class StoredTopic(msgspec.Struct, frozen=True):
    """A topic as its metadata say, with the fields that tools need; ``revision`` is that of the entry."""

    name: str
    id: str
    partitions: int
    storage: str
    revision: int
    settings: dict[str, str] = {}
    is_deleting: bool = False

    @property
    def logs(self) -> list[TopicPartition]:
        return [TopicPartition(self.name, index) for index in range(self.partitions)]

    @property
    def parsed_settings(self) -> TopicSettings:
        """For opening its logs."""
        return TopicSettings.parse(self.settings)


def is_data_directory(directory: Path) -> bool:
    """Whether a broker has run in it; one that never had a topic has left only its lock."""
    return any((directory / name).is_file() for name in (_METADATA, _LOCK))


def make_store(name: str, directory: Path, config: BrokerConfig, host: PluginHost, disk: Disk) -> Store:
    """Open the store ``name`` in a directory. Raises PluginError, ConfigurationError, CorruptLog, OSError."""
    registered = host.store(name)
    settings = config.plugin_settings("store", name, registered.settings_type)
    return registered.factory(StoreContext(directory, disk, settings))


class OfflineData:
    """Made by :func:`open_offline`. Stores are opened when they are first asked for.

    Attributes:
      directory: the data directory.
      disk: what everything here goes through.
    """

    def __init__(self, directory: Path, config: BrokerConfig, disk: Disk, host: PluginHost) -> None:
        self.directory = directory
        self.disk = disk
        self._config = config
        self._host = host
        self._stores: dict[str, Store] = {}
        self._metadata = FileMetadata(directory / _METADATA, disk)

    def topics(self) -> list[StoredTopic]:
        """By name. Raises CorruptLog if the metadata cannot be understood."""
        return [self._topic(key.removeprefix("topics/"), entry) for key, entry in self.entries("topics/").items()]

    def topic(self, name: str) -> StoredTopic:
        """One topic. Raises UnknownTopic."""
        for found in self.topics():
            if found.name == name:
                return found
        raise UnknownTopic(f"{self.directory}: there is no topic {name!r}", topic=name)

    def _topic(self, name: str, entry: MetadataEntry) -> StoredTopic:
        return msgspec.convert({**entry.value, "name": name, "revision": entry.revision}, StoredTopic)

    def entries(self, prefix: str) -> dict[str, MetadataEntry]:
        """Metadata entries by key."""
        return trio.run(self._metadata.list, prefix)

    def write(self, key: str, value: dict[str, Any] | None, revision: int) -> int:
        """Change a metadata entry, durably; see :meth:`trunkline.metadata.MetadataStore.compare_and_set`."""
        return trio.run(self._metadata.compare_and_set, key, value, revision)

    def store(self, name: str) -> Store:
        """A store, opened now if it is not yet. Raises as :func:`make_store`."""
        if name not in self._stores:
            directory = self.directory / name
            self.disk.make_directory(directory)
            self._stores[name] = make_store(name, directory, self._config, self._host, self.disk)
        return self._stores[name]

    def close(self) -> None:
        """Close the stores; their logs are closed already."""
        while self._stores:
            self._stores.popitem()[1].close()


@contextmanager
def open_offline(
    directory: Path,
    *,
    config: BrokerConfig | None = None,
    disk: Disk | None = None,
    host: PluginHost | None = None,
) -> Iterator[OfflineData]:
    """Lock a data directory and give what is in it.

    Args:
      config: for the tables of the stores.
      disk: an :class:`trunkline.overlay.OverlayDisk`, to leave all files as they are; None: the real one.
      host: with plugins that are not installed.

    Raises:
      ConfigurationError: it is no data directory.
      DataDirectoryLocked: a broker or another tool uses it.
      CorruptLog: its metadata cannot be read.
    """
    if not is_data_directory(directory):
        raise ConfigurationError(f"{directory} is no broker's data directory: it has no {_METADATA}")
    with ExitStack() as stack:
        stack.enter_context(lock_directory(directory))
        data = OfflineData(directory, config or BrokerConfig(), disk or RealDisk(), host or PluginHost())
        stack.callback(data.close)
        yield data
