"""Workers for programs without an event loop; see :mod:`trunkline_native.client.blocking`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trunkline_native.client.worker import Worker

if TYPE_CHECKING:
    from trunkline_native.client.blocking import BlockingBus

__all__ = ["BlockingWorker"]


class BlockingWorker:
    """Runs a function over the records of a queue; made by :meth:`BlockingBus.worker`. See :class:`Worker`."""

    def __init__(self, owner: BlockingBus, worker: Worker) -> None:
        self._owner = owner
        self._worker = worker

    @property
    def running(self) -> int:
        """Records that are being handled."""
        return self._worker.running

    @property
    def succeeded(self) -> int:
        """How many records were handled."""
        return self._worker.succeeded

    @property
    def failed(self) -> int:
        """How often that went wrong."""
        return self._worker.failed

    @property
    def rejected(self) -> int:
        """How many records were given up."""
        return self._worker.rejected

    def run(self) -> None:
        """Work until :meth:`stop` is called, by another thread or a signal handler, or Ctrl-C is pressed.

        Ctrl-C stops as ``stop`` does, and is raised then; a second one does not wait.
        """
        future = self._owner._start(self._worker.run)
        try:
            future.result()
        except BaseException:
            if not future.done():
                self.stop()
                try:
                    future.result()
                except BaseException:
                    future.cancel()
                    raise
            raise

    def stop(self) -> None:
        """Take no more; :meth:`run` returns when what runs has ended, or its time is over. From any thread."""

        async def stop() -> None:
            self._worker.stop()

        self._owner._start(stop)
