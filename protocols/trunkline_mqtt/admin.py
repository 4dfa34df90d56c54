"""What an administrator may ask: which clients there are, and to be rid of one. ``trunkline mqtt`` asks.

Requests and their arguments are the structs below; answers are plain values, as docs/door-mqtt.md lists them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from trunkline.errors import UnsupportedRequest
from trunkline.log import TopicPartition
from trunkline_mqtt.server import MqttServer
from trunkline_mqtt.shares import SESSION_PREFIX, session_name

__all__ = ["Admin"]

MAX_PAGE: Final = 500
"""Sessions in one answer: some 20 ms of work, and half a megabyte with the longest client identifiers."""

SNAPSHOT_S: Final = 60.0
"""For so long the pages of a list come from the identifiers as they were at its first one; sorting 100,000 for each
page would hold up everybody a hundred times."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a request."""


class _List(_Request, frozen=True, kw_only=True):
    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class _OfClient(_Request, frozen=True, kw_only=True):
    client_id: str


class Admin:
    """Answers for a server.

    Args:
      clock: the time in seconds.
    """

    def __init__(self, server: MqttServer, clock: Callable[[], float]) -> None:
        self.server = server
        self._clock = clock
        self._names: list[str] = []  # sorted, of the list that somebody reads page by page
        self._named_at = float("-inf")

    def answer(self, request: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a request. Raises UnsupportedRequest, and what the core's sessions raise while they are read."""
        known = _REQUESTS.get(request)
        if known is None:
            raise UnsupportedRequest(
                f"the MQTT door knows no request {request[:100]!r}; it knows {', '.join(_REQUESTS)}",
                request=request[:100],
            )
        kind, function = known
        try:
            return function(self, msgspec.convert(arguments, kind))
        except msgspec.ValidationError as error:
            raise UnsupportedRequest(f"the MQTT door's request {request!r}: {error}", request=request) from None

    def sessions(self, wanted: _List) -> dict[str, Any]:
        """A page of clients, connected or with a stored session, by identifier."""
        now = self._clock()
        if not wanted.after or now - self._named_at > SNAPSHOT_S:
            self._names, self._named_at = sorted({*self.server.clients, *_stored(self.server)}), now
        begin = bisect.bisect_right(self._names, wanted.after)
        page = self._names[begin : begin + wanted.limit]
        is_last = begin + len(page) >= len(self._names)
        if is_last:
            self._names, self._named_at = [], float("-inf")
        rows = [_describe(self.server, name)[0] for name in page]
        there = [row for row in rows if row["is_connected"] or row["is_stored"]]
        return {"sessions": there, "next": None if is_last else page[-1]}


def _session(server: MqttServer, wanted: _OfClient) -> dict[str, Any] | None:
    """One client with its filters; None if it is not known."""
    name = wanted.client_id
    if name not in server.clients and (server.sessions is None or session_name(name) not in server.sessions):
        return None
    row, filters = _describe(server, name)
    return row | {"filters": sorted(filters)}


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


_REQUESTS: Final[dict[str, tuple[type[_Request], Callable[[Admin, Any], Any]]]] = {
    "sessions": (_List, Admin.sessions),
    "session": (_OfClient, lambda admin, wanted: _session(admin.server, wanted)),
    "kick": (_OfClient, lambda admin, wanted: _kick(admin.server, wanted)),
    "purge": (_OfClient, lambda admin, wanted: _purge(admin.server, wanted)),
}


def _stored(server: MqttServer) -> list[str]:
    """Client identifiers of the stored sessions."""
    if server.sessions is None:
        return []
    start = len(SESSION_PREFIX)
    return [name[start:] for name in server.sessions.names() if name.startswith(SESSION_PREFIX)]


def _describe(server: MqttServer, client_id: str) -> tuple[dict[str, Any], list[str]]:
    """What there is to say of a client, and its filters."""
    connection = server.clients.get(client_id)
    stored = None if server.sessions is None else server.sessions.get(session_name(client_id))
    filters: list[str] = []
    if connection is not None:
        filters = connection.filters
    elif stored is not None:
        filters = [*dict.fromkeys(name.pattern for name in stored.filters)]
    row: dict[str, Any] = {
        "client_id": client_id,
        "is_connected": connection is not None,
        "peer": None if connection is None else connection.peer,
        "protocol_level": None if connection is None else connection.protocol_level,
        "is_stored": stored is not None,
        "filter_count": len(filters),
        "unacknowledged": 0,
        "lag_records": 0,
        "missed": 0,
        "expires_s": None,
        "offline_s": None,
    }
    if stored is not None:
        row["unacknowledged"] = stored.unfinished
        row["lag_records"] = sum(_lag(server, place, cursor) for place, cursor in stored.cursors.items())
        row["missed"] = stored.missed
        row["expires_s"] = stored.expires_s
        if connection is None:  # who was connected when the broker was killed has not been since it is back
            row["offline_s"] = max(server.now_ms() - (stored.detached_ms or server.opened_ms), 0) / 1000
    return row, filters


def _lag(server: MqttServer, place: TopicPartition, cursor: int) -> int:
    """How many records of the door's log topics lie ahead; others, such as the retained messages, do not count."""
    for topic in server.topics:
        if topic.name == place.topic and place.partition < len(topic.partitions):
            return max(topic.partitions[place.partition].high_watermark - cursor, 0)
    return 0
