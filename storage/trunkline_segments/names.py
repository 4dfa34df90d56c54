"""How logs and their files are named: Kafka's ``topic-partition/00000000000000000042.log``."""

from __future__ import annotations

import re

from crc32c import crc32c

from trunkline.errors import InvalidTopicName
from trunkline.log import TopicPartition
from trunkline.settings import check_topic_name

__all__ = [
    "CHECKPOINT",
    "CLEANED",
    "DELETED",
    "INDEX",
    "KEYS",
    "LOG",
    "SNAPSHOT",
    "SWAP",
    "TEMPORARY",
    "TIME_INDEX",
    "deleted_name",
    "directory_name",
    "file_name",
    "offsets_of",
    "parse_directory_name",
]

LOG = ".log"
INDEX = ".index"
TIME_INDEX = ".timeindex"
KEYS = ".keys"
SNAPSHOT = ".snapshot"
CHECKPOINT = "checkpoint"
TEMPORARY = ".tmp"  # what Disk.replace_file leaves behind when it is cut off
DELETED = ".delete"
CLEANED = ".cleaned"  # follows a suffix: a rewritten file that is not in force yet, see swap
SWAP = ".swap"  # follows LOG: a rewritten one that is in force

_MAX_FILE_NAME = 255
_PARTITION = re.compile(r"0|[1-9][0-9]*")
_BASE_OFFSET = re.compile(r"[0-9]{20}")


def directory_name(name: TopicPartition) -> str:
    return f"{name.topic}-{name.partition}"


def parse_directory_name(text: str) -> TopicPartition | None:
    """The log that a directory holds, or None if it is not the name of one.

    Topics may contain dashes, so the partition is what follows the last one.
    """
    topic, _, partition = text.rpartition("-")
    if _PARTITION.fullmatch(partition) is None:
        return None
    try:
        return TopicPartition(check_topic_name(topic), int(partition))
    except InvalidTopicName:
        return None


def deleted_name(directory: str) -> str:
    """What a log's directory is called while it is being removed; never the name of a log."""
    if len(directory) + len(DELETED) > _MAX_FILE_NAME:
        checksum = f"{crc32c(directory.encode()):08x}"
        directory = directory[: _MAX_FILE_NAME - len(DELETED) - len(checksum)] + checksum
    return directory + DELETED


def file_name(offset: int, suffix: str) -> str:
    return f"{offset:020d}{suffix}"


def offsets_of(names: list[str], suffix: str) -> list[int]:
    """The offsets in the names of the files with this suffix, in order; other names are passed over."""
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(stem) for stem in stems if _BASE_OFFSET.fullmatch(stem))
