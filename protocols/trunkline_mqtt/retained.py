"""Retained messages: the last one of each topic that was published with RETAIN. A view derived from the log.

Whatever is committed to the log topic ``mqtt``, or to one that messages are routed to, with the header
``mqtt.retain: 1``, through any door, is the retained message of its key from then on; with an empty payload it takes it
away. The view copies it to the compacted topic ``mqtt.retained``, because retained messages outlive the log's
retention, and keeps in memory only which topics there are and at which offset there::

    key      the topic name
    value    the payload; none: no message is retained any more
    headers  those of the record in the log, and
               mqtt.source   partition:offset of that record

    key      NUL and the partition
    value    an offset in decimal: what the log has below it is in here

A partition is its number in decimal, with ``TOPIC/`` before it unless it is of the door's own log topic.

Nothing is written twice: PUBACK waits for the log only, and after a crash the log is read again from the last
position. So there is no moment at which the two could disagree for good. A copy that cannot be written (the disk is
full) stays in memory and is written with a later one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from trunkline.errors import BrokerClosing, TrunklineError
from trunkline.partition import Partition
from trunkline.records import EMPTY_HEADERS, Record, decode_readable, encode_headers, is_in_headers, iter_headers
from trunkline.topic import Topic
from trunkline_mqtt.bridge import RETAIN_HEADER, RETAINED
from trunkline_mqtt.fields import is_reserved, topic_name_problem
from trunkline_mqtt.properties import MAX_STRING_BYTES
from trunkline_mqtt.retained_index import RetainedIndex
from trunkline_mqtt.retained_said import SOURCE_HEADER, SaidInLog, expires_of
from trunkline_mqtt.retained_snapshot import KeptCopies, RetainedEntry, RetainedSnapshot

__all__ = ["RetainedView"]

logger = logging.getLogger("trunkline.mqtt")

POSITION_BYTES: Final = 16 * 1024 * 1024
"""Positions are written after so many bytes of the log, which bounds what is read again at start."""

_READ_BYTES: Final = 1024 * 1024
_REMOVED: Final = SaidInLog(())
_MARK: Final = RETAIN_HEADER.encode()
_ATTRIBUTES_AT: Final = 22  # of a batch: the low byte of its attributes; its low three bits are the compression
_COMPRESSED: Final = 7


class RetainedView:
    """All of them; a listener of the log's partitions. Belongs to the broker's thread.

    Args:
      topics: the log topics with messages, the door's own first.

    Attributes:
      copies: where they are kept.
    """

    def __init__(self, topics: tuple[Topic, ...], copies: Topic, now_ms: Callable[[], int]) -> None:
        self._labels: dict[Partition, bytes] = {
            partition: (b"" if topic is topics[0] else f"{topic.name}/".encode()) + b"%d" % partition.index
            for topic in topics
            for partition in topic.partitions
        }
        self.copies: Partition = copies.partitions[0]
        self._now_ms = now_ms
        self._index: RetainedIndex[RetainedEntry] = RetainedIndex()
        self._positions = dict.fromkeys(self._labels.values(), 0)
        self._unwritten: dict[str, RetainedEntry | None] = {}  # copies that failed, to be written again
        self._bytes = 0  # of the log since positions were written
        self._said: SaidInLog | None = None  # of the last one that was retained
        self._kept = KeptCopies(self.copies.name)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, topic: str) -> bool:
        return self._index.get(topic) is not None

    # -- opening -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the copies, then what the log has beyond them; follow the log from there on.

        Raises CorruptLog, CorruptBatch, OSError. Cancellation: make another one.
        """
        await self._replay()
        for partition in self._labels:
            await self._catch_up(partition)
            partition.add_listener(self)
        self._write_positions()

    async def _replay(self) -> None:
        copies = self.copies
        offset = copies.log_start_offset
        while offset < copies.high_watermark:
            batches = await copies.read(offset, _READ_BYTES)
            if not batches:
                break
            for record in decode_readable(copies.name, batches, from_offset=offset):
                self._replayed(record)
            offset = _end_of(batches)

    def _replayed(self, record: Record) -> None:
        """Take up one copy or note; what others have written there is left alone."""
        key, value = record.key or b"", record.value
        if key[:1] == b"\0":
            if value is not None and value.isdigit():
                self._known_up_to(key[1:], int(value), is_note=True)
            return
        topic = _topic_of(record)
        source = next((value for name, value in record.headers if name == SOURCE_HEADER), None) or b""
        label, _, offset = source.partition(b":")
        if topic is None or not label or not offset.isdigit():
            return
        if value is None:
            self._index.remove(topic)
        else:
            self._index.set(topic, RetainedEntry(record.offset, None, expires_of(record.headers)))
        self._known_up_to(label, int(offset) + 1, is_note=False)

    def _known_up_to(self, label: bytes, offset: int, *, is_note: bool) -> None:
        """A note is the last word on what is before it: the log may have been made anew, with lower offsets."""
        known = self._positions.get(label)
        if known is not None and (is_note or offset > known):
            self._positions[label] = offset

    async def _catch_up(self, partition: Partition) -> None:
        """Look at what the log has from the known position on."""
        offset = self._positions[self._labels[partition]]
        if not partition.log_start_offset <= offset <= partition.high_watermark:  # it was trimmed, or made anew
            offset = partition.log_start_offset
        while offset < partition.high_watermark:
            batches = await partition.read(offset, _READ_BYTES)
            if not batches:
                break
            self._take(partition, offset, batches)
            offset = _end_of(batches)
        self._positions[self._labels[partition]] = partition.high_watermark

    # -- following ---------------------------------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        for batch in batches:
            # Searching a batch for the header's name is far cheaper than decoding it.
            if batch[_ATTRIBUTES_AT] & _COMPRESSED or is_in_headers(_MARK, batch):
                self._take(partition, base_offset, batch)
            self._bytes += len(batch)
        self._positions[self._labels[partition]] = next_offset
        if self._bytes >= POSITION_BYTES:
            self._write_positions()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        """The log has ended; what is retained stays."""

    def _take(self, partition: Partition, offset: int, batches: bytes) -> None:
        label, said = self._labels[partition], self._said
        for record in decode_readable(partition.name, batches, from_offset=offset):
            if said is None or record.headers is not said.headers:  # the decoder gives the same ones again where it can
                if RETAINED not in record.headers:
                    continue
                said = self._said = SaidInLog(record.headers)
            topic = _topic_of(record)
            if topic is not None:
                self._retain(topic, record, said, b"%b:%d" % (label, record.offset))

    def _retain(self, topic: str, record: Record, said: SaidInLog, source: bytes) -> None:
        if record.value:
            waiting = Record(-1, record.timestamp, record.key, record.value, record.headers)
            entry = RetainedEntry(-1, waiting, said.expires_ms)
            block = said.with_source(source)
            previous = self._index.set(topic, entry)
        else:
            entry, block = None, _REMOVED.with_source(source)
            previous = self._index.remove(topic)
            if previous is None and topic not in self._unwritten:
                return
        if previous is not None:
            previous.is_current = False
        if self._unwritten:
            self._write_unwritten()
        self._write(topic, entry, block)

    def _write_unwritten(self) -> None:
        for topic in [*self._unwritten]:
            entry = self._unwritten.pop(topic)
            record = None if entry is None else entry.record
            self._write(topic, entry, EMPTY_HEADERS if record is None else encode_headers(record.headers))

    def _write(self, topic: str, entry: RetainedEntry | None, block: bytes) -> None:
        """Stage a copy with these headers, or its removal."""
        record = None if entry is None else entry.record
        try:
            self.copies.stage_record(
                self._now_ms() if record is None else record.timestamp,
                topic.encode(),
                None if record is None else record.value,
                block,
                self,
                (topic, entry),
            )
        except TrunklineError as error:
            self.append_failed((topic, entry), error)

    def append_done(self, token: object, offset: int) -> None:
        assert isinstance(token, tuple)
        entry = token[1]
        if entry is not None:
            entry.offset = offset
            entry.record = None

    def append_failed(self, token: object, error: TrunklineError) -> None:
        assert isinstance(token, tuple)
        topic, entry = token
        if isinstance(error, BrokerClosing):
            return  # it is found in the log at the next start
        if not self._unwritten:
            logger.error("retained messages stay in memory until they can be written: %s", error)
        if entry is None or entry.is_current:
            self._unwritten[topic] = entry

    def _write_positions(self) -> None:
        """Say how far the copies go. It is staged behind them, so it never says too much."""
        self._bytes = 0
        if self._unwritten:
            return
        for label, position in self._positions.items():
            try:
                self.copies.stage_record(self._now_ms(), b"\0" + label, b"%d" % position)
            except TrunklineError:  # the next one will do
                return

    # -- looking up --------------------------------------------------------------------------------

    def snapshot(self, topic_filter: str) -> RetainedSnapshot | None:
        """The messages that a filter matches, as of now; None if there are none."""
        if not len(self._index):
            return None
        now = self._now_ms()
        found = [entry for entry in self._index.match(topic_filter) if not 0 < entry.expires_ms <= now]
        return RetainedSnapshot(self.copies, found, self._kept) if found else None


def _end_of(batches: bytes) -> int:
    return [header.next_offset for _, header in iter_headers(batches)][-1]


def _topic_of(record: Record) -> str | None:
    key = record.key
    if key is None or len(key) > MAX_STRING_BYTES:
        return None
    try:
        topic = key.decode()
    except UnicodeDecodeError:
        return None
    return topic if topic_name_problem(topic) is None and not is_reserved(topic) else None
