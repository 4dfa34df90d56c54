"""A client that says exactly what a test says, right or wrong."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TypeVar

from trunkline_amqp import methods
from trunkline_amqp.frames import METHOD, PROTOCOL_HEADER, Frame, FrameSplitter, encode_frame
from trunkline_amqp.hot_methods import encode_publish
from trunkline_amqp.properties import NO_PROPERTIES

M = TypeVar("M", bound=methods.Method)

WAIT_S = 20.0


class Ended(Exception):
    """The broker has closed the connection."""


class RawClient:
    """A blocking socket, and frames."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=WAIT_S)
        self._splitter = FrameSplitter(2**20)
        self._frames: list[Frame] = []

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def method(self, channel: int, method: methods.Method) -> None:
        self.send(method_frame(channel, method))

    def frame(self) -> Frame:
        """The next frame. Raises Ended."""
        while not self._frames:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Ended
            self._frames += self._splitter.receive_data(data)
        return self._frames.pop(0)

    def frame_or_end(self) -> Frame | None:
        """The next frame; None if the broker has closed the connection."""
        try:
            return self.frame()
        except Ended:
            return None

    def receive(self) -> methods.Method:
        """The next method; content and heartbeats are passed over."""
        while True:
            kind, _, payload = self.frame()
            if kind == METHOD:
                return methods.decode_method(payload)

    def expect(self, kind: type[M]) -> M:
        method = self.receive()
        assert isinstance(method, kind), method
        return method

    def hello(self, *, channels: int = 1, heartbeat: int = 0, **capabilities: bool) -> RawClient:
        """Come in, and open channels."""
        self.send(PROTOCOL_HEADER)
        self.expect(methods.ConnectionStart)
        dotless = ("consumer_cancel_notify",)
        able = {name if name in dotless else name.replace("_", "."): is_so for name, is_so in capabilities.items()}
        self.method(
            0,
            methods.ConnectionStartOk(
                client_properties={"capabilities": {"authentication_failure_close": True, **able}},
                response=b"\0guest\0guest",
            ),
        )
        self.expect(methods.ConnectionTune)
        self.method(0, methods.ConnectionTuneOk(heartbeat=heartbeat))
        self.method(0, methods.ConnectionOpen())
        self.expect(methods.ConnectionOpenOk)
        for number in range(1, channels + 1):
            self.method(number, methods.ChannelOpen())
            self.expect(methods.ChannelOpenOk)
        return self

    def rest(self) -> list[methods.Method]:
        """The methods until the broker closes the connection."""
        found = []
        try:
            while True:
                found.append(self.receive())
        except Ended:
            return found


def method_frame(channel: int, method: methods.Method) -> bytes:
    return encode_frame(METHOD, channel, methods.encode_method(method))


def publish_frames(
    key: str, body: bytes = b"x", *, exchange: str = "", channel: int = 1, mandatory: bool = False
) -> bytes:
    return encode_publish(channel, exchange.encode(), key.encode(), NO_PROPERTIES, body, 131_072, mandatory=mandatory)
