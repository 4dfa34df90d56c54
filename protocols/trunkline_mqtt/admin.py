"""What an administrator may ask: which clients there are, and to be rid of one. ``trunkline mqtt`` asks.

Requests and their arguments are the structs below; answers are plain values, as docs/door-mqtt.md lists them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec

from trunkline.errors import UnsupportedRequest
from trunkline.partition import Partition
from trunkline.topic import Topic
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.shares import SESSION_PREFIX, session_name

__all__ = ["answer"]

MAX_PAGE: Final = 1000
"""Sessions in one answer: with the longest client identifiers it has a megabyte."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a request."""


class _List(_Request, frozen=True, kw_only=True):
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class _OfClient(_Request, frozen=True, kw_only=True):
    client_id: str


def answer(server: MqttServer, request: str, arguments: Mapping[str, Any]) -> Any:
    """Answer a request. Raises UnsupportedRequest, and what the core's sessions raise while they are read."""
    known = _REQUESTS.get(request)
    if known is None:
        raise UnsupportedRequest(
            f"the MQTT door knows no request {request[:100]!r}; it knows {', '.join(_REQUESTS)}", request=request[:100]
        )
    kind, function = known
    try:
        return function(server, msgspec.convert(arguments, kind))
    except msgspec.ValidationError as error:
        raise UnsupportedRequest(f"the MQTT door's request {request!r}: {error}", request=request) from None


def _sessions(server: MqttServer, wanted: _List) -> dict[str, Any]:
    """A page of clients, connected or with a stored session, by identifier."""
    names = {*server.clients, *_stored(server)}
    page = heapq.nsmallest(wanted.limit + 1, [name for name in names if name > wanted.after])
    rows = [_describe(server, name) for name in page[: wanted.limit]]
    return {"sessions": rows, "is_last": len(page) <= wanted.limit}


def _session(server: MqttServer, wanted: _OfClient) -> dict[str, Any] | None:
    """One client with its filters; None if it is not known."""
    if wanted.client_id not in server.clients and wanted.client_id not in set(_stored(server)):
        return None
    return _describe(server, wanted.client_id) | {"filters": sorted(_filters(server, wanted.client_id))}


def _kick(server: MqttServer, wanted: _OfClient) -> bool:
    """End a client's connection; False if there is none. Its session stays, if it is stored."""
    connection = server.clients.get(wanted.client_id)
    if connection is None:
        return False
    connection.kicked()
    return True


def _purge(server: MqttServer, wanted: _OfClient) -> bool:
    """End a client's session, and its connection; False if there is neither."""
    is_kicked = _kick(server, wanted)
    is_deleted = server.sessions is not None and server.sessions.delete(session_name(wanted.client_id))
    if is_deleted or is_kicked:
        server.wills.session_ended(wanted.client_id)
    if is_deleted and server.ledger is not None:
        server.ledger.forget(wanted.client_id)
    return is_deleted or is_kicked


_REQUESTS: Final[dict[str, tuple[type[_Request], Callable[[MqttServer, Any], Any]]]] = {
    "sessions": (_List, _sessions),
    "session": (_OfClient, _session),
    "kick": (_OfClient, _kick),
    "purge": (_OfClient, _purge),
}


def _stored(server: MqttServer) -> list[str]:
    """Client identifiers of the stored sessions."""
    if server.sessions is None:
        return []
    start = len(SESSION_PREFIX)
    return [name[start:] for name in server.sessions.names() if name.startswith(SESSION_PREFIX)]


def _filters(server: MqttServer, client_id: str) -> list[str]:
    connection = server.clients.get(client_id)
    if connection is not None:
        return connection.filters
    found = None if server.sessions is None else server.sessions.get(session_name(client_id))
    return [] if found is None else [*dict.fromkeys(name.pattern for name in found.filters)]


def _describe(server: MqttServer, client_id: str) -> dict[str, Any]:
    connection = server.clients.get(client_id)
    stored = None if server.sessions is None else server.sessions.get(session_name(client_id))
    row: dict[str, Any] = {
        "client_id": client_id,
        "is_connected": connection is not None,
        "peer": None if connection is None else connection.peer,
        "protocol_level": None if connection is None else connection.protocol_level,
        "is_stored": stored is not None,
        "filter_count": len(_filters(server, client_id)),
        "unacknowledged": 0,
        "lag_records": 0,
        "missed": 0,
        "expires_s": None,
        "offline_s": None,
    }
    if stored is not None:
        partition = _finder(server.topics)
        row["unacknowledged"] = stored.unfinished
        row["lag_records"] = sum(
            max(found.high_watermark - cursor, 0)
            for (topic, index), cursor in stored.cursors.items()
            if (found := partition(topic, index)) is not None
        )
        row["missed"] = stored.missed
        row["expires_s"] = stored.expires_s
        if connection is None and stored.detached_ms:
            row["offline_s"] = max(server.now_ms() - stored.detached_ms, 0) / 1000
    return row


def _finder(topics: Iterable[Topic]) -> Callable[[str, int], Partition | None]:
    partitions = {(topic.name, partition.index): partition for topic in topics for partition in topic.partitions}
    return lambda name, index: partitions.get((name, index))
