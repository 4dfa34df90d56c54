"""Looking for faults in a segment's key index, by making it anew and comparing."""

from __future__ import annotations

from collections.abc import Iterator

from trunkline.errors import CorruptLog
from trunkline.log import Fault
from trunkline_segments.keys import DamagedIndex, collect, read_place
from trunkline_segments.segment import Segment

__all__ = ["check_keys"]


def check_keys(segment: Segment, length: int) -> Iterator[Fault]:
    """What is wrong with the index of a segment whose log is ``length`` bytes long; at most one fault.

    Where the log itself cannot be read nothing is said of the index.
    """
    path, size = str(segment.keys.path), segment.keys.size()
    file_position, reached = 0, (segment.base_offset, 0)
    while file_position < size:
        try:
            place = read_place(segment, file_position, *reached)
            assert place is not None, "there is something at this position"
            if place.end_position > length:
                raise DamagedIndex(f"the block goes on up to byte {place.end_position} of a log of {length}")
            block = collect(segment, *reached, limit=place.end_position, end_offset=place.end_offset)
            if segment.keys.read(file_position, place.end - file_position) != b"".join(block.encode()):
                raise DamagedIndex(f"the block about offsets {place.base_offset} and on is not what the log says")
        except DamagedIndex as error:
            yield Fault(path, file_position, reached[0], f"{error}; remove the file, and it is made anew when needed")
            return
        except CorruptLog:
            return
        file_position, reached = place.end, (place.end_offset, place.end_position)
