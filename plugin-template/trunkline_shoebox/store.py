"""The directory of all logs: a directory for each, called ``TOPIC-PARTITION``."""

from __future__ import annotations

from trunkline.log import Log, Store, StoreContext, TopicPartition
from trunkline.settings import TopicSettings

from trunkline_shoebox.log import ShoeboxLog

__all__ = ["ShoeboxStore"]

_DELETED = "~"  # no partition ends so


class ShoeboxStore(Store):
    """Makes the logs and knows which there are."""

    blocking = True  # an append waits for a lock that a read may hold

    def __init__(self, context: StoreContext) -> None:
        self._directory = context.directory
        self._disk = context.disk
        for name in self._disk.list(self._directory):
            if name.endswith(_DELETED):  # a crash cut the removal off
                self._disk.remove_directory(self._directory / name)

    def list(self) -> list[TopicPartition]:
        found = []
        for name in self._disk.list(self._directory):
            topic, _, partition = name.rpartition("-")
            if topic and partition.isdecimal():
                found.append(TopicPartition(topic, int(partition)))
        return found

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        directory = self._directory / _directory_name(name)
        self._disk.make_directory(directory)
        return ShoeboxLog(self._disk, directory, name)

    def delete(self, name: TopicPartition) -> None:
        text = _directory_name(name)
        if text not in self._disk.list(self._directory):
            return
        doomed = self._directory / (text + _DELETED)
        self._disk.rename(self._directory / text, doomed)
        self._disk.sync_directory(self._directory)  # gone from here on; a crash leaves only files to remove
        self._disk.remove_directory(doomed)

    def close(self) -> None:
        """The logs are closed already."""


def _directory_name(name: TopicPartition) -> str:
    return f"{name.topic}-{name.partition}"
