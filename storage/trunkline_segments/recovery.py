"""Opening a log's directory: what is there, what of it is sound, and what a crash left unfinished.

Below the recovery point everything was durable, so there only the ends of the segments are looked at and anything
wrong is damage: :class:`trunkline.errors.CorruptLog`, and nothing is changed. Past it every batch is checked.
A flush that enters a new segment moves the recovery point there before it returns. So where a torn tail is found with
further segments after it, nothing in these was ever acknowledged, and they are removed with the tail.

Compaction leaves gaps. The checkpoint says up to where there can be any, and half-done swaps are finished first
(:mod:`trunkline_segments.swap`). Else everything is judged before anything is changed. In the end all that was found is
made durable, because the core takes what a log has when it is opened for committed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from trunkline_segments.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from trunkline_segments.files import OpenFiles
from trunkline_segments.names import CLEANED, INDEX, KEYS, LOG, TEMPORARY, TIME_INDEX, file_name, offsets_of
from trunkline_segments.room import NO_ROOM
from trunkline_segments.scan import BadBatch, find_intact_batch, has_lost_sector, scan
from trunkline_segments.segment import Segment, corrupt
from trunkline_segments.snapshots import forget_states
from trunkline_segments.swap import recover_swaps

__all__ = ["Recovered", "recover"]

logger = logging.getLogger("trunkline.segments")

_ANYWHERE = 1 << 62


class Recovered(NamedTuple):
    """A sound log: its segments are known up to their ends, which are durable and checkpointed."""

    start_offset: int
    segments: list[Segment]
    gaps_end: int


def recover(open_files: OpenFiles, directory: Path, index_interval: int) -> Recovered:
    """Read the log in ``directory``, making it if it is empty. Raises CorruptLog."""
    return _Recovery(open_files, directory, index_interval).run()


class _Recovery:
    def __init__(self, open_files: OpenFiles, directory: Path, index_interval: int) -> None:
        self._open_files = open_files
        self._disk = open_files.disk
        self._directory = directory
        self._index_interval = index_interval
        self._names = self._disk.list(directory)
        self._gaps_end = 0

    def run(self) -> Recovered:
        stored = read_checkpoint(self._disk, self._directory)
        if recover_swaps(self._open_files, self._directory, self._names):
            self._names = self._disk.list(self._directory)
        segments = [self._segment(base) for base in offsets_of(self._names, LOG)]
        if not segments and (stored is None or stored.recovery_point == 0):
            return self._make()
        try:
            return self._recover(segments, stored)
        except BaseException:
            for segment in segments:
                segment.close()
            raise

    def _recover(self, segments: list[Segment], stored: Checkpoint | None) -> Recovered:
        checkpoint = stored or self._assume_checkpoint(segments)
        self._gaps_end = checkpoint.gaps_end
        segments, trimmed = self._split_trimmed(segments, checkpoint)
        if checkpoint.recovery_segment < segments[0].base_offset == checkpoint.recovery_point:
            base = segments[0].base_offset  # it ended there, and was below the start: trimmed
            checkpoint = checkpoint._replace(recovery_segment=base, recovery_position=0)
        lengths = [segment.log.size() for segment in segments]
        recovery_segment = self._recovery_segment(segments, checkpoint)

        for segment, following, length in zip(segments, segments[1 : recovery_segment + 1], lengths, strict=False):
            self._learn(segment, length, following.base_offset, is_finished=True)
        active = segments[recovery_segment]
        self._learn_to_recovery_point(active, lengths[recovery_segment], checkpoint)
        kept, bad = self._check_rest(segments, lengths, recovery_segment)
        self._refuse_damage(segments, lengths, kept, bad)
        end = kept[-1]
        if end.end_offset < checkpoint.start_offset:
            raise corrupt(end.log.path, end.size, f"the log ends before its start offset {checkpoint.start_offset}")

        self._clean_up(trimmed)
        self._cut(segments, lengths, kept, bad)
        gaps_end = min(checkpoint.gaps_end, end.end_offset)
        point = Checkpoint(checkpoint.start_offset, end.end_offset, end.base_offset, end.size, gaps_end)
        self._make_durable(kept, recovery_segment, is_changed=point != stored or bad is not None, point=point)
        return Recovered(checkpoint.start_offset, kept, gaps_end)

    def _segment(self, base_offset: int) -> Segment:
        return Segment(self._open_files, self._directory, base_offset, self._index_interval)

    def _make(self) -> Recovered:
        """A new log: one empty segment."""
        self._clean_up([])
        segment = self._segment(0)
        segment.log.pin()
        write_checkpoint(self._disk, self._directory, Checkpoint(0, 0, 0, 0))
        return Recovered(0, [segment], 0)

    # -- what the checkpoint says ------------------------------------------------------------------

    def _assume_checkpoint(self, segments: list[Segment]) -> Checkpoint:
        base = segments[0].base_offset
        if len(segments) > 1 or segments[0].log.size():
            logger.warning(
                "%s: there is no checkpoint; checking the whole log. It starts at its first segment, offset %d",
                self._directory,
                base,
            )
        return Checkpoint(base, base, base, 0, gaps_end=_ANYWHERE)

    def _split_trimmed(self, segments: list[Segment], checkpoint: Checkpoint) -> tuple[list[Segment], list[Segment]]:
        """The segments, and apart the ones below the start offset, whose removal a crash cut off."""
        first = max((i for i, s in enumerate(segments) if s.base_offset <= checkpoint.start_offset), default=None)
        if first is None:
            missing = self._directory / file_name(checkpoint.start_offset, LOG)
            raise corrupt(missing, 0, f"no segment holds the log's start offset {checkpoint.start_offset}")
        return segments[first:], segments[:first]

    def _recovery_segment(self, segments: list[Segment], checkpoint: Checkpoint) -> int:
        for number, segment in enumerate(segments):
            if segment.base_offset == checkpoint.recovery_segment:
                return number
        missing = self._directory / file_name(checkpoint.recovery_segment, LOG)
        raise corrupt(missing, 0, "the segment that holds the recovery point is missing")

    # -- below the recovery point ------------------------------------------------------------------

    def _learn(self, segment: Segment, position: int, offset: int, *, is_finished: bool) -> None:
        """Learn what lies before ``position``, from the indexes or, if they are no good, from the log itself."""
        missing = [
            suffix
            for suffix in (INDEX, TIME_INDEX)
            if position and file_name(segment.base_offset, suffix) not in self._names
        ]
        is_known = not missing and segment.resume(position, offset, is_finished=is_finished)
        if is_known and self._follows(offset, segment.end_offset):
            return
        segment.forget()
        bad = scan(segment, position, self._gaps_end)
        if bad is not None:
            raise corrupt(segment.log.path, bad.position, bad.reason)
        if not self._follows(offset, segment.end_offset):
            raise corrupt(
                segment.log.path, position, f"offset {segment.end_offset} comes next here, but should be {offset}"
            )
        logger.warning("%s: the indexes were missing or wrong and have been made anew", segment.log.path)

    def _follows(self, offset: int, end_offset: int) -> bool:
        """Whether a batch with ``offset`` can be the next one where the last one ended at ``end_offset``."""
        return offset == end_offset or end_offset < offset <= self._gaps_end

    def _learn_to_recovery_point(self, segment: Segment, length: int, checkpoint: Checkpoint) -> None:
        position = checkpoint.recovery_position
        if length < position:
            raise corrupt(segment.log.path, length, f"the file ends here, but was durable up to byte {position}")
        self._learn(segment, position, checkpoint.recovery_point, is_finished=False)
        segment.end_offset = checkpoint.recovery_point

    # -- past the recovery point -------------------------------------------------------------------

    def _check_rest(
        self, segments: list[Segment], lengths: list[int], first: int
    ) -> tuple[list[Segment], BadBatch | None]:
        """Check what follows the recovery point; the segments up to where it is intact, and what is wrong there."""
        for number in range(first, len(segments)):
            segment = segments[number]
            kept = segments[: number + 1]
            bad = scan(segment, lengths[number], self._gaps_end)
            if bad is not None:
                return kept, bad
            if number + 1 < len(segments) and not self._follows(segments[number + 1].base_offset, segment.end_offset):
                return kept, BadBatch(segment.size, "the next segment starts at a later offset", True)
        return segments, None

    def _refuse_damage(
        self, segments: list[Segment], lengths: list[int], kept: list[Segment], bad: BadBatch | None
    ) -> None:
        """Raise CorruptLog unless what is bad can be the end of an append that never finished."""
        if bad is None:
            return
        last, length = kept[-1], lengths[len(kept) - 1]
        intact = find_intact_batch(last.log, bad.position, length, last.end_offset)
        follows = intact is not None
        if not follows and not bad.is_cut_short:
            later = zip(segments[len(kept) :], lengths[len(kept) :], strict=True)
            follows = any(find_intact_batch(s.log, 0, size, last.end_offset) is not None for s, size in later)
        end = length if intact is None else intact
        if follows and not has_lost_sector(last.log, bad.position, end, last.end_offset):
            raise corrupt(last.log.path, bad.position, bad.reason + "; intact records follow, so it is no torn tail")

    # -- changing what has to be changed -----------------------------------------------------------

    def _clean_up(self, trimmed: list[Segment]) -> None:
        """Remove what a crash left half removed or half made."""
        logs = set(offsets_of(self._names, LOG))
        leftover = [name for name in self._names if name.endswith((TEMPORARY, CLEANED))]
        for suffix in (INDEX, TIME_INDEX, KEYS):
            leftover += [file_name(base, suffix) for base in offsets_of(self._names, suffix) if base not in logs]
        for name in leftover:
            self._disk.remove(self._directory / name)
        for segment in trimmed:
            segment.remove()
        if leftover or trimmed:
            self._disk.sync_directory(self._directory)

    def _cut(self, segments: list[Segment], lengths: list[int], kept: list[Segment], bad: BadBatch | None) -> None:
        last = kept[-1]
        file = last.log.pin()
        if bad is None:
            return
        lost = lengths[len(kept) - 1] - last.size + sum(lengths[len(kept) :])
        logger.warning(
            "%s: cut off a torn tail at byte %d, offset %d (%d bytes that were never acknowledged): %s",
            last.log.path,
            last.size,
            last.end_offset,
            lost,
            bad.reason,
        )
        for segment in reversed(segments[len(kept) :]):
            segment.remove()
            self._disk.sync_directory(self._directory)  # newest first, so that a crash leaves no gap
        if file_name(last.base_offset, KEYS) in self._names:  # without a checkpoint it may reach into the tail
            self._disk.remove(last.keys.path)
            self._disk.sync_directory(self._directory)
        file.truncate(last.size)

    def _make_durable(self, kept: list[Segment], recovery_segment: int, *, is_changed: bool, point: Checkpoint) -> None:
        if is_changed:
            for segment in kept[recovery_segment:]:
                segment.log.sync()
            self._disk.sync_directory(self._directory)
        try:
            self._save_work(kept, is_changed=is_changed, point=point)
        except OSError as error:  # on a full disk there may be much to read, and what there is can be read
            if error.errno not in NO_ROOM:
                raise
            logger.warning(
                "%s: %s, so what was recovered is checked again at the next start",
                self._directory,
                NO_ROOM[error.errno],
            )
        forget_states(self._disk, self._directory, point.recovery_point)

    def _save_work(self, kept: list[Segment], *, is_changed: bool, point: Checkpoint) -> None:
        for segment in kept:
            if segment.has_unwritten_indexes or (is_changed and segment is not kept[-1]):
                segment.write_indexes(segment.size, segment.end_offset, is_finished=segment is not kept[-1])
        if is_changed:
            write_checkpoint(self._disk, self._directory, point)
