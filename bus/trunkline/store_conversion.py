"""Moves topics from one store to another, offline, through nothing but the stores' public interface.

One topic at a time, in an order that leaves a whole topic whatever happens in between:

1. the metadata get an entry ``conversions/TOPIC`` that says from where to where, so that what a crash leaves
   behind is known for what it is;
2. every log is copied, with its gaps, its start and its saved state, and flushed;
3. both are opened anew and compared, batch by batch;
4. the topic's entry names the new store: in one step, and from here on it is the one in use;
5. the old logs are removed, unless they are to be kept, and then the entry of step 1.

Before 4 a crash leaves the old logs in use, and copies that the next conversion removes; after it the new ones, and
old ones that the next conversion removes (:meth:`Conversion.settle`). The broker looks at neither.

A copy must end where its original does, and the last batches may have been compacted away. So where offsets
are missing at the end, a batch without records takes the last one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final, NamedTuple

from trunkline.errors import ConfigurationError, CorruptLog, StoreFull, TrunklineError
from trunkline.log import Log, TopicPartition
from trunkline.offline import OfflineData, StoredTopic
from trunkline.records import BatchHeader, check_batch, decode, encode, iter_headers, read_header, with_records

__all__ = ["Conversion", "Progress"]

READ_BYTES: Final = 4 * 1024 * 1024
"""Copied at a time; also how much is appended with one fsync."""

_KEY: Final = "conversions/"

Progress = Callable[[TopicPartition, str, int], None]
"""Told of every step: the log, ``copying`` or ``comparing``, and how many bytes more."""


class Conversion:
    """Moves topics of a data directory into the store ``target``.

    Args:
      keep: leave the old logs where they are. The topic cannot go back to that store while they are there.
    """

    def __init__(self, data: OfflineData, target: str, *, keep: bool = False, progress: Progress | None = None) -> None:
        self._data = data
        self._target = target
        self._keep = keep
        self._progress = progress or (lambda name, step, size: None)

    def topics(self, names: tuple[str, ...] = ()) -> list[StoredTopic]:
        """Those to move: all that are in another store, or of these names. Raises UnknownTopic."""
        found = [self._data.topic(name) for name in names] if names else self._data.topics()
        return [topic for topic in found if topic.storage != self._target and not topic.is_deleting]

    def size_bytes(self, topic: StoredTopic) -> int:
        """What the topic's logs take now."""
        total = 0
        for name in topic.logs:
            with closing(self._data.store(topic.storage).open(name, topic.parsed_settings)) as log:
                total += log.size_bytes()
        return total

    def run(self, topic: StoredTopic) -> None:
        """Move one topic; durable when it returns.

        Raises:
          StoreFull: there is less free space than the topic takes now, or none was left.
          ConfigurationError: the target already has logs of this name that are not a conversion's.
          CorruptLog: the original is damaged, or the copy is not the same.

        In any case of error the topic stays as it was.
        """
        self._check_free(topic)
        self._refuse_leftovers(topic)
        value = {"from": topic.storage, "to": self._target, "keep": self._keep}
        revision = self._data.write(_KEY + topic.name, value, 0)
        try:
            for name in topic.logs:
                self._copy(topic, name)
            for name in topic.logs:
                self._compare(topic, name)
        except Exception:
            with suppress(OSError, TrunklineError):  # the first error says more, and the next conversion tries again
                self._settle(topic.name)
            raise
        self._switch(topic)
        if not self._keep:
            self._remove(topic.storage, topic.name)
        self._data.write(_KEY + topic.name, None, revision)

    # -- what earlier ones left --------------------------------------------------------------------

    def settle(self) -> list[str]:
        """Remove what conversions left that were interrupted; the topics that were concerned."""
        names = [key.removeprefix(_KEY) for key in self._data.entries(_KEY)]
        for name in names:
            self._settle(name)
        return names

    def _settle(self, name: str) -> None:
        entry = self._data.entries(_KEY + name)[_KEY + name]
        topics = [topic for topic in self._data.topics() if topic.name == name]
        is_moved = bool(topics) and topics[0].storage == entry.value["to"]
        if not (is_moved and entry.value["keep"]):
            self._remove(entry.value["from"] if is_moved else entry.value["to"], name)
        self._data.write(_KEY + name, None, entry.revision)

    def _remove(self, store_name: str, topic: str) -> None:
        store = self._data.store(store_name)
        for name in store.list():
            if name.topic == topic:
                store.delete(name)

    # -- before ------------------------------------------------------------------------------------

    def _check_free(self, topic: StoredTopic) -> None:
        needed, free = self.size_bytes(topic), shutil.disk_usage(self._data.directory).free
        if free < needed:
            raise StoreFull(
                f"{topic.name} takes {needed} bytes in {topic.storage}, and only {free} are free in "
                f"{self._data.directory}; make room first. Nothing was changed"
            )

    def _refuse_leftovers(self, topic: StoredTopic) -> None:
        leftovers = [name for name in self._data.store(self._target).list() if name.topic == topic.name]
        if leftovers:
            raise ConfigurationError(
                f"store {self._target} already holds {len(leftovers)} logs of {topic.name}, perhaps kept by an earlier "
                "conversion; move them away first"
            )

    # -- the steps ---------------------------------------------------------------------------------

    def _copy(self, topic: StoredTopic, name: TopicPartition) -> None:
        settings = topic.parsed_settings
        with (
            closing(self._data.store(topic.storage).open(name, settings)) as source,
            closing(self._data.store(self._target).open(name, settings)) as copy,
        ):
            for batches in _read(source, name, topic.storage):
                copy.append(batches)
                copy.flush()
                self._progress(name, "copying", sum(map(len, batches)))
            if copy.end_offset < source.end_offset:
                copy.append([_filler(source.end_offset - 1)])
                copy.flush()
            if copy.start_offset < source.start_offset:
                copy.trim(source.start_offset)
            state = source.load_state()
            if state is not None:
                copy.save_state(state)

    def _compare(self, topic: StoredTopic, name: TopicPartition) -> None:
        settings = topic.parsed_settings
        with (
            closing(self._data.store(topic.storage).open(name, settings)) as source,
            closing(self._data.store(self._target).open(name, settings)) as copy,
        ):
            for what in ("start_offset", "end_offset"):
                self._expect(name, what.replace("_", " "), getattr(source, what), getattr(copy, what))
            self._expect(name, "saved state", source.load_state(), copy.load_state())
            found = _one_by_one(copy, name, self._target)
            for batch in _one_by_one(source, name, topic.storage):
                self._compare_batch(name, batch, next(found, None), source.start_offset)
                self._progress(name, "comparing", len(batch))
            for batch in found:
                self._expect(name, "records of the copy's last batch", 0, read_header(batch).record_count)

    def _compare_batch(self, name: TopicPartition, batch: bytes, copied: bytes | None, start: int) -> None:
        if batch == copied:
            return
        wanted = read_header(batch)
        found = None if copied is None else read_header(copied)
        place = f"batch at offset {wanted.base_offset}"
        self._expect(name, f"header of the {place}", _lasting(wanted, start), found and _lasting(found, start))
        assert copied is not None
        for record, other in zip(_records(batch, start), _records(copied, start), strict=True):
            self._expect(name, f"record in the {place}", record, other)

    def _expect(self, name: TopicPartition, what: str, wanted: object, found: object) -> None:
        if wanted != found:
            raise CorruptLog(
                f"{name}: the {what} is {str(wanted)[:200]}, but {str(found)[:200]} in {self._target}; the topic stays "
                "where it is. Please report this as a bug",
                file=str(name),
            )

    def _switch(self, topic: StoredTopic) -> None:
        key = f"topics/{topic.name}"
        entry = self._data.entries(key)[key]
        value = {**entry.value, "storage": self._target}
        settings = value.get("settings", {})
        if "storage" in settings:
            value["settings"] = {**settings, "storage": self._target}
        self._data.write(key, value, entry.revision)


class _Lasting(NamedTuple):
    """What of a batch's header is the same in every store."""

    base_offset: int
    last_offset: int
    leader_epoch: int
    attributes: int
    delete_horizon: int | None
    max_timestamp: int | None
    producer: tuple[int, int, int]
    records: int | None


def _lasting(header: BatchHeader, start: int) -> _Lasting:
    """Compression is a store's business; and what is below the log start may be gone in one and not in the other."""
    is_whole = header.base_offset >= start
    return _Lasting(
        header.base_offset,
        header.last_offset,
        header.leader_epoch,
        header.attributes - header.compression,
        header.delete_horizon,
        header.max_timestamp if is_whole else None,
        (header.producer_id, header.producer_epoch, header.base_sequence),
        header.record_count if is_whole else None,
    )


def _records(batch: bytes, start: int) -> list[object]:
    return [record for record in decode(batch) if record.offset >= start]


def _read(log: Log, name: TopicPartition, store: str) -> Iterator[list[bytes]]:
    """All batches of a log, some at a time. Raises CorruptLog at one that is damaged."""
    offset = log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, READ_BYTES, log.end_offset)
        if not data:  # a gap reaches up to the end
            return
        batches = []
        for position, header in iter_headers(data):
            try:
                check_batch(data, position, is_compacted=True)
            except TrunklineError as error:
                raise CorruptLog(
                    f"{name} in {store}: damaged at offset {header.base_offset}: {error}; see `trunkline store verify`",
                    file=str(name),
                ) from None
            batches.append(data[position : position + header.size_bytes])
            offset = header.next_offset
        yield batches


def _one_by_one(log: Log, name: TopicPartition, store: str) -> Iterator[bytes]:
    for batches in _read(log, name, store):
        yield from batches


def _filler(offset: int) -> bytes:
    """A batch that takes one offset and has no record."""
    header = read_header(encode([(-1, None, None, ())], base_offset=offset))
    return with_records(header._replace(record_count=0), b"")
