"""One partition's records on their way to one client.

A subscription has a cursor and nothing else: whenever the partition has more and the client has room, it reads the log
from there. A client that is slow, or does not read at all, so costs a number, not a queue, and misses nothing. What was
just committed is read back from the page cache, or from the store's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trunkline.door import Transport
from trunkline.errors import OffsetOutOfRange, TrunklineError
from trunkline.records import decode_all, iter_headers

from trunkline_teletype.codec import encode_bye, encode_message

if TYPE_CHECKING:
    from trunkline.broker import Broker
    from trunkline.partition import Partition

__all__ = ["Subscription"]

READ_BYTES: Final = 64 * 1024


class Subscription:
    """A :class:`trunkline.partition.TailListener` from the moment it is made until ``close``."""

    def __init__(self, broker: Broker, transport: Transport, partition: Partition, offset: int) -> None:
        self._broker = broker
        self._transport = transport
        self._partition = partition
        self._offset = offset  # of the next record to send
        self._is_busy = False  # reading in a worker, or in pump
        self._is_closed = False
        partition.add_listener(self)

    def close(self) -> None:
        """The client is gone."""
        self._is_closed = True
        self._partition.remove_listener(self)

    # -- from the partition; must not raise --------------------------------------------------------

    def records_committed(self, partition: Partition, base_offset: int, next_offset: int, batches: list[bytes]) -> None:
        self.pump()

    def partition_closed(self, partition: Partition, error: TrunklineError | None) -> None:
        if error is not None or not self._broker.is_closing:
            self._fail(error or TrunklineError(f"topic {partition.topic.name} was deleted"))

    # -- sending -----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what there is, as long as the client has room."""
        if self._is_busy:
            return
        self._is_busy = True
        while self._wants_more():
            try:
                batches = self._partition.read_nowait(self._offset, READ_BYTES)
            except (OSError, TrunklineError) as error:
                self._recover(error)
                continue
            if batches is None:  # the store would have to wait
                self._broker.start_soon(self._read_waiting)
                return
            self._send(batches)
        self._is_busy = False

    def _wants_more(self) -> bool:
        is_writable = not self._transport.is_congested and not self._transport.is_closing
        return is_writable and not self._is_closed and self._offset < self._partition.high_watermark

    async def _read_waiting(self) -> None:
        try:
            batches = await self._partition.read(self._offset, READ_BYTES)
        except (OSError, TrunklineError) as error:
            self._recover(error)
        else:
            if not self._is_closed:
                self._send(batches)
        self._is_busy = False
        self.pump()

    def _send(self, batches: bytes) -> None:
        topic, index = self._partition.topic.name, self._partition.index
        try:
            records = decode_all(batches, from_offset=self._offset)
        except TrunklineError as error:  # a client's batch, intact outside and nonsense inside
            self._fail(error)
            return
        for record in records:
            self._transport.write(encode_message(topic, index, record.offset, record.key, record.value))
        ends = [header.next_offset for _, header in iter_headers(batches)]
        self._offset = ends[-1] if ends else self._partition.high_watermark  # compaction may have left nothing

    def _recover(self, error: Exception) -> None:
        if isinstance(error, OffsetOutOfRange) and self._offset < self._partition.log_start_offset:
            self._offset = self._partition.log_start_offset  # retention was faster
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """It cannot go on: say why, and let the client connect anew rather than miss records."""
        known = error if isinstance(error, TrunklineError) else TrunklineError(str(error))
        self._transport.write(encode_bye(known))
        self._transport.close()
