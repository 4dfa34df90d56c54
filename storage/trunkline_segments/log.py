"""One log on segment files: what changes it.

**Appending** writes all batches of a call behind the last segment with one system call (two where a roll falls
between) and publishes the new end as one tuple, ``_tail``; :mod:`trunkline_segments.reading` works from that.
**Flushing** takes that tuple, syncs the segments up to it, and, every CHECKPOINT_BYTES and whenever it enters
a new segment, writes index entries and the checkpoint, so that :mod:`trunkline_segments.recovery` has little to
read. The order is always: log, its directory entry, index, checkpoint.

**When there is no room** (the disk or a quota is full, or the file system is read-only) nothing is lost by waiting. An
append cuts back what it wrote, for good, before it raises StoreFull: what was refused must not be back after a crash.
The end is published after the last write, so that a flush cannot have called a part of it durable. Index entries and
checkpoint are put off to the next flush: they only save work.

**Compaction** puts new segments in place of finished ones below the recovery point
(:mod:`trunkline_segments.rewriting`, :mod:`trunkline_segments.swap`); neither append nor flush has to do with those.

One thread appends, another one flushes, a third one may rewrite. The flush touches only what lies below the tail that
it took, and what the append does not look at (``_durable``, ``_recovery_point``); the indexes are shared, and see to
it themselves. Append and rewrite share ``_segments``, flush and rewrite the checkpoint; each has a lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct

from trunkline.errors import LogStopped, StoreFull
from trunkline.log import Chunk, SavedState, TopicPartition
from trunkline.records import Buffer
from trunkline.settings import TopicSettings
from trunkline_segments.checkpoint import Checkpoint, write_checkpoint
from trunkline_segments.files import OpenFiles
from trunkline_segments.reading import ReadableLog, Tail, number_of
from trunkline_segments.recovery import recover
from trunkline_segments.rewriting import groups_to_rewrite, rewrite_group
from trunkline_segments.room import NO_ROOM
from trunkline_segments.segment import Noted, Segment
from trunkline_segments.snapshots import forget_states, load_state, save_state
from trunkline_segments.swap import commit_swap, finish_swap

__all__ = ["SegmentLog"]

CHECKPOINT_BYTES = 16 * 1024 * 1024
"""About this much is scanned after a crash: 0.4 s if batches are as small as 170 bytes, 10 ms if they are large."""

_PLACE = Struct(">q15xi8xq14xi")  # base_offset, last_offset_delta, max_timestamp, record_count


class SegmentLog(ReadableLog):
    """Made by :class:`trunkline_segments.store.SegmentStore`; see the module's docstring."""

    def __init__(self, open_files: OpenFiles, directory: Path, name: TopicPartition, settings: TopicSettings) -> None:
        super().__init__(name)
        self._disk = open_files.disk
        self._open_files = open_files
        self._directory = directory
        self._segment_bytes = settings.segment_bytes
        self._segment_ms = settings.segment_ms
        self._index_interval = settings.index_interval_bytes
        self._roll_after: float = math.inf
        self._is_failed = False
        self._segments_lock = threading.Lock()  # around replacing the list, not around reading it
        self._checkpoint_lock = threading.Lock()
        self._recover()

    def _recover(self) -> None:
        """Take in what the directory holds, in place of what was known."""
        before = self._segments
        recovered = recover(self._open_files, self._directory, self._index_interval)
        active = recovered.segments[-1]
        self._start_offset = recovered.start_offset
        self._gaps_end = recovered.gaps_end
        self._size_bytes = sum(segment.size for segment in recovered.segments)
        self._freed_bytes = 0  # by rewrites; apart, because an append counts at the same time
        self._segments = recovered.segments
        self._tail = (active.end_offset, active, active.size)
        self._durable = self._recovery_point = self._tail
        self._use(active)
        self._marks = self._no_marks()
        for segment in before:
            segment.close()

    def size_bytes(self) -> int:
        return self._size_bytes - self._freed_bytes

    # -- appending ---------------------------------------------------------------------------------

    def append(self, batches: Sequence[bytes]) -> None:
        self.append_buffers(batches)

    def append_buffers(self, batches: Sequence[Buffer]) -> None:
        if not batches:
            return
        _, segment, position = self._tail
        noted = segment.noted()
        rolled: list[Segment] = []
        try:
            end_offset = self._write(batches, rolled)
        except StoreFull:
            self._take_back(segment, noted, rolled)
            raise
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._take_back(segment, noted, rolled)
            raise self._full(error) from error
        if segment.size > position:
            self._mark(self._marks, noted.end_offset, segment, position)
        if rolled:
            with self._segments_lock:
                self._segments = [*self._segments, *rolled]
        self._size_bytes += segment.size - position + sum(one.size for one in rolled)
        self._tail = (end_offset, self._active, self._active.size)

    def _write(self, batches: Sequence[Buffer], rolled: list[Segment]) -> int:
        """Note and write them; return the offset after them. The new segments are for the caller to publish."""
        active = self._active
        offset = self._tail[0]
        gaps_end = self._gaps_end
        first = 0
        for number, batch in enumerate(batches):
            base_offset, delta, timestamp, count = _PLACE.unpack_from(batch)
            last_offset = base_offset + delta
            size = len(batch)
            if (
                active.size + size > self._segment_bytes
                or timestamp > self._roll_after
                or last_offset > active.max_offset
                if active.size
                else base_offset != active.base_offset
            ):
                if number > first:
                    self._write_to_active(batches[first:number], gaps_end)
                active = self._new_segment(base_offset)
                rolled.append(active)
                first = number
            if base_offset != offset or count <= delta:
                gaps_end = last_offset + 1
            if not active.size:
                self._roll_after = timestamp + self._segment_ms if timestamp >= 0 else math.inf
            active.note(size, last_offset, timestamp)
            offset = last_offset + 1
        self._write_to_active(batches[first:] if first else batches, gaps_end)
        return offset

    def _write_to_active(self, batches: Sequence[Buffer], gaps_end: int) -> None:
        if gaps_end > self._gaps_end:  # a copy; before it has a gap, as recovery takes any other for damage
            with self._checkpoint_lock:
                self._replace_checkpoint(self._start_offset, self._recovery_point, gaps_end)
        self._file.append(batches)

    def _take_back(self, segment: Segment, noted: Noted, rolled: list[Segment]) -> None:
        """Leave the log as it was before an append, durably; ``segment`` was the active one. Raises OSError."""
        with self._nothing_after_a_failure():
            for one in reversed(rolled):
                one.remove()
            if rolled:
                self._disk.sync_directory(self._directory)
            segment.take_back(noted)
            self._use(segment)
            if self._file.size() > segment.size:
                self._file.truncate(segment.size)
                self._file.sync()

    def _full(self, error: OSError) -> StoreFull:
        return StoreFull(
            f"{self._name}: {NO_ROOM[error.errno]}; nothing was written. It is tried again with the next record",
            topic=self._name.topic,
            partition=self._name.partition,
        )

    def _new_segment(self, base_offset: int) -> Segment:
        segment = Segment(self._open_files, self._directory, base_offset, self._index_interval)
        segment.log.pin()
        self._use(segment)
        return segment

    def _use(self, segment: Segment) -> None:
        """Append to this segment from now on."""
        self._active = segment
        self._file = segment.log.pin()
        has_first = segment.size and segment.first_timestamp >= 0
        self._roll_after = segment.first_timestamp + self._segment_ms if has_first else math.inf

    # -- flushing ----------------------------------------------------------------------------------

    def flush(self) -> int:
        tail = self._tail
        if tail is not self._durable:
            with self._nothing_after_a_failure():
                self._sync(tail)
            if tail[1] is not self._recovery_point[1] or tail[2] - self._recovery_point[2] >= CHECKPOINT_BYTES:
                with suppress(StoreFull):  # recovery has more to read until a later flush finds room
                    self._checkpoint(self._start_offset)
        return tail[0]

    @contextmanager
    def _nothing_after_a_failure(self) -> Iterator[None]:
        """When a write or sync fails nothing more is called durable: a second fsync may succeed for nothing."""
        if self._is_failed:
            raise LogStopped(f"{self._name}: a write or sync has failed; restart the broker once the disk is well")
        try:
            yield
        except StoreFull:
            raise
        except BaseException:
            self._is_failed = True
            raise

    @contextmanager
    def _room_wanted(self) -> Iterator[None]:
        """Around writes that may be tried again: StoreFull if there is no room for them."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise self._full(error) from error

    def _sync(self, tail: Tail) -> None:
        for segment in self._between(self._durable[1], tail[1]):
            segment.log.sync()
        if tail[1] is not self._durable[1]:
            self._disk.sync_directory(self._directory)
        self._durable = tail

    def _between(self, first: Segment, last: Segment) -> list[Segment]:
        if first is last:
            return [first]
        segments = self._segments
        start = segments.index(first)
        return segments[start : segments.index(last, start) + 1]

    def _checkpoint(self, start_offset: int) -> None:
        """Move the recovery point up to what is durable. Raises StoreFull: it stays where it is."""
        offset, active, position = self._durable
        with self._nothing_after_a_failure(), self._room_wanted():
            # fsync before the index entry: recovery trusts the index
            for segment in self._between(self._recovery_point[1], active):
                if segment is active:
                    segment.write_indexes(position, offset, is_finished=False)
                else:
                    segment.write_indexes(segment.size, segment.end_offset, is_finished=True)
                    segment.log.unpin()
            self._write_checkpoint(start_offset, self._durable)

    @property
    def _stable_end(self) -> Tail:
        return self._recovery_point

    def _write_checkpoint(self, start_offset: int, point: Tail) -> None:
        with self._checkpoint_lock:
            self._replace_checkpoint(start_offset, point, self._gaps_end)

    def _replace_checkpoint(self, start_offset: int, point: Tail, gaps_end: int) -> None:
        offset, segment, position = point
        checkpoint = Checkpoint(start_offset, offset, segment.base_offset, position, gaps_end)
        with self._room_wanted():
            write_checkpoint(self._disk, self._directory, checkpoint)
        self._recovery_point, self._gaps_end = point, gaps_end

    def close(self) -> None:
        self._is_closed = True
        for segment in self._segments:
            segment.keys.retire()  # a search that goes on must not write into a log that is made anew here
        try:
            if not self._is_failed:
                self.flush()
                if self._recovery_point is not self._durable:
                    with suppress(StoreFull):
                        self._checkpoint(self._start_offset)
        finally:
            for segment in self._segments:
                segment.close()

    # -- removing ----------------------------------------------------------------------------------

    def trim(self, offset: int) -> None:
        if offset <= self._start_offset:
            return
        self.flush()
        with self._nothing_after_a_failure():
            if offset == self.end_offset and self._active.size:  # so that all space is freed
                with self._room_wanted():
                    segment = self._new_segment(offset)
                self._segments = [*self._segments, segment]
                self._tail = (offset, segment, 0)
                self._sync(self._tail)
            keep = number_of(self._segments, offset)
            doomed, kept = self._segments[:keep], self._segments[keep:]
            try:
                self._checkpoint(start_offset=offset)
            except StoreFull:  # this is what makes room, so it must not need any
                self._empty_indexes(doomed)
                self._checkpoint(start_offset=offset)
            self._start_offset = offset
            self._removals += 1
            self._segments = kept
            self._remove(doomed)  # a name that a crash brings back lies below the checkpoint: recovery removes it again

    def _empty_indexes(self, doomed: list[Segment]) -> None:
        """Make a little room. Without its index a segment is read from its start, and recovery makes a new one."""
        with self._room_wanted():
            for segment in doomed:
                if segment.base_offset < self._recovery_point[1].base_offset:  # others are still to be written
                    segment.empty_indexes()

    def truncate(self, offset: int) -> None:
        if offset == self.end_offset:
            return
        self.flush()
        number = number_of(self._segments, offset)
        segment = self._segments[number]
        cut = segment.batch_holding(offset, segment.size)
        if cut is not None and cut.base_offset < offset:
            raise ValueError(f"{self._name}: offset {offset} is inside the batch that starts at {cut.base_offset}")
        position = segment.size if cut is None else cut.position
        with self._nothing_after_a_failure():
            self._checkpoint(self._start_offset)  # the index entries that stay
            point = (offset, segment, position)
            self._write_checkpoint(self._start_offset, point)  # before anything below the old one goes
            forget_states(self._disk, self._directory, offset)
            self._tail = point
            self._marks = self._no_marks()
            self._removals += 1
            doomed, self._segments = self._segments[number + 1 :], self._segments[: number + 1]
            for one in reversed(doomed):  # newest first and each for good, so that a crash leaves no gap
                self._remove([one])
                self._disk.sync_directory(self._directory)
            segment.keys.remove()  # for good, before other records can be where it says that some were
            self._disk.sync_directory(self._directory)
            file = segment.log.pin()
            file.truncate(position)
            file.sync()
            self._recover()

    def _remove(self, doomed: list[Segment]) -> None:
        for segment in doomed:
            segment.remove()
            self._size_bytes -= segment.size

    # -- retention and compaction ------------------------------------------------------------------

    def chunks(self) -> Iterator[Chunk]:
        base_offset, active_end = self._start_offset, self._tail[0]
        segments = self._segments
        for segment, following in zip(segments, [*segments[1:], None], strict=True):
            end = active_end if following is None else following.base_offset
            if segment.size or following is None:  # one that compaction has emptied has no age; it goes with the next
                yield Chunk(base_offset, end, segment.size, segment.max_timestamp)
                base_offset = end

    @property
    def rewritable_end_offset(self) -> int:
        return self._recovery_point[1].base_offset

    def rewrite(self, end_offset: int, transform: Callable[[bytes], bytes | None]) -> None:
        segments, limit = self._segments, self._recovery_point[1]
        if end_offset > limit.base_offset:
            raise ValueError(f"{self._name}: offset {end_offset} is past what can be rewritten, {limit.base_offset}")
        finished = segments[: segments.index(limit) + 1]
        for group in groups_to_rewrite(finished, end_offset, self._segment_bytes):
            new = rewrite_group(self._open_files, self._directory, self._index_interval, group, end_offset, transform)
            if new is not None:
                self._put_in_place(new, group, end_offset)

    def _put_in_place(self, new: Segment, group: list[Segment], end_offset: int) -> None:
        """Let a rewritten segment replace a group of old ones, on disk and for readers."""
        is_kept = new.size > 0 or group[0] is self._segments[0]  # the first one's name says where the log starts
        with self._nothing_after_a_failure():
            with self._checkpoint_lock:  # before there is a gap: recovery takes any other for damage
                gaps_end = max(self._gaps_end, end_offset)
                if gaps_end != self._gaps_end:
                    self._replace_checkpoint(self._start_offset, self._recovery_point, gaps_end)
            if not is_kept:
                new.remove()
                self._publish([], group)
                for segment in group:
                    segment.remove()
                self._disk.sync_directory(self._directory)
                return
            with self._room_wanted():
                commit_swap(self._disk, self._directory, new)
            group[0].keys.remove()  # before anybody sees the new segment, which has the same name for its own
            self._publish([new], group)
            finish_swap(self._disk, self._directory, new, group)
        new.close()

    def _publish(self, new: list[Segment], old: list[Segment]) -> None:
        """Show readers the new segments; those that stumble over the old ones start again."""
        with self._segments_lock:
            segments = self._segments
            at = segments.index(old[0])
            self._segments = [*segments[:at], *new, *segments[at + len(old) :]]
        self._freed_bytes += sum(segment.size for segment in old) - sum(segment.size for segment in new)
        self._marks = self._no_marks()
        self._removals += 1
        for segment in old:
            segment.retire()

    # -- the core's state --------------------------------------------------------------------------

    def save_state(self, state: SavedState) -> None:
        save_state(self._disk, self._directory, state)

    def load_state(self) -> SavedState | None:
        return load_state(self._disk, self._directory, self.end_offset)
