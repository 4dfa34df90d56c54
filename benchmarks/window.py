"""Producers that each keep so many requests waiting on a connection: the same frame again and again, prepared once.

Answers begin with their length, as 32 bits; nothing else of them is looked at than what says that it was refused.
"""

from __future__ import annotations

import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

__all__ = ["WindowedProducer", "run_all"]

RECEIVE_BYTES: Final = 1 << 18


class WindowedProducer(ABC):
    """Sends ``frame`` ``count`` times, ``window`` at a time, on a connection that has introduced itself."""

    def __init__(self, sock: socket.socket, frame: bytes, count: int, window: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.to_receive = count
        self._to_send = count
        self._frame = frame
        self._window = window
        self._waiting = 0
        self._unsent = memoryview(b"")
        self._partial = b""

    @abstractmethod
    def check(self, data: bytes, start: int, end: int) -> None:
        """Raise RuntimeError if the answer in ``data[start:end]`` says no."""

    def on_ready(self) -> None:
        self._receive()
        self.send()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("closed by the broker")
        data = self._partial + data
        position = 0
        while len(data) - position >= 4:
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            if end > len(data):
                break
            self.check(data, position, end)
            position = end
            self._waiting -= 1
            self.to_receive -= 1
        self._partial = data[position:]

    def send(self) -> None:
        """As much as there is room for."""
        while True:
            if not self._unsent:
                count = min(self._window - self._waiting, self._to_send)
                if count <= 0:
                    return
                self._unsent = memoryview(self._frame * count if count > 1 else self._frame)
                self._waiting += count
                self._to_send -= count
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                return
            self._unsent = self._unsent[sent:]


def run_all(producers: Sequence[WindowedProducer], limit_s: float) -> int:
    """Until all is acknowledged; return how many requests that were. Raises TimeoutError."""
    count = sum(producer.to_receive for producer in producers)
    poll = select.epoll()
    by_fd = {producer.sock.fileno(): producer for producer in producers}
    for fd, producer in by_fd.items():
        poll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        producer.send()
    deadline = time.monotonic() + limit_s
    while any(producer.to_receive for producer in producers):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done within {limit_s} s")
        for fd, _ in poll.poll(1.0):
            by_fd[fd].on_ready()
    return count
