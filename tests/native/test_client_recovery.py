"""The client across broken connections, restarts and crashes: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest

from trunkline.errors import ConnectionFailed, DeliveryTimeout
from trunkline_native.client import Bus, ConsumerRecord, connect
from trunkline_native.client.session import Session

if TYPE_CHECKING:
    from tests.native.conftest import RestartableBroker

pytestmark = pytest.mark.anyio

WAIT_S = 60.0

connect_quickly = partial(connect, delivery_timeout_s=50.0)


async def values(bus: Bus, topic: str = "orders") -> list[bytes | None]:
    return [record.value async for record in bus.read(topic)]


def numbers(count: int) -> list[bytes | None]:
    return [str(number).encode() for number in range(count)]


class Proxy:
    """Stands between client and broker; loses answers or connections when told to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_losing_answers = False
        self.lost_bytes = 0
        self.lost_some = anyio.Event()
        self.connected_again = anyio.Event()  # a second connection was made
        self._connections = 0
        self._streams: set[anyio.abc.SocketStream] = set()

    @property
    def url(self) -> str:
        return f"trunkline://127.0.0.1:{self.port}"

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        self._connections += 1
        if self._connections > 1:
            self.connected_again.set()
        async with client, await anyio.connect_tcp("127.0.0.1", self.target) as server:
            self._streams |= {client, server}
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._copy, client, server, False, tasks)
                tasks.start_soon(self._copy, server, client, True, tasks)
            self._streams -= {client, server}

    async def _copy(
        self,
        source: anyio.abc.SocketStream,
        sink: anyio.abc.SocketStream,
        is_answer: bool,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        try:
            async for data in source:
                if is_answer and self.is_losing_answers:
                    self.lost_bytes += len(data)
                    self.lost_some.set()
                else:
                    await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        tasks.cancel_scope.cancel()

    async def cut(self) -> None:
        """Break every connection."""
        for stream in tuple(self._streams):
            await anyio.aclose_forcefully(stream)


@asynccontextmanager
async def open_proxy(target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, proxy.serve)
        yield proxy
        tasks.cancel_scope.cancel()


async def test_batches_whose_answers_were_lost_are_not_written_twice(broker: RestartableBroker) -> None:
    async with open_proxy(broker.port) as proxy, connect_quickly(proxy.url, batch_bytes=500) as bus:
        await bus.publish("orders", "0")
        proxy.is_losing_answers = True
        deliveries = [await bus.send("orders", str(number)) for number in range(1, 500)]
        with anyio.fail_after(WAIT_S):
            await proxy.lost_some.wait()
        await proxy.cut()
        proxy.is_losing_answers = False
        with anyio.fail_after(WAIT_S):
            await bus.flush()
        assert proxy.lost_bytes > 0
        assert await values(bus) == numbers(500)
        assert [(await delivery).offset for delivery in deliveries] == list(range(1, 500))


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x09\x01", b"\x00\x00"], ids=["another protocol", "cut short"])
async def test_a_server_that_speaks_something_else_is_named(greeting: bytes) -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(greeting)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ConnectionFailed, match="is this its native port"):
            async with connect(f"trunkline://127.0.0.1:{port}"):
                raise AssertionError("it connected")
        tasks.cancel_scope.cancel()


async def test_a_stream_goes_on_where_it_was_when_the_connection_breaks(broker: RestartableBroker) -> None:
    async with open_proxy(broker.port) as proxy, connect(broker.url) as writer, connect(proxy.url) as reader:
        found: list[ConsumerRecord] = []
        async with reader.tail("orders", start="earliest") as records:
            for number in range(300):
                await writer.publish("orders", str(number))
                if number % 50 == 25:
                    await proxy.cut()
            with anyio.fail_after(WAIT_S):
                async for record in records:
                    found.append(record)
                    if len(found) == 300:
                        break
        assert [record.offset for record in found] == list(range(300))


class EndsWithItsReader(anyio.abc.ByteStream):
    """A connection that the server closes at the moment when its client is cancelled."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise anyio.EndOfStream from None
        raise AssertionError

    async def send(self, item: bytes) -> None: ...
    async def send_eof(self) -> None: ...
    async def aclose(self) -> None: ...


async def test_a_connection_that_breaks_while_its_client_ends_is_no_error() -> None:
    session = Session(EndsWithItsReader(), 10.0)

    async def run() -> None:
        with suppress(ConnectionFailed):  # as the link does; alone, not in a group with the cancellation
            await session.run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_a_restart_in_the_middle_loses_and_repeats_nothing(
    run_broker: Callable[..., RestartableBroker],
) -> None:
    broker = run_broker(store="segments")
    async with connect_quickly(broker.url, batch_bytes=2000) as bus:
        await bus.create_topic("orders")
        received: list[ConsumerRecord] = []

        async def follow() -> None:
            async for record in records:
                received.append(record)
                if len(received) == 3000:
                    return

        async def produce() -> None:
            for number in range(3000):
                await bus.send("orders", str(number))
                if number % 10 == 0:
                    await anyio.lowlevel.checkpoint()
                if number == 1000:
                    restart.set()
            await bus.flush()

        restart = anyio.Event()
        async with bus.tail("orders", start="earliest") as records:
            with anyio.fail_after(WAIT_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(follow)
                    tasks.start_soon(produce)
                    await restart.wait()
                    await broker.stop()
                    await broker.start()
        assert [record.value for record in received] == numbers(3000)
        assert await values(bus) == numbers(3000)


BROKER_PROGRAM = """
import sys, trio
from trunkline.broker import open_broker
async def main():
    async with open_broker(sys.argv[1], listen={"native": "127.0.0.1:" + sys.argv[2]}) as broker:
        print(broker.addresses["native"][1], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


class BrokerProcess:
    """A broker that can be killed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = 0

    async def start(self) -> None:
        arguments = [sys.executable, "-c", BROKER_PROGRAM, str(self.data), str(self.port)]
        self._process = await anyio.to_thread.run_sync(partial(subprocess.Popen, arguments, stdout=subprocess.PIPE))
        assert self._process.stdout is not None
        with anyio.fail_after(WAIT_S):
            self.port = int(await anyio.to_thread.run_sync(self._process.stdout.readline))

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


async def test_a_killed_broker_loses_and_repeats_nothing(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path)
    await broker.start()
    try:
        async with connect_quickly(f"trunkline://127.0.0.1:{broker.port}", batch_bytes=1000) as bus:
            first = await bus.publish("orders", "0")
            assert first.offset == 0
            for number in range(1, 2000):
                await bus.send("orders", str(number))
            await bus.send("orders", "2000")
            broker.kill()
            await broker.start()
            with anyio.fail_after(WAIT_S):
                await bus.flush()
                assert await values(bus) == numbers(2001)
    finally:
        broker.kill()


async def test_a_record_is_given_up_when_the_broker_stays_away(broker: RestartableBroker) -> None:
    async with connect(broker.url, delivery_timeout_s=0.2) as bus:
        await bus.publish("orders", "x")
        await broker.stop()
        with anyio.fail_after(WAIT_S), pytest.raises(DeliveryTimeout, match="see whether the broker is up") as caught:
            await bus.publish("orders", "y")
        assert not caught.value.retriable
    await broker.start()
    async with connect(broker.url) as bus:
        assert (await bus.publish("orders", "z")).partition == 0


async def test_questions_wait_for_the_broker_to_come_back(broker: RestartableBroker) -> None:
    async with connect(broker.url) as bus:
        await bus.create_topic("orders")
        await broker.stop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.list_topics)
            await anyio.wait_all_tasks_blocked()
            await broker.start()


async def test_a_broker_that_stays_away_fails_questions_in_time(broker: RestartableBroker) -> None:
    async with connect(broker.url, request_timeout_s=0.2) as bus:
        await broker.stop()
        with anyio.fail_after(WAIT_S), pytest.raises(ConnectionFailed):
            await bus.list_topics()


async def test_a_server_that_stops_answering_is_left(broker: RestartableBroker) -> None:
    async with open_proxy(broker.port) as proxy, connect(proxy.url, request_timeout_s=0.3) as bus:
        await bus.publish("orders", "0")
        proxy.is_losing_answers = True
        delivery = await bus.send("orders", "1")
        with anyio.fail_after(WAIT_S):
            await proxy.lost_some.wait()
            await proxy.connected_again.wait()
            proxy.is_losing_answers = False
            assert (await delivery).offset == 1
        assert await values(bus) == numbers(2)
