"""What a client without a session asks for again and again.

librdkafka names all its partitions in every Fetch. While none of them has anything new it does so in the same bytes
each time, and gets the same answer: with 1,000 partitions 5 ms of the broker's processor time, twice a second. So a
connection remembers the last such request, once it has come twice, with its partitions as in a session, and its answer
as it was sent; then nothing is read, looked at or written anew until something happens to one of the partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trunkline_kafka.codec import RequestHeader, encode_response, read_request
from trunkline_kafka.exchange import Encoded
from trunkline_kafka.fetch_sessions import NO_SESSION, FetchSession
from trunkline_kafka.fetched import IDS_FROM, FetchedPartition, by_topic
from trunkline_kafka.fields import Reader
from trunkline_kafka.messages.fetch import FetchRequest, FetchResponse

if TYPE_CHECKING:
    from trunkline_kafka.exchange import Exchange
    from trunkline_kafka.server import KafkaServer

__all__ = ["LastFetches", "RepeatedFetch"]

_MOST_BYTES: Final = 1 << 20  # some 30,000 partitions


class RepeatedFetch(FetchSession):
    """A request and its partitions.

    Attributes:
      answer: that was sent when there was nothing to say; None: none was yet.
    """

    __slots__ = ("_body", "_version", "answer", "request")

    def __init__(self, server: KafkaServer, version: int, body: bytes, request: FetchRequest) -> None:
        is_committed = request.isolation_level > 0
        super().__init__(server, NO_SESSION, uses_ids=version >= IDS_FROM, is_committed=is_committed)
        self._version = version
        self._body = body
        self.request = request
        self.answer: Encoded | None = None

    def is_same(self, version: int, body: bytes) -> bool:
        """Whether a request says the same."""
        return version == self._version and body == self._body

    def response(self, exchange: Exchange, looked_at: Sequence[FetchedPartition]) -> FetchResponse | Encoded:
        """An answer that speaks of all partitions."""
        if self.news(looked_at):
            return FetchResponse(responses=by_topic(self.fetched))
        if self.answer is None:
            self.answer = Encoded(encode_response(exchange.header, FetchResponse(responses=by_topic(self.fetched))))
        return self.answer


class LastFetches:
    """What one connection remembers. ``repeated``: the request that has come twice or more, if any."""

    __slots__ = ("_last", "_server", "repeated")

    def __init__(self, server: KafkaServer) -> None:
        self._server = server
        self._last = 0  # a hash of the last request: keeping all of it is for those that come twice
        self.repeated: RepeatedFetch | None = None

    def read(self, header: RequestHeader, reader: Reader, *, is_busy: bool) -> FetchRequest:
        """The message of a request, as :func:`trunkline_kafka.codec.read_request` reads it.

        Args:
          is_busy: an earlier request has no answer yet, and may be waiting on what is remembered.
        """
        version = header.api_version
        body = reader.data[reader.at : reader.end]
        known = self.repeated
        if known is not None and known.is_same(version, body):
            return known.request
        request: FetchRequest = read_request(header, reader)
        if is_busy or len(body) > _MOST_BYTES:
            return request
        self.forget()
        last, self._last = self._last, hash((version, body))
        if last == self._last and request.session_epoch < 0:
            repeated = RepeatedFetch(self._server, version, body, request)
            if repeated.take(request):
                self.repeated = repeated
            else:
                repeated.close()
        return request

    def forget(self) -> None:
        """Nothing is remembered any more."""
        repeated, self.repeated = self.repeated, None
        if repeated is not None:
            repeated.close()
