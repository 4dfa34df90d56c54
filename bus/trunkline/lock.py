"""One broker per data directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trunkline.errors import ConfigurationError, DataDirectoryLocked

__all__ = ["lock_directory"]


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold ``directory`` (made if missing) inside the block; the kernel lets go of it if the process dies.

    Raises:
      DataDirectoryLocked: another process holds it; ``pid`` is its, if it could be read.
      ConfigurationError: it cannot be made or written to.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigurationError(f"data directory {directory}: is there already, and is no directory") from None
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode(errors="replace").strip()
            raise DataDirectoryLocked(
                f"data directory {directory} is in use by another broker (process {pid or 'unknown'}); "
                "stop that one or choose another directory",
                directory=str(directory),
                pid=pid,
            ) from None
        with suppress(OSError):  # it only tells others who holds the lock; on a full disk there is no room for that
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _unusable(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"data directory {directory}: {error.strerror}; choose one that can be written")
