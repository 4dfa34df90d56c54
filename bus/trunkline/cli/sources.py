"""Input for ``trunkline publish``, read in a worker thread so that the client goes on sending meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from trunkline.cli.progress import Progress

__all__ = ["read_lines", "read_whole"]

Take = Callable[[bytes], Awaitable[None]]
"""Is given each record in turn."""

_READ_BYTES: Final = 256 * 1024
_MAX_RECORD_BYTES: Final = 256 * 1024 * 1024  # the largest max.message.bytes a topic may have


@contextmanager
def _opened(source: Path) -> Iterator[int]:
    """A file descriptor; ``-`` is standard input."""
    if str(source) == "-":
        yield sys.stdin.fileno()
        return
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def read_lines(source: Path, progress: Progress, take: Take) -> None:
    """Give ``take`` the lines of a file without their newlines; the last one need not have any. Raises OSError."""
    parts: list[bytes] = []
    size = 0
    with _opened(source) as fd:
        while chunk := await _read(fd, progress):
            first, *more = chunk.split(b"\n")
            parts.append(first)
            size = _check_size(source, size + len(first))
            if more:
                await take(b"".join(parts))
                for line in more[:-1]:
                    await take(line)
                parts, size = [more[-1]], len(more[-1])
    if size:
        await take(b"".join(parts))


async def read_whole(source: Path, progress: Progress, take: Take) -> None:
    """Give ``take`` all of a file. Raises OSError, also when it is larger than any record may be."""
    parts: list[bytes] = []
    size = 0
    with _opened(source) as fd:
        while chunk := await _read(fd, progress):
            size = _check_size(source, size + len(chunk))
            parts.append(chunk)
    await take(b"".join(parts))


async def _read(fd: int, progress: Progress) -> bytes:
    """What is there, as it comes: a slow pipe is not waited for until some buffer is full."""
    chunk = await trio.to_thread.run_sync(os.read, fd, _READ_BYTES, abandon_on_cancel=True)
    progress.advance(len(chunk))
    return chunk


def _check_size(source: Path, size: int) -> int:
    if size > _MAX_RECORD_BYTES:
        raise OSError(f"{source}: more than {_MAX_RECORD_BYTES} bytes for one record; --lines makes one of each line")
    return size
