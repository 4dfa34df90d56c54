"""Queues that refuse new records when they are full (``overflow=reject``): asked before a record is staged.

A queue's length is known when records are committed, but they are refused when they are staged, so what lies between
counts too. A gate remembers what it let through until it is committed, or was taken back because it could not be
written (then the same offsets are given again).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from trunkline.errors import QueueFull, TrunklineError
from trunkline.queues.arrivals import record_bytes
from trunkline.records import BatchHeader, Buffer, Header, Record, decode_all
from trunkline.records.decoding import read_record_headers

if TYPE_CHECKING:
    from trunkline.queues.members import Member

__all__ = ["Gate"]


class Gate:
    """Between one partition and one queue that takes from it."""

    __slots__ = ("_member", "_passed", "records", "size_bytes")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._passed: deque[tuple[int, int, int, int]] = deque()  # first offset, the one after, records, bytes
        self.records = 0
        self.size_bytes = 0

    def check_record(self, size_bytes: int, key: bytes | None, headers_block: bytes) -> None:
        headers: tuple[Header, ...] = ()
        if headers_block[0]:
            headers, _ = read_record_headers(headers_block, 0, len(headers_block), 0, 1 << 30)
        if self._member.wants(key, headers):
            self._pass(1, 1, size_bytes)

    def check_batch(self, header: BatchHeader, batch: Buffer) -> None:
        if header.is_control:
            return
        if self._member.is_picking:
            try:
                wanted = [record for record in decode_all(batch) if self._member.wants(record.key, record.headers)]
            except TrunklineError:
                return  # nor will it match when it is committed
            if wanted:
                self._pass(header.record_count, len(wanted), _size(wanted))
        else:
            self._pass(header.record_count, header.record_count, header.size_bytes)

    def _pass(self, offsets: int, records: int, size_bytes: int) -> None:
        queue, partition = self._member.queue, self._member.feed.partition
        self._forget(partition.high_watermark, partition.staged_end_offset)
        config = queue.config
        ready, size = queue.promised()
        is_long = 0 <= config.max_length < ready + records
        if is_long or 0 <= config.max_length_bytes < size + size_bytes:
            queue.refused_publishes += records
            limit = f"{config.max_length} records" if is_long else f"{config.max_length_bytes} bytes"
            raise QueueFull(f"queue {queue.name} is full ({limit}); try again when it is shorter", queue=queue.name)
        first = partition.staged_end_offset
        self._passed.append((first, first + offsets, records, size_bytes))
        self.records += records
        self.size_bytes += size_bytes

    def _forget(self, high_watermark: int, end_offset: int) -> None:
        passed = self._passed
        while passed and passed[0][1] <= high_watermark:
            self._take_off(passed.popleft())
        while passed and passed[-1][1] > end_offset:
            self._take_off(passed.pop())

    def _take_off(self, passed: tuple[int, int, int, int]) -> None:
        self.records -= passed[2]
        self.size_bytes -= passed[3]

    def on_the_way(self) -> tuple[int, int]:
        """Records and bytes that were let through and have not arrived."""
        partition = self._member.feed.partition
        self._forget(partition.high_watermark, partition.staged_end_offset)
        return self.records, self.size_bytes


def _size(records: list[Record]) -> int:
    return sum(record_bytes(record) for record in records)
