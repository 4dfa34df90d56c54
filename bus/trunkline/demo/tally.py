"""Compares what the devices had acknowledged with what the readers got. Decides only; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from trunkline.demo.away import Return
from trunkline.demo.readers import Notes
from trunkline.demo.readings import ReadingId

__all__ = ["Interruption", "Result", "Tally", "tally"]


class Tally(msgspec.Struct, frozen=True):
    """The count.

    Attributes:
      published: readings handed to the MQTT clients.
      acknowledged: readings for which the broker sent an acknowledgement.
      unacknowledged: published, and never acknowledged.
      read: records that each reader got, by its name.
      lost: acknowledged readings that some reader did not get.
      duplicated: records that hold a reading which an earlier record holds too.
      out_of_order: records that a reader got again, or at a lower offset than the one before.
    """

    published: int
    acknowledged: int
    unacknowledged: int
    read: dict[str, int]
    lost: int
    duplicated: int
    out_of_order: int

    @property
    def is_kept(self) -> bool:
        """Whether everything acknowledged was read by everybody, once a record and in order, and nothing is open."""
        return not (self.lost or self.unacknowledged or self.out_of_order)


def tally(published: int, acknowledged: Set[ReadingId], readers: Mapping[str, Notes]) -> Tally:
    """Count. Duplicates are those of the log: the reader that saw most of them tells."""
    lost: set[ReadingId] = set()
    for notes in readers.values():
        lost |= acknowledged - notes.readings.keys()
    return Tally(
        published=published,
        acknowledged=len(acknowledged),
        unacknowledged=published - len(acknowledged),
        read={name: notes.records for name, notes in readers.items()},
        lost=len(lost),
        duplicated=max(notes.records - len(notes.readings) for notes in readers.values()),
        out_of_order=sum(notes.out_of_order for notes in readers.values()),
    )


class Interruption(msgspec.Struct, frozen=True):
    """The kill. Seconds count from the kill; ``acknowledged_before`` is what had been acknowledged by then."""

    acknowledged_before: int
    ready_again_s: float
    acknowledging_again_s: float


class Result(msgspec.Struct, frozen=True):
    """What the demo has found.

    Attributes:
      tally: the count.
      returned: what the device got that was away meanwhile.
      interruption: the kill, if there was one.
      publishing_s: from the first publish to the last acknowledgement.
      records_per_s: acknowledgements in that time, less the time the broker was away.
      bytes_on_disk, files: what the data directory holds at the end.
      segments: how many of the files are log segments.
    """

    tally: Tally
    returned: Return
    interruption: Interruption | None
    publishing_s: float
    records_per_s: float
    data: str
    bytes_on_disk: int
    files: int
    segments: int

    @property
    def is_kept(self) -> bool:
        """Whether everything acknowledged was there for everybody."""
        return self.tally.is_kept and not self.returned.missing
