"""Keeps one session open: connects, connects again after a failure with growing pauses, tells who depends on it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.abc
import msgspec

from trunkline.errors import ConnectionFailed, LocalProtocolError, TrunklineError
from trunkline_native.client.address import Address
from trunkline_native.client.session import Session
from trunkline_native.frames import Header

if TYPE_CHECKING:
    import ssl

__all__ = ["Link", "LinkUser", "retry_after_s"]

logger = logging.getLogger("trunkline_native.client")

_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 2.0


def retry_after_s(attempt: int, random_number: Callable[[], float] = random.random) -> float:
    """The pause before the n-th attempt in a row: doubled each time up to two seconds, half of it by chance.

    Chance keeps the clients of a broker that comes back from all knocking at once.
    """
    pause: float = min(_FIRST_RETRY_S * 2 ** min(attempt - 1, 10), _LAST_RETRY_S)
    return pause * (0.5 + random_number() / 2)


class LinkUser(Protocol):
    """Who wants to know about sessions."""

    def connected(self, session: Session) -> None:
        """A session begins."""

    def disconnected(self, error: TrunklineError) -> None:
        """It is over; another one is tried for."""


class Link:
    """The connection to a server, across its breaks.

    Attributes:
      session: the one that is open now, or None.
    """

    def __init__(
        self,
        address: Address,
        *,
        client_name: str,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        request_timeout_s: float,
    ) -> None:
        self.session: Session | None = None
        self.address = address
        self.users: list[LinkUser] = []
        self._client_name = client_name
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._changed = anyio.Event()
        self._last_error: TrunklineError | None = None
        self._closed: TrunklineError | None = None

    def close(self, error: TrunklineError) -> None:
        """The client ends: whoever waits for an answer, or asks from now on, is told."""
        self._closed = error
        session, self.session = self.session, None
        if session is not None:
            session.end(error)
        self._changed.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Stay connected until cancelled; started once the first session is open. Raises if that fails."""
        stream, session = await self._open()
        is_first = True
        while True:
            try:
                self._begin(session)
                if is_first:
                    task_status.started()
                    is_first = False
                await session.run()
            except TrunklineError as error:
                logger.info("%s: %s; connecting again", self.address, error)
                self._end(session, error)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
            stream, session = await self._open_again()

    async def _open_again(self) -> tuple[anyio.abc.ByteStream, Session]:
        attempt = 0
        while True:
            attempt += 1
            await anyio.sleep(retry_after_s(attempt))
            try:
                return await self._open()
            except TrunklineError as error:
                self._last_error = error
                logger.log(logging.DEBUG if error.retriable else logging.WARNING, "%s", error)

    async def _open(self) -> tuple[anyio.abc.ByteStream, Session]:
        address = self.address
        stream: anyio.abc.ByteStream | None = None
        try:
            with anyio.fail_after(self._connect_timeout_s):
                stream = await self._connect()
                session = Session(stream, self._request_timeout_s)
                await session.greet(self._client_name)
                return stream, session
        except BaseException as error:
            if stream is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
            if isinstance(error, TimeoutError):
                raise ConnectionFailed(
                    f"{address} did not answer within {self._connect_timeout_s:g} s; is this its native port?"
                ) from None
            if isinstance(error, (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)):
                raise ConnectionFailed(
                    f"{address} cannot be reached ({_reason(error)}); is a broker running there (trunkline serve)?"
                ) from error
            raise

    async def _connect(self) -> anyio.abc.ByteStream:
        host, port = self.address.host, self.address.port
        if self._tls is None:
            return await anyio.connect_tcp(host, port)
        return await anyio.connect_tcp(host, port, ssl_context=self._tls, tls_standard_compatible=False)

    def _begin(self, session: Session) -> None:
        self.session = session
        self._last_error = None
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        for user in self.users:
            user.connected(session)

    def _end(self, session: Session, error: TrunklineError) -> None:
        self.session = None
        self._last_error = error
        session.end(_broken(error))
        for user in self.users:
            user.disconnected(error)

    async def request(
        self, make: Callable[[int], Header], body: bytes = b"", *, is_repeatable: bool
    ) -> tuple[Header, bytes]:
        """Send a request and return its answer.

        Args:
          is_repeatable: whether it may be sent again when the connection breaks before the answer.

        Raises:
          ConnectionFailed: no answer; unless ``is_repeatable`` the request may have been carried out.
          TrunklineError: the server refused it.
          LocalProtocolError: a number is none that can be sent; nothing was.
        """
        _check(make(0))
        deadline = anyio.current_time() + self._request_timeout_s
        while True:
            session = await self._wait_session(deadline)
            waiting = _Waiting()
            session.call(make, waiting.answer, body)
            await waiting.done.wait()
            error = waiting.error
            if error is None:
                assert waiting.header is not None
                return waiting.header, waiting.body
            is_broken = isinstance(error, ConnectionFailed)
            if not (is_broken and is_repeatable) or anyio.current_time() >= deadline:
                raise error

    async def _wait_session(self, deadline: float) -> Session:
        while self.session is None:
            if self._closed is not None:
                raise self._closed
            with anyio.move_on_after(deadline - anyio.current_time()):
                await self._changed.wait()
                continue
            raise self._last_error or ConnectionFailed(f"{self.address} cannot be reached")
        return self.session


def _check(header: Header) -> None:
    """The server would end the connection, and with it all that others do on it."""
    try:
        msgspec.convert(msgspec.to_builtins(header), type(header))
    except msgspec.ValidationError as error:
        raise LocalProtocolError(f"{type(header).__name__}: {error}") from None


class _Waiting:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.header: Header | None = None
        self.body = b""
        self.error: TrunklineError | None = None

    def answer(self, answer: Header | TrunklineError, body: bytes | memoryview) -> None:
        if isinstance(answer, TrunklineError):
            self.error = answer
        else:
            self.header = answer
            self.body = bytes(body)
        self.done.set()


def _broken(error: TrunklineError) -> ConnectionFailed:
    if isinstance(error, ConnectionFailed):
        return error
    return ConnectionFailed(f"the connection broke before the answer: {error}")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.__cause__ is not None:  # anyio wraps the failures of all addresses
        cause: BaseException = error.__cause__
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        return str(cause) or str(error)
    return str(error) or type(error).__name__
