"""Records that a link cannot bring over: copies in a topic, with where they were and why.

trunkline.dead.reason       text, at most 1,000 bytes
trunkline.dead.topic        where the record is, or was
trunkline.dead.partition    decimal
trunkline.dead.offset       decimal
trunkline.dead.cut          there if the topic does not take records so large: value and other headers are left out
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from trunkline.errors import RecordTooLarge
from trunkline.log import TopicPartition
from trunkline.pending import WaitForAppends
from trunkline.records import Header, Record, decode_all, encode_headers
from trunkline.topic import Topic

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["DeadLetter", "keep_dead_letters"]

_MAX_REASON_BYTES: Final = 1000
_MORE_BYTES: Final = 4096
"""What the headers above, and a record more in a batch, may take."""


class DeadLetter(NamedTuple):
    """A record, and why it cannot go."""

    place: TopicPartition
    offset: int
    reason: str


async def keep_dead_letters(broker: Broker, topic: str, letters: Iterable[DeadLetter]) -> None:
    """Append copies of records to ``topic``, in this order, durable on return. What is not there any more is left out.

    Raises TrunklineError: some of them may be kept. Cancellation: may have happened.
    """
    waiting = WaitForAppends()
    for letter in letters:
        record = await _read(broker, letter)
        if record is not None:
            limit = broker.topics[letter.place.topic].settings.max_message_bytes + _MORE_BYTES
            target = await broker.ensure_topic(topic, settings={"max.message.bytes": str(limit)})
            _append(broker, target, record, letter, waiting)
    await waiting.wait()


async def _read(broker: Broker, letter: DeadLetter) -> Record | None:
    place, offset, _ = letter
    found = broker.topics.get(place.topic)
    if found is None or place.partition >= len(found.partitions):
        return None
    partition = found.partitions[place.partition]
    if not partition.log_start_offset <= offset < partition.high_watermark:
        return None
    records = decode_all(await partition.read(offset, 1), from_offset=offset)
    return records[0] if records and records[0].offset == offset else None


def _append(broker: Broker, target: Topic, record: Record, letter: DeadLetter, waiting: WaitForAppends) -> None:
    place, offset, reason = letter
    said: tuple[Header, ...] = (
        ("trunkline.dead.reason", reason.encode()[:_MAX_REASON_BYTES]),
        ("trunkline.dead.topic", place.topic.encode()),
        ("trunkline.dead.partition", b"%d" % place.partition),
        ("trunkline.dead.offset", b"%d" % offset),
    )
    partition, now_ms = target.partition_for(record.key), broker.now_ms()
    try:
        block = encode_headers((*record.headers, *said))
        partition.stage_record(now_ms, record.key, record.value, block, waiting)
    except RecordTooLarge:
        block = encode_headers((*said, ("trunkline.dead.cut", b"1")))
        partition.stage_record(now_ms, record.key, None, block, waiting)
    waiting.one_more()
