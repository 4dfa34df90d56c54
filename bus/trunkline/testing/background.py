"""A broker in a thread of its own, for tests and scripts that are not written for trio.

Whatever the caller runs on, asyncio, trio, or nothing, the broker has its own trio loop in its own thread, as it
would have its own process in production. Calls cross over through :meth:`BackgroundBroker.run`, which blocks
the caller: for the milliseconds that a call to a broker in memory takes, also inside an event loop.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import trio

from trunkline.addresses import format_address
from trunkline.broker import Broker, PublishedRecord, open_broker
from trunkline.config import BrokerConfig
from trunkline.errors import BrokerClosing
from trunkline.plugins import PluginHost, installed_plugins
from trunkline.reading import Start
from trunkline.records import ConsumerRecord, Header

__all__ = ["BackgroundBroker"]

_T = TypeVar("_T")

_DOORS = ("native", "mqtt", "kafka", "amqp")

CALL_TIMEOUT_S: Final = 10.0
"""How long a call may take unless it says otherwise: what hangs should fail, in a test above all."""


class BackgroundBroker:
    """A running broker; made open, closed with :meth:`close` or as a context manager.

    Attributes:
      broker: for use inside :meth:`run` only; it belongs to the broker's thread.
      addresses: where each door listens, as (host, port).

    Raises, when made, what :func:`trunkline.broker.open_broker` raises.
    """

    broker: Broker
    addresses: Mapping[str, tuple[str, int]]

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        store: str = "memory",
        listen: Mapping[str, str] | None = None,
        config: BrokerConfig | None = None,
        plugins: PluginHost | None = None,
    ) -> None:
        """Open a broker and return when its doors are open.

        Args:
          data: the data directory; None: a temporary one, removed in the end.
          store: for topics that name none.
          listen: addresses by door; None: the built-in doors, those that are installed, on free ports.
          config: everything else; what the other arguments say comes first.
          plugins: a host with plugins added that are not installed; None: installed ones.
        """
        if listen is None:
            installed = {plugin.name for plugin in installed_plugins()}
            listen = {door: "127.0.0.1:0" for door in _DOORS if door in installed}
        # Doors and store are loaded by name; importing the other built-in plugins would take most of the time.
        self._config = BrokerConfig(plugins=[]) if config is None else config
        self._data = data
        self._store = store
        self._listen = listen
        self._plugins = plugins
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run_thread, name="trunkline broker")
        self._thread.start()
        self._opened.result()

    # -- the broker's thread -----------------------------------------------------------------------

    def _run_thread(self) -> None:
        try:
            with ExitStack() as stack:
                if self._data is None:
                    self._data = stack.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-"))
                trio.run(self._main)
            self._failure: BaseException | None = None
        except BaseException as error:
            self._failure = error
            if not self._opened.done():
                self._opened.set_exception(error)

    async def _main(self) -> None:
        async with open_broker(
            self._data, store=self._store, listen=self._listen, config=self._config, plugins=self._plugins
        ) as broker:
            self.broker = broker
            self.addresses = MappingProxyType(broker.addresses)
            self._token = trio.lowlevel.current_trio_token()
            self._closing = trio.Event()
            async with trio.open_nursery() as self._nursery:
                self._opened.set_result(None)
                await self._closing.wait()
                self._nursery.cancel_scope.cancel()

    async def _call(
        self, answer: Future[_T], async_fn: Callable[..., Awaitable[_T]], args: tuple[object, ...], timeout_s: float
    ) -> None:
        try:
            with trio.fail_after(timeout_s):
                answer.set_result(await async_fn(*args))
        except trio.TooSlowError:
            answer.set_exception(TimeoutError(f"{async_fn!r} took longer than {timeout_s:g} s"))
        except Exception as error:
            answer.set_exception(error)
        except BaseException:
            answer.set_exception(BrokerClosing("the broker was closed during the call"))
            raise

    # -- any other thread --------------------------------------------------------------------------

    def run(self, async_fn: Callable[..., Awaitable[_T]], *args: object, timeout_s: float = CALL_TIMEOUT_S) -> _T:
        """Call an async function in the broker's thread and wait for what it returns or raises.

        Raises:
          TimeoutError: it took longer than ``timeout_s`` seconds and was cancelled.
          BrokerClosing: the broker is closed.
        """
        answer: Future[_T] = Future()

        def start() -> None:
            self._nursery.start_soon(self._call, answer, async_fn, args, timeout_s)

        try:
            self._token.run_sync_soon(start)
        except trio.RunFinishedError:
            raise BrokerClosing("the broker is closed") from None
        return answer.result(timeout_s + 1)

    @property
    def url(self) -> str:
        """For the native client: ``trunkline://127.0.0.1:PORT``."""
        return f"trunkline://{format_address(*self.addresses['native'])}"

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """See :meth:`trunkline.broker.Broker.create_topic`."""
        self.run(partial(self.broker.create_topic, name, partitions=partitions, settings=settings))

    def publish(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Iterable[Header] = (),
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> PublishedRecord:
        """See :meth:`trunkline.broker.Broker.publish`; makes the topic if it is missing."""
        options = {"key": key, "headers": headers, "partition": partition, "timestamp": timestamp}
        return self.run(partial(self.broker.publish, topic, value, **options))  # type: ignore[arg-type]  # the same ones

    def read(
        self,
        topic: str,
        count: int | None = None,
        *,
        start: Start = "earliest",
        partitions: Iterable[int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[ConsumerRecord]:
        """Records of a topic, in offset order within each partition.

        Args:
          count: wait until there are so many and return them; None: return what is there now.

        Raises UnknownTopic, OffsetOutOfRange, TimeoutError.
        """

        async def collect() -> list[ConsumerRecord]:
            found: list[ConsumerRecord] = []
            reader = self.broker.read(topic, start=start, partitions=partitions, follow=count is not None)
            while count is None or len(found) < count:
                try:
                    found.append(await anext(reader))
                except StopAsyncIteration:
                    break
            return found

        return self.run(collect, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the broker in order, and its thread; again does nothing. Raises what the broker died of."""
        if self._thread.is_alive():
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(lambda: self._closing.set())
        self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> BackgroundBroker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
