"""One Kafka client: frames in, answers out, in the order of the requests. Sans-I/O.

Requests are begun one after another, each when those before it are answered and the client has taken the answers
(what was written and not sent is below the limit): so a connection holds one answer at a time, however many fetches
it asks for. Produce alone does not wait for its turn: its batches are staged as they arrive, and only the answer
keeps its place; so requests that follow each other share a round and its flush (see
:mod:`trunkline_kafka.held_produce` for those that cannot be staged yet). While too many wait for their answers,
nothing is read from the client.

A request that cannot be read, or is of a kind or version that is not known, ends the connection, as it does in Kafka:
there is no answer that the client could read. ApiVersions of an unknown version is the exception (KIP-511).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from trunkline.door import Connection, Transport
from trunkline.errors import RemoteProtocolError
from trunkline_kafka.apis import APIS, FETCH, PRODUCE
from trunkline_kafka.codec import FrameDecoder, RequestHeader, read_header, read_request
from trunkline_kafka.exchange import WAITS, Exchange, Later
from trunkline_kafka.fields import Reader

if TYPE_CHECKING:
    from trunkline.partial import PartialFrame
    from trunkline_kafka.fetch_sessions import FetchSession
    from trunkline_kafka.held_produce import HeldProduce
    from trunkline_kafka.repeated_fetch import LastFetches
    from trunkline_kafka.repeated_produce import LastProduce
    from trunkline_kafka.server import KafkaServer

__all__ = ["FIRST_REQUEST_BYTES", "KafkaConnection"]

FIRST_REQUEST_BYTES = 8192
"""Largest request taken from somebody unknown: ApiVersions, or whatever an old client begins with."""

REMEMBERED_FETCH_BYTES = 1024
"""A Fetch below this names so few partitions that reading it again costs little."""


class KafkaConnection(Connection):
    """Made by the door for each transport."""

    __slots__ = (
        "_exchanges",
        "_frames",
        "_handlers",
        "_is_paused",
        "_is_pumping",
        "_waiting_bytes",
        "fetch_session",
        "held",
        "last_fetches",
        "last_produce",
        "local",
        "server",
        "transport",
    )

    def __init__(self, server: KafkaServer, transport: Transport, handlers: Mapping[int, Callable[..., Any]]) -> None:
        self.server = server
        self.transport = transport
        self.local = transport.local  # while there is a socket to ask
        self.fetch_session: FetchSession | None = None
        self.last_fetches: LastFetches | None = None  # made by the first request that is worth remembering
        self.held: HeldProduce | None = None  # made by the first request of such a transaction
        self.last_produce: LastProduce | None = None
        self._handlers = handlers
        self._frames = FrameDecoder(FIRST_REQUEST_BYTES)
        self._exchanges: deque[Exchange] = deque()
        self._waiting_bytes = 0  # of requests that are not begun
        self._is_paused = False
        self._is_pumping = False

    # -- from the core -----------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        return self._frames.held_bytes

    def receive_data(self, data: bytes) -> None:
        """See :class:`trunkline.door.Connection`."""
        frames = self._frames
        frames.receive_data(data)
        while (found := frames.next_frame()) is not None:
            self._received(*found)
            if self.transport.is_closing:
                return

    @property
    def partial(self) -> PartialFrame | None:  # type: ignore[override]  # nobody sets it
        """See :class:`trunkline.door.Connection`."""
        return self._frames.partial

    def writable(self) -> None:
        """Go on with what waited for room."""
        self._pump()

    def closed(self, error: Exception | None) -> None:
        """What waits is given up; what was produced is still written."""
        for exchange in self._exchanges:
            if exchange.cancel is not None:
                exchange.cancel()
                exchange.cancel = None
        self._exchanges.clear()
        self.end_fetch_session()
        if self.last_fetches is not None:
            self.last_fetches.forget()

    def end_fetch_session(self) -> None:
        """Forget it, if there is one."""
        session, self.fetch_session = self.fetch_session, None
        if session is not None:
            session.close()

    # -- requests ----------------------------------------------------------------------------------

    def _received(self, data: bytes | bytearray, at: int, stop: int) -> None:
        known = self.last_produce
        if known is not None and known.take(self, data, at, stop):
            self.server.requests += 1
            return
        reader = Reader(cast(bytes, data), at, stop)  # headers and Produce have only strings, numbers, and views
        header = read_header(reader)
        key = header.api_key
        if key not in self._handlers:
            raise RemoteProtocolError(f"{APIS[key].name} is not offered here")
        if key != PRODUCE:
            reader.data = bytes(data)
        self.server.requests += 1
        is_readable = APIS[key].first <= header.api_version <= APIS[key].last
        request: Any
        if key == FETCH and stop - at >= REMEMBERED_FETCH_BYTES:
            request = self._read_fetch(header, reader)
        else:
            request = read_request(header, reader) if is_readable else None
        if self._frames.max_frame_bytes == FIRST_REQUEST_BYTES:
            self._frames.max_frame_bytes = self.server.settings.max_request_bytes
            self.transport.idle_timeout_s = self.server.settings.idle_timeout_s
            self.transport.established()
        if key == PRODUCE:
            from trunkline_kafka.repeated_produce import remember  # see trunkline_kafka.handlers

            self.last_produce = remember(data, at, stop, header, request)
            self._handlers[PRODUCE](self, header, request)
            return
        exchange = Exchange(self, header, request, stop - at)
        self._waiting_bytes += exchange.size_bytes
        self.promise(exchange)
        self._pump()

    def _read_fetch(self, header: RequestHeader, reader: Reader) -> Any:
        from trunkline_kafka.repeated_fetch import LastFetches  # see trunkline_kafka.handlers

        if self.last_fetches is None:
            self.last_fetches = LastFetches(self.server)
        return self.last_fetches.read(header, reader, is_busy=bool(self._exchanges))

    def promise(self, exchange: Exchange) -> None:
        """Keep the place of an answer; while too much waits, nothing is read."""
        self._exchanges.append(exchange)
        self._pause_if_full()

    def hold(self, size_bytes: int) -> None:
        """So much more of this client's waits here."""
        self._waiting_bytes += size_bytes
        self._pause_if_full()

    def let_go(self, size_bytes: int) -> None:
        """So much of it does not any more."""
        self._waiting_bytes -= size_bytes
        if self._is_paused:
            self._resume()

    def _pause_if_full(self) -> None:
        settings = self.server.settings
        if len(self._exchanges) >= settings.max_waiting_requests or self._waiting_bytes >= settings.max_request_bytes:
            self._is_paused = True
            self.transport.pause()

    def _resume(self) -> None:
        settings = self.server.settings
        if (
            len(self._exchanges) <= settings.max_waiting_requests // 2
            and self._waiting_bytes <= settings.max_request_bytes // 2
        ):
            self._is_paused = False
            self.transport.resume()

    def _pump(self) -> None:
        """Send the answers that are due, and begin the next request."""
        if self._is_pumping:
            return
        self._is_pumping = True
        transport, exchanges = self.transport, self._exchanges
        try:
            while exchanges and not transport.is_closing:
                head = exchanges[0]
                if head.parts is not None:
                    exchanges.popleft()
                    for part in head.parts:
                        transport.write(part)  # type: ignore[arg-type]  # records are bytes, as partitions give them
                elif head.is_begun or transport.is_congested:
                    break
                else:
                    head.is_begun = True
                    self._waiting_bytes -= head.size_bytes
                    self._begin(head)
        finally:
            self._is_pumping = False
        if self._is_paused:
            self._resume()

    def _begin(self, exchange: Exchange) -> None:
        answer = self._handlers[exchange.header.api_key](exchange)
        if isinstance(answer, Later):
            self.begin_later(exchange, answer)
        elif answer is not WAITS:
            exchange.answer(answer)

    def begin_later(self, exchange: Exchange, later: Later) -> None:
        """Have a task of the broker find the answer."""
        self.server.broker.start_soon(self._work, exchange, later)

    async def _work(self, exchange: Exchange, later: Later) -> None:
        try:
            message: Any = await later.work()
        except Exception:
            self.transport.close()  # a bug here: better no answer than none ever
            raise
        if message is not WAITS and not self.transport.is_closing:
            exchange.answer(message)

    def answered(self, exchange: Exchange) -> None:
        """Its answer is there."""
        if self._exchanges and self._exchanges[0] is exchange:
            self._pump()
