"""Looking for everything that is wrong in a log's directory, where recovery is content with the first thing.

Every batch of every segment is checked, whatever the checkpoint says of it; after a bad one the search goes on at the
next that is intact. Beside that walk go the two sparse indexes: each entry below the recovery point must be about a
batch that is there (recovery drops those past it). A key index is made anew and compared. It all happens on an
:class:`OverlayDisk`: half-done swaps are finished there first, and what a torn tail is, recovery itself says, by
cutting it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from trunkline.disk import Disk
from trunkline.errors import CorruptLog, TrunklineError
from trunkline.log import Fault
from trunkline.overlay import OverlayDisk
from trunkline.records import BatchHeader
from trunkline_segments.checkpoint import Checkpoint, read_checkpoint
from trunkline_segments.files import OpenFiles, StoredFile
from trunkline_segments.names import CHECKPOINT, INDEX, KEYS, LOG, SNAPSHOT, TIME_INDEX, file_name, offsets_of
from trunkline_segments.recovery import recover
from trunkline_segments.scan import Window, find_intact_batch
from trunkline_segments.segment import NO_TIMESTAMP, Segment
from trunkline_segments.snapshots import is_intact
from trunkline_segments.swap import recover_swaps
from trunkline_segments.verify_keys import check_keys

__all__ = ["verify_directory"]

_OFFSET_ENTRY = Struct(">ii")
_TIME_ENTRY = Struct(">qi")
_ANYWHERE = 1 << 62


def verify_directory(disk: Disk, directory: Path) -> Iterator[Fault]:
    """Every fault in the log that ``directory`` holds, segment by segment; changes nothing. Raises OSError."""
    return _Verification(OverlayDisk(disk), directory).run()


class _Verification:
    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._open_files = OpenFiles(disk)
        self._checkpoint = Checkpoint(0, 0, 0, 0)
        self._expected = {0}  # the offsets that the next batch may have
        self._epoch = -1
        self._is_torn = False

    def run(self) -> Iterator[Fault]:
        path = self._directory / CHECKPOINT
        stored = None
        try:
            stored = read_checkpoint(self._disk, self._directory)
            recover_swaps(self._open_files, self._directory, self._disk.list(self._directory))
        except CorruptLog as error:
            file = str(error.details["file"])
            yield Fault(file, error.details["position"], None, str(error).removeprefix(f"{file}: "))
        names = self._disk.list(self._directory)
        bases = offsets_of(names, LOG)
        if stored is None and CHECKPOINT not in names and bases:
            yield Fault(str(path), None, None, "there is no checkpoint; the log is taken to start at its first segment")
        if stored is not None:
            bases = _not_trimmed(bases, stored)
            if bases and stored.recovery_segment < bases[0] == stored.recovery_point:  # it is trimmed
                stored = stored._replace(recovery_segment=bases[0], recovery_position=0)
            yield from self._check_names(stored, bases)
        if bases:
            self._checkpoint = stored or Checkpoint(bases[0], bases[0], bases[0], 0, _ANYWHERE)
            yield from self._check_segments(bases)
        yield from self._check_states(names)

    def _check_names(self, checkpoint: Checkpoint, bases: list[int]) -> Iterator[Fault]:
        """Whether the segments are there that the checkpoint speaks of."""
        if not checkpoint.recovery_point and not bases:
            return  # made, and nothing ever written
        if not any(base <= checkpoint.start_offset for base in bases):
            missing = self._directory / file_name(checkpoint.start_offset, LOG)
            yield Fault(str(missing), None, checkpoint.start_offset, "no segment holds the log's start offset")
        if checkpoint.recovery_segment not in bases:
            missing = self._directory / file_name(checkpoint.recovery_segment, LOG)
            yield Fault(str(missing), None, checkpoint.recovery_segment, "the segment of the recovery point is missing")

    def _check_segments(self, bases: list[int]) -> Iterator[Fault]:
        self._expected = {bases[0]}
        for base, following in zip(bases, [*bases[1:], None], strict=True):
            file = StoredFile(self._open_files, self._directory / file_name(base, LOG))
            try:
                if not self._follows(base):
                    yield Fault(
                        str(file.path), 0, min(self._expected), f"offset {min(self._expected)} should come here"
                    )
                    self._expected = {base}
                yield from self._check_segment(file, base, following)
                if following is not None and not self._follows(following):
                    yield from self._check_end(file, following)
            finally:
                file.close()
            if self._is_torn:
                return

    def _check_end(self, file: StoredFile, following: int) -> Iterator[Fault]:
        offset = min(self._expected)
        reason = f"offsets {offset} to {following - 1} are missing"
        if following < offset:
            reason = f"it goes on up to offset {offset - 1}, but the next segment starts at {following}"
        yield self._judged(file, file.size(), reason)
        self._expected = {following}

    def _check_segment(self, file: StoredFile, base: int, following: int | None) -> Iterator[Fault]:
        length, point = file.size(), self._checkpoint
        is_finished = base < point.recovery_segment
        durable = length if is_finished else point.recovery_position if base == point.recovery_segment else 0
        if length < durable:
            yield Fault(str(file.path), length, None, f"the file ends here, but was durable up to byte {durable}")
        indexes = _Indexes(self._disk, self._directory, base, durable, point.recovery_point)
        window = Window(file, length)
        position = 0
        while position < length:
            if position == durable and not is_finished:
                yield from indexes.finish(is_finished=False)
            try:
                header = window.check(position)
            except TrunklineError as error:
                yield self._judged(file, position, str(error))
                if self._is_torn:
                    break
                intact = find_intact_batch(file, position + 1, length, base)
                after = length if intact is None else intact
                indexes.skip(position, after)
                self._expected = {following or min(self._expected)}
                position = after
                if intact is not None:
                    self._expected = {window.check(intact).base_offset}
                continue
            misfit = self._misfit(header)
            if misfit is not None:
                yield self._judged(file, position, misfit)
                if self._is_torn:
                    break
            yield from indexes.take(position, header)
            self._move_past(header, misfit is not None)
            position += header.size_bytes
        yield from indexes.finish(is_finished=is_finished)
        if self._disk.read_file(file.path.with_suffix(KEYS)) is not None:
            segment = Segment(self._open_files, self._directory, base, 0)
            try:
                yield from check_keys(segment, length)
            finally:
                segment.close()

    # -- one batch ---------------------------------------------------------------------------------

    def _follows(self, offset: int) -> bool:
        gaps_end = self._checkpoint.gaps_end
        return offset in self._expected or min(self._expected) < offset <= gaps_end

    def _misfit(self, header: BatchHeader) -> str | None:
        """Why an intact batch cannot be here."""
        if not self._follows(header.base_offset):
            return f"the batch has offset {header.base_offset}, but {min(self._expected)} comes next"
        if header.record_count <= header.last_offset_delta and header.next_offset > self._checkpoint.gaps_end:
            return f"the batch has only {header.record_count} records for {header.last_offset_delta + 1} offsets"
        if header.leader_epoch < self._epoch:
            return f"the batch is of leader epoch {header.leader_epoch}, but the one before it of {self._epoch}"
        return None

    def _move_past(self, header: BatchHeader, is_misfit: bool) -> None:
        following = {header.next_offset}
        if is_misfit:  # either this one is wrong, or one before it is missing
            following |= {offset + header.last_offset_delta + 1 for offset in self._expected}
        else:
            self._epoch = header.leader_epoch
        self._expected = following

    def _judged(self, file: StoredFile, position: int, reason: str) -> Fault:
        """The fault at ``position``: a torn tail if recovery would cut the log off there."""
        point = self._checkpoint
        base = int(file.path.stem)
        if (base, position) >= (point.recovery_segment, point.recovery_position):
            self._is_torn = self._end_after_recovery() == (base, position)
        return Fault(str(file.path), position, min(self._expected), reason, self._is_torn)

    def _end_after_recovery(self) -> tuple[int, int] | None:
        open_files = OpenFiles(OverlayDisk(self._disk))
        try:
            segments = recover(open_files, self._directory, 0).segments
        except CorruptLog:
            return None
        for segment in segments:
            segment.close()
        return segments[-1].base_offset, segments[-1].size

    # -- saved states ------------------------------------------------------------------------------

    def _check_states(self, names: list[str]) -> Iterator[Fault]:
        for offset in offsets_of(names, SNAPSHOT):
            path = self._directory / file_name(offset, SNAPSHOT)
            contents = self._disk.read_file(path)
            if contents is None or not is_intact(contents):
                yield Fault(str(path), 0, offset, "the saved state is damaged; an older one or the log stands in")
            elif offset > max(self._expected):
                yield Fault(str(path), 0, offset, f"it is of a later offset than the log's end {max(self._expected)}")


class _Indexes:
    """The entries of a segment's two indexes, compared with its batches as these go by.

    Args:
      durable: the entries must be right for what lies below this byte.
      recovery_point: and below this offset.
    """

    def __init__(self, disk: Disk, directory: Path, base: int, durable: int, recovery_point: int) -> None:
        self._base = base
        self._durable = durable
        self._recovery_point = recovery_point
        self._paths = [directory / file_name(base, suffix) for suffix in (INDEX, TIME_INDEX)]
        contents = [disk.read_file(path) for path in self._paths]
        self._missing = [path for path, data in zip(self._paths, contents, strict=True) if data is None]
        self._odd_bytes = [
            len(data or b"") % entry.size for data, entry in zip(contents, (_OFFSET_ENTRY, _TIME_ENTRY), strict=True)
        ]
        self._offsets = _entries(contents[0], _OFFSET_ENTRY)
        self._times = _entries(contents[1], _TIME_ENTRY)
        self._next_offset = self._next_time = 0
        self._largest = NO_TIMESTAMP
        self._skipped: list[tuple[int, int]] = []
        self._is_over = False

    def take(self, position: int, header: BatchHeader) -> Iterator[Fault]:
        """The next intact batch."""
        if self._is_over:
            return
        relative = header.last_offset - self._base
        yield from self._pass_offsets(position)
        if self._next_offset < len(self._offsets) and self._offsets[self._next_offset][1] == position:
            if self._offsets[self._next_offset][0] != relative:
                yield self._wrong_offset(f"the batch there ends at offset {header.last_offset}")
            self._next_offset += 1
        yield from self._pass_times(relative)
        if self._next_time < len(self._times) and self._times[self._next_time][1] == relative:
            timestamp = self._times[self._next_time][0]
            if timestamp != header.max_timestamp or timestamp <= self._largest:
                yield self._wrong_time(f"the batch that ends there has {header.max_timestamp}, or it is not the first")
            self._next_time += 1
        self._largest = max(self._largest, header.max_timestamp)

    def skip(self, position: int, after: int) -> None:
        """What lies between could not be read, so nothing is said of the entries about it."""
        self._skipped.append((position, after))
        while self._next_offset < len(self._offsets) and self._offsets[self._next_offset][1] < after:
            self._next_offset += 1

    def finish(self, *, is_finished: bool) -> Iterator[Fault]:
        """No more batches come, or none that the indexes must know."""
        if self._is_over:
            return
        self._is_over = True
        yield from self._pass_offsets(self._durable)
        yield from self._pass_times(self._recovery_point - self._base)
        yield from self._left_over(is_finished=is_finished)
        if is_finished and self._durable:
            yield from self._check_files()

    def _left_over(self, *, is_finished: bool) -> Iterator[Fault]:
        """Entries past the recovery point are dropped when the log is opened, but not if others follow them."""
        if is_finished or any(position < self._durable for _, position in self._offsets[self._next_offset :]):
            while self._next_offset < len(self._offsets):
                yield self._wrong_offset("no batch starts there")
                self._next_offset += 1
        durable = self._recovery_point - self._base
        if is_finished or any(relative < durable for _, relative in self._times[self._next_time :]):
            while self._next_time < len(self._times):
                yield self._wrong_time("no batch ends there")
                self._next_time += 1

    def _check_files(self) -> Iterator[Fault]:
        """What a finished segment's index files are like as a whole."""
        for path in self._missing:
            yield Fault(str(path), None, self._base, "it is missing, and is made anew when the log is opened")
        for path, odd in zip(self._paths, self._odd_bytes, strict=True):
            if odd:
                yield Fault(str(path), None, self._base, f"its last {odd} bytes are no whole entry")
        latest = self._times[-1][0] if self._times else NO_TIMESTAMP
        if latest < self._largest and not self._skipped and self._paths[1] not in self._missing:
            reason = f"its last entry has timestamp {latest}, but the segment has {self._largest}"
            yield Fault(str(self._paths[1]), None, self._base, reason)

    def _pass_offsets(self, position: int) -> Iterator[Fault]:
        """The entries that point before ``position``, to no batch that went by."""
        while self._next_offset < len(self._offsets) and self._offsets[self._next_offset][1] < position:
            if self._offsets[self._next_offset][1] < self._durable:
                yield self._wrong_offset("no batch starts there that has not been indexed before")
            self._next_offset += 1

    def _pass_times(self, relative: int) -> Iterator[Fault]:
        while self._next_time < len(self._times) and self._times[self._next_time][1] < relative:
            if self._base + self._times[self._next_time][1] < self._recovery_point and not self._skipped:
                yield self._wrong_time("no batch ends there that has not been indexed before")
            self._next_time += 1

    def _wrong_offset(self, reason: str) -> Fault:
        relative, position = self._offsets[self._next_offset]
        at = self._next_offset * _OFFSET_ENTRY.size
        about = f"its entry for offset {self._base + relative} points at byte {position}: "
        return Fault(str(self._paths[0]), at, self._base + relative, about + reason)

    def _wrong_time(self, reason: str) -> Fault:
        timestamp, relative = self._times[self._next_time]
        at = self._next_time * _TIME_ENTRY.size
        about = f"its entry for timestamp {timestamp} is about offset {self._base + relative}: "
        return Fault(str(self._paths[1]), at, self._base + relative, about + reason)


def _entries(contents: bytes | None, entry: Struct) -> list[tuple[int, int]]:
    data = contents or b""
    return [(first, second) for first, second in entry.iter_unpack(data[: len(data) - len(data) % entry.size])]


def _not_trimmed(bases: list[int], checkpoint: Checkpoint) -> list[int]:
    """Without the segments below the start offset, whose removal a crash cut off."""
    trimmed = [base for base in bases if base <= checkpoint.start_offset]
    return bases[max(len(trimmed) - 1, 0) :]
