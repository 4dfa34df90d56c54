"""Runs a function over a queue: several at a time, with retries, until it is told to stop.

The worker takes no more records than it has room for, so that others can have them. A record whose function returns is
acknowledged; one whose function raises is released for a while, and rejected once its retries are used up
(:mod:`trunkline_native.client.retries`).

Stopping is the same whether ``stop`` is called, the task is cancelled, or Ctrl-C is pressed: no more is taken, what
runs may end within ``shutdown_timeout_s``, the rest is cancelled and released. For that the worker's own task must
outlive a cancellation: ``run`` only waits for it, and tells it to stop.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Final, NamedTuple

import anyio
import anyio.abc
import anyio.to_thread

from trunkline.errors import TrunklineError
from trunkline_native.client.queue import Queue
from trunkline_native.client.queue_reader import QueueReader
from trunkline_native.client.queue_record import QueueRecord
from trunkline_native.client.retries import Backoff, retry_delay_s

__all__ = ["FailureHandler", "Handler", "Worker", "WorkerOptions"]

logger = logging.getLogger("trunkline_native.client")

Handler = Callable[[QueueRecord], object]
"""An async function, or a plain one, which is run in a thread."""

FailureHandler = Callable[[QueueRecord, Exception, "float | None"], object]
"""Told of each failure, in the event loop: the record, the error, and in how many seconds it is tried again (None:
never). It may be async."""

_EXTENSIONS: Final = 3  # of a lock, while it lasts
_NO_LOCK_S: Final = 10.0  # until it is looked again whether there is one: it may be set while the worker runs
_LAST_FLUSH_S: Final = 5.0


class WorkerOptions(NamedTuple):
    """See ``Bus.worker``."""

    concurrency: int
    retries: int
    backoff: Backoff
    timeout_s: float | None
    shutdown_timeout_s: float
    on_failure: FailureHandler | None


class Worker:
    """Runs a function over the records of a queue; made by ``Bus.worker``. ``await`` it, or call :meth:`run`.

    Attributes:
      running: records that are being handled.
      succeeded, failed, rejected: how often that has happened; what is rejected has failed too.
    """

    def __init__(self, queue: Queue, handle: Handler, options: WorkerOptions) -> None:
        for name in ("concurrency", "shutdown_timeout_s", "retries"):
            if getattr(options, name) < (1 if name == "concurrency" else 0):
                raise ValueError(f"{name}={getattr(options, name)} is not allowed")
        self.running = 0
        self.succeeded = 0
        self.failed = 0
        self.rejected = 0
        self._queue = queue
        self._options = options
        self._call = _as_async(handle, options.concurrency)
        self._is_stopping = False
        self._taking = anyio.CancelScope()
        self._changed = anyio.Event()
        self._held: dict[QueueRecord, None] = {}

    def __await__(self) -> Generator[Any, None, None]:
        return self.run().__await__()

    async def run(self) -> None:
        """Work until :meth:`stop` is called. To be called once.

        Raises as consuming does: UnknownQueue, QueueInUse, QueueExists, ClientClosed.

        Cancellation: it stops as described in the module; returns no later than ``shutdown_timeout_s`` after that.
        """
        failure: list[BaseException] = []
        finished = anyio.Event()

        async def work() -> None:
            try:
                with anyio.CancelScope(shield=True):
                    await self._work()
            except Exception as error:
                failure.append(error)  # raised below as it is, not in a group
            finally:
                finished.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            try:
                await finished.wait()
            finally:
                self.stop()
                with anyio.CancelScope(shield=True):
                    await finished.wait()
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Take no more; :meth:`run` returns when what runs has ended, or its time is over."""
        self._is_stopping = True
        self._taking.cancel()

    # -- the worker's own task ---------------------------------------------------------------------

    async def _work(self) -> None:
        with self._taking as opening:
            reader = await self._queue.__aenter__()
        if opening.cancelled_caught:
            return
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_locks, reader)
                try:
                    await self._take_all(reader, tasks)
                except Exception as failure:
                    error = failure  # raised below as it is, not in a group
                with anyio.move_on_after(self._options.shutdown_timeout_s):
                    await self._wait_below(1)
                tasks.cancel_scope.cancel()
            with anyio.move_on_after(_LAST_FLUSH_S):
                await self._flush(reader)
        finally:
            reader.close()
            await self._queue.__aexit__(None, None, None)
        if error is not None:
            raise error

    async def _take_all(self, reader: QueueReader, tasks: anyio.abc.TaskGroup) -> None:
        while not self._is_stopping:
            record = None
            with anyio.CancelScope() as self._taking:
                await self._wait_below(self._options.concurrency)
                record = await anext(reader)
            if record is not None:
                self.running += 1
                self._held[record] = None
                tasks.start_soon(self._handle, record)

    async def _wait_below(self, running: int) -> None:
        while self.running >= running:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _flush(self, reader: QueueReader) -> None:
        try:
            await reader.flush()
        except TrunklineError as error:
            logger.info("%s", error)

    async def _keep_locks(self, reader: QueueReader) -> None:
        """Keep records for as long as their handling takes, where the queue would take them back."""
        while True:
            await anyio.sleep(reader.lock_timeout_s / _EXTENSIONS or _NO_LOCK_S)
            if reader.lock_timeout_s:
                reader.extend(list(self._held), reader.lock_timeout_s)

    # -- one record --------------------------------------------------------------------------------

    async def _handle(self, record: QueueRecord) -> None:
        try:
            with anyio.fail_after(self._options.timeout_s):
                await self._call(record)
        except Exception as error:
            await self._failed(record, error)
        else:
            self.succeeded += 1
            record.ack()  # nothing happens if the function has said something else
        finally:
            record.release()  # likewise; cancelled: it was not done
            del self._held[record]
            self.running -= 1
            self._changed.set()

    async def _failed(self, record: QueueRecord, error: Exception) -> None:
        self.failed += 1
        delay_s = retry_delay_s(record.deliveries, self._options.retries, self._options.backoff)
        if delay_s is None:
            self.rejected += 1
            logger.error("%r failed for good and goes to the dead letters", record, exc_info=error)
        else:
            logger.warning("%r failed and is tried again in %.3g s: %s", record, delay_s, _named(error))
        if self._options.on_failure is not None:
            try:
                told = self._options.on_failure(record, error, delay_s)
                if inspect.isawaitable(told):
                    await told
            except Exception:
                logger.exception("on_failure has failed itself, about %r", record)
        if delay_s is None:
            record.reject(_named(error))
        else:
            record.release(delay=delay_s)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _as_async(function: Callable[..., object], concurrency: int) -> Callable[..., Awaitable[object]]:
    """An async function that calls ``function``, in a thread if it is a plain one."""
    called = function
    while isinstance(called, partial):
        called = called.func
    if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(getattr(called, "__call__", None)):  # noqa: B004
        return function  # type: ignore[return-value]  # it returns what can be awaited
    limiter: anyio.CapacityLimiter | None = None

    async def in_thread(*args: object) -> object:
        nonlocal limiter
        if limiter is None:
            limiter = anyio.CapacityLimiter(concurrency)
        result = await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=limiter)
        return await result if inspect.isawaitable(result) else result

    return in_thread
