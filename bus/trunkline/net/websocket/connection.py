"""A door's connection behind WebSocket: a connection towards the transport, a transport towards the door's."""

from __future__ import annotations

from trunkline.door import Connection, Door, Transport, WebSocketOffer
from trunkline.errors import RemoteProtocolError
from trunkline.net.websocket.frames import CloseCode, Closing, FrameDecoder, Ping, binary, closing, pong
from trunkline.net.websocket.greeting import Greeting, Policy

__all__ = ["WebSocketConnection", "WebSocketDoor"]


class WebSocketDoor(Door):
    """Lets peers in to another door that come over WebSocket. That door is opened and closed by who made it."""

    def __init__(self, door: Door, offer: WebSocketOffer, origins: list[str]) -> None:
        self._door = door
        self._policy = Policy(offer, origins)

    def connect(self, transport: Transport) -> Connection:
        return WebSocketConnection(self._door, transport, self._policy)


class WebSocketConnection(Connection, Transport):
    """One peer. Deadlines, limits and back-pressure are those of the transport below.

    HTTP request and frame headers count as sent before the peer has introduced itself, as the door sees it.
    """

    __slots__ = ("_below", "_door", "_frames", "_greeting", "_inner", "_is_closing", "peer")

    def __init__(self, door: Door, transport: Transport, policy: Policy) -> None:
        self._door = door
        self._below = transport
        self._greeting: Greeting | None = Greeting(policy, transport.local[0])
        self._frames = FrameDecoder()
        self._inner: Connection | None = None  # the door's, once there is a WebSocket
        self._is_closing = False
        self.peer = transport.peer

    # -- towards the transport ---------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        if self._greeting is not None:
            data = self._greet(self._greeting, data)
        if data and not self.is_closing:
            self._frames.receive_data(data)
            self._read_frames()

    @property
    def held_bytes(self) -> int:
        return 0 if self._inner is None else self._inner.held_bytes

    @property
    def called(self) -> str:
        return "" if self._inner is None else self._inner.called

    def _greet(self, greeting: Greeting, data: bytes) -> bytes:
        """What came behind the request, if that is complete now."""
        try:
            found = greeting.receive_data(data)
        except RemoteProtocolError as error:
            self._below.write(error.details["response"])
            raise
        if found is None:
            return b""
        answer, rest = found
        self._below.write(answer)
        self._greeting = None
        self._inner = self._door.connect(self)
        return rest

    def _read_frames(self) -> None:
        """All data that is there goes to the door at once: a frame for each packet costs it no call of its own."""
        parts: list[bytes] = []
        problem: RemoteProtocolError | None = None
        end: Closing | None = None
        try:
            while (event := self._frames.next_event()) is not None:
                if type(event) is bytes:
                    parts.append(event)
                elif type(event) is Ping:
                    self._below.write(pong(event.payload))
                else:
                    assert isinstance(event, Closing)
                    end = event
                    break
        except RemoteProtocolError as error:
            problem = error
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if data:
            self._deliver(data)
        if problem is not None:
            self._say_closing(problem.details["close_code"])
            raise problem
        if end is not None:
            self._say_closing(CloseCode.NORMAL if end.code is None else end.code)
            self._below.close()

    def _deliver(self, data: bytes) -> None:
        assert self._inner is not None
        try:
            self._inner.receive_data(data)
        except RemoteProtocolError:
            self._say_closing(CloseCode.PROTOCOL_ERROR)
            raise
        except Exception:
            self._say_closing(CloseCode.INTERNAL_ERROR)
            raise

    def _say_closing(self, code: int) -> None:
        if not self.is_closing:
            self._below.write(closing(code))
            self._is_closing = True

    def closed(self, error: Exception | None) -> None:
        self._is_closing = True
        if self._inner is not None:
            self._inner.closed(error)

    def writable(self) -> None:
        if self._inner is not None:
            self._inner.writable()

    def timed_out(self) -> None:
        if self._inner is not None:
            self._inner.timed_out()
            self._say_closing(CloseCode.NORMAL)

    def shutting_down(self) -> None:
        if self._inner is not None:
            self._inner.shutting_down()

    # -- towards the door's connection -------------------------------------------------------------

    @property
    def local(self) -> tuple[str, int]:  # type: ignore[override]  # as the transport below says
        return self._below.local

    @property
    def idle_timeout_s(self) -> float:
        return self._below.idle_timeout_s

    @idle_timeout_s.setter
    def idle_timeout_s(self, value: float) -> None:
        self._below.idle_timeout_s = value

    @property
    def is_congested(self) -> bool:  # type: ignore[override]
        return self._below.is_congested

    @property
    def is_closing(self) -> bool:  # type: ignore[override]
        return self._is_closing or self._below.is_closing

    def write(self, data: bytes) -> None:
        if not self._is_closing:
            self._below.write(binary(data))

    def pause(self) -> None:
        self._below.pause()

    def resume(self) -> None:
        self._below.resume()

    def established(self) -> None:
        self._below.established()

    def close(self) -> None:
        self._say_closing(CloseCode.NORMAL)
        self._below.close()

    def abort(self) -> None:
        self._is_closing = True
        self._below.abort()
