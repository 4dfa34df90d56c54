"""A progress bar for what takes long, on a terminal; nothing otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "progress_of_files"]

_SHOW_AFTER_S: Final = 0.5  # what is soon over needs no bar, and rich costs 80 ms to import


class Progress:
    """Counts bytes; drawn on stderr once it takes long. Used with ``with``.

    Args:
      total: how many bytes there are, or None if that is not known; asked when the bar is first drawn.
      is_wanted: whether to draw it at all, if stderr is a terminal.
    """

    def __init__(self, total: Callable[[], int | None], *, is_wanted: bool = True) -> None:
        self._total = total
        self._is_wanted = is_wanted and sys.stderr.isatty()
        self._started = time.monotonic()
        self._done = 0
        self._label = ""
        self._bar: Bar | None = None

    def advance(self, size: int, label: str = "") -> None:
        """``size`` more bytes are done; ``label`` says of what."""
        self._done += size
        self._label = label
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, description=label)
        elif self._is_wanted and time.monotonic() - self._started > _SHOW_AFTER_S:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        label = TextColumn("{task.description}")
        columns = (label, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task(self._label, total=self._total(), completed=self._done)
        self._bar.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_of_files(sources: Sequence[Path]) -> Progress:
    """The progress of reading files; none is drawn where somebody types on the same terminal."""
    is_typed = any(str(source) == "-" and sys.stdin.isatty() for source in sources)
    return Progress(lambda: _total_size(sources), is_wanted=not is_typed)


def _total_size(sources: Sequence[Path]) -> int | None:
    """Bytes of all sources, or None if one of them is no plain file."""
    sizes = []
    for source in sources:
        if not source.is_file():
            return None
        with contextlib.suppress(OSError):
            sizes.append(source.stat().st_size)
    return sum(sizes)
