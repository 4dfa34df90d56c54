"""Checks a log by reading it: what :meth:`trunkline.log.Store.verify` does unless a store knows better."""

from __future__ import annotations

from collections.abc import Iterator

from trunkline.errors import CorruptLog, TrunklineError
from trunkline.log import Fault, Log, Store, TopicPartition
from trunkline.records import check_batch
from trunkline.settings import TopicSettings

__all__ = ["verify_by_reading"]

_READ_BYTES = 4 * 1024 * 1024


def verify_by_reading(store: Store, name: TopicPartition) -> Iterator[Fault]:
    """Open a log and look at every batch: its CRC, its counts, its place. Ends at the first fault. Raises OSError."""
    try:
        log = store.open(name, TopicSettings())
    except CorruptLog as error:
        yield _fault_of(error, name, None)
        return
    try:
        yield from _verify(log, name)
    finally:
        log.close()


def _verify(log: Log, name: TopicPartition) -> Iterator[Fault]:
    offset, end_offset = log.start_offset, log.end_offset
    while offset < end_offset:
        try:
            batches = log.read(offset, _READ_BYTES, end_offset)
        except CorruptLog as error:
            yield _fault_of(error, name, offset)
            return
        if not batches:  # the rest was compacted away
            return
        position = 0
        while position < len(batches):
            try:
                header = check_batch(batches, position, is_compacted=True)
            except TrunklineError as error:
                yield Fault(str(name), None, offset, str(error))
                return
            is_first = offset == log.start_offset  # that may be inside a batch
            if header.last_offset < offset or (header.base_offset < offset and not is_first):
                yield Fault(
                    str(name), None, offset, f"a batch with offset {header.base_offset} comes after {offset - 1}"
                )
                return
            position += header.size_bytes
            offset = header.next_offset
    if offset > end_offset:
        yield Fault(str(name), None, end_offset, f"there are batches up to {offset}, past the end {end_offset}")


def _fault_of(error: CorruptLog, name: TopicPartition, offset: int | None) -> Fault:
    file = str(error.details.get("file", name))
    return Fault(file, error.details.get("position"), offset, str(error).removeprefix(f"{file}: "))
