"""What an administrator may ask of transactions beside what Kafka's protocol has. ``trunkline transactions`` asks.

Requests and their arguments are the structs below; answers are plain values, as docs/transactions.md lists them.
"""

from __future__ import annotations

import bisect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from trunkline.errors import UnsupportedRequest
from trunkline.log import TopicPartition
from trunkline.transactions.state import Transaction

if TYPE_CHECKING:
    from trunkline.broker import Broker

__all__ = ["answer"]

MAX_PAGE: Final = 2000
"""Transactional ids in one answer: a quarter of a megabyte with usual ones, and some 10 ms of work."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a request."""


class _List(_Request, frozen=True, kw_only=True):
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class _One(_Request, frozen=True, kw_only=True):
    transactional_id: str


async def answer(broker: Broker, request: str, arguments: Mapping[str, Any]) -> Any:
    """Answer a request. Raises UnsupportedRequest, and what the coordinator raises."""
    known = _REQUESTS.get(request)
    if known is None:
        raise UnsupportedRequest(
            f"the Kafka door knows no request {request[:100]!r}; it knows {', '.join(_REQUESTS)}",
            request=request[:100],
        )
    kind, function = known
    try:
        wanted = msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise UnsupportedRequest(f"the Kafka door's request {request!r}: {error}", request=request) from None
    return await function(broker, wanted)


async def _list(broker: Broker, wanted: _List) -> dict[str, Any]:
    """A page of transactional ids, by name."""
    found = broker.transactions.list()
    begin = bisect.bisect_right(found, wanted.after, key=lambda each: each.transactional_id)
    page = found[begin : begin + wanted.limit]
    is_last = begin + len(page) >= len(found)
    rows = [_row(broker, each) for each in page]
    return {"transactions": rows, "next": None if is_last else page[-1].transactional_id}


async def _describe(broker: Broker, wanted: _One) -> dict[str, Any]:
    """One, with where it has written, and what waits for it there."""
    found = broker.transactions.describe(wanted.transactional_id)
    partitions = [_partition(broker, found, place) for place in sorted(found.partitions)]
    return _row(broker, found) | {"partitions": partitions, "groups": sorted(found.groups)}


async def _abort(broker: Broker, wanted: _One) -> bool:
    """Abort what is ongoing; False if nothing is."""
    return await broker.transactions.abort(wanted.transactional_id)


def _row(broker: Broker, found: Transaction) -> dict[str, Any]:
    now_ms = broker.now_ms()
    return {
        "transactional_id": found.transactional_id,
        "producer_id": found.producer_id,
        "epoch": found.epoch,
        "state": found.state.name.lower().replace("_", " "),
        "open_s": max(now_ms - found.started_ms, 0) / 1000 if found.started_ms else None,
        "timeout_s": found.timeout_ms / 1000,
        "changed_s": max(now_ms - found.updated_ms, 0) / 1000,
    }


def _partition(broker: Broker, found: Transaction, place: TopicPartition) -> dict[str, Any]:
    topic = broker.topics.get(place.topic)
    row: dict[str, Any] = {"topic": place.topic, "partition": place.partition, "first_offset": None, "held_back": 0}
    if topic is not None and place.partition < len(topic.partitions):
        partition = topic.partitions[place.partition]
        if partition.transactions is not None:
            row["first_offset"] = partition.transactions.open.get(found.producer_id)
        row["held_back"] = partition.acknowledged_offset - partition.high_watermark
    return row


_REQUESTS: Final[Mapping[str, tuple[type[_Request], Callable[..., Awaitable[Any]]]]] = {
    "transactions": (_List, _list),
    "transaction": (_One, _describe),
    "abort": (_One, _abort),
}
