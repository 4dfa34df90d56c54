"""The directory of all logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from trunkline.log import Fault, Log, Store, StoreContext, TopicPartition
from trunkline.settings import TopicSettings
from trunkline_segments.files import OpenFiles
from trunkline_segments.log import SegmentLog
from trunkline_segments.names import DELETED, deleted_name, directory_name, parse_directory_name

__all__ = ["SegmentStore"]

logger = logging.getLogger("trunkline.segments")


class SegmentStore(Store):
    """A directory with one directory for each log, as :mod:`trunkline_segments.names` names them."""

    blocking = False

    def __init__(self, context: StoreContext) -> None:
        self._directory = context.directory
        self._disk = context.disk
        self._open_files = OpenFiles(context.disk)
        for name in self._disk.list(self._directory):
            if name.endswith(DELETED):  # a crash cut the removal off
                self._disk.remove_directory(self._directory / name)

    def list(self) -> list[TopicPartition]:
        found = []
        for text in self._disk.list(self._directory):
            name = parse_directory_name(text)
            if name is not None:
                found.append(name)
            elif not text.endswith(DELETED):
                logger.warning("%s is not the name of a log; it is left alone", self._directory / text)
        return found

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        directory = self._directory / directory_name(name)
        self._disk.make_directory(directory)
        return SegmentLog(self._open_files, directory, name, settings)

    def verify(self, name: TopicPartition) -> Iterator[Fault]:
        from trunkline_segments.verify import verify_directory

        return verify_directory(self._disk, self._directory / directory_name(name))

    def delete(self, name: TopicPartition) -> None:
        text = directory_name(name)
        if text not in self._disk.list(self._directory):
            return
        doomed = self._directory / deleted_name(text)
        self._disk.remove_directory(doomed)
        self._disk.rename(self._directory / text, doomed)
        self._disk.sync_directory(
            self._directory
        )  # from here on it is gone; a crash leaves only work for the next start
        self._disk.remove_directory(doomed)
        self._disk.sync_directory(self._directory)

    def close(self) -> None:
        """Nothing is left to do: every log has closed its files."""
