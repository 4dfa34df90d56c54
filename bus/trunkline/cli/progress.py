"""A progress bar for long input, on a terminal; nothing otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress"]

_SHOW_AFTER_S: Final = 0.5  # short input needs no bar, and rich costs 80 ms to import


class Progress:
    """Counts the bytes read; drawn on stderr once it takes long. Used with ``with``."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sources = sources
        self._is_wanted = sys.stderr.isatty() and not any(
            str(source) == "-" and sys.stdin.isatty() for source in sources
        )
        self._started = time.monotonic()
        self._done = 0
        self._bar: Bar | None = None

    def advance(self, size: int) -> None:
        """``size`` more bytes were read."""
        self._done += size
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif self._is_wanted and time.monotonic() - self._started > _SHOW_AFTER_S:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task("publish", total=_total_size(self._sources), completed=self._done)
        self._bar.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _total_size(sources: Sequence[Path]) -> int | None:
    """Bytes of all sources, or None if one of them is no plain file."""
    sizes = []
    for source in sources:
        if not source.is_file():
            return None
        with contextlib.suppress(OSError):
            sizes.append(source.stat().st_size)
    return sum(sizes)
