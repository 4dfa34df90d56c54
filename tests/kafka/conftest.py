"""A broker with the Kafka door, and clients of two kinds: one that says what the test says, and real ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from trunkline.broker import Broker, open_broker
from trunkline.records import Compression, encode
from trunkline.testing import MemoryTransport
from trunkline_kafka.apis import APIS
from trunkline_kafka.codec import FrameDecoder, RequestHeader, encode_request, read_response
from trunkline_kafka.fields import Reader
from trunkline_kafka.messages import fetch, produce

WAIT_S = 20.0  # for what should take milliseconds, on a machine that is busy with something else

KEYS = {api.name: api.key for api in APIS.values()}


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """A broker in memory; ``broker.addresses["kafka"]`` is where it listens."""
    async with open_broker(store="memory", listen={"kafka": "127.0.0.1:0"}) as opened:
        yield opened


class Make:
    """Requests and batches, as tests need them."""

    @staticmethod
    def batch(*values: bytes, size: int = 0, compression: Compression = Compression.NONE) -> bytes:
        """A batch of records with timestamps from 1,000 on, padded."""
        records = [(1000 + index, None, value.ljust(size, b"."), ()) for index, value in enumerate(values)]
        return encode(records, compression=compression)

    @staticmethod
    def produce(topic: str, batch: bytes | None, *, partition: int = 0, acks: int = -1) -> Any:
        data = produce.TopicProduceData(topic, [produce.PartitionProduceData(partition, batch)])
        return produce.ProduceRequest(None, acks, 30_000, [data])

    @staticmethod
    def fetch(
        topic: str,
        offset: int,
        *,
        partition: int = 0,
        max_wait_ms: int = 0,
        min_bytes: int = 1,
        max_bytes: int = 2**20,
        partition_max_bytes: int = 2**20,
        epoch: int = -1,
        topic_id: bytes = bytes(16),
    ) -> Any:
        asked = fetch.FetchPartition(partition, epoch, offset, partition_max_bytes=partition_max_bytes)
        topics = [fetch.FetchTopic(topic, topic_id, [asked])]
        return fetch.FetchRequest(max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=max_bytes, topics=topics)


@pytest.fixture
def make() -> Make:
    return Make()


class Headers:
    """Makes request headers, and remembers them in order."""

    def __init__(self) -> None:
        self.waiting: list[RequestHeader] = []
        self._next = 100

    def encode(self, name: str, message: Any, version: int | None = None) -> bytes:
        key = KEYS[name]
        header = RequestHeader(key, APIS[key].last if version is None else version, self._next, "test")
        self._next += 1
        self.waiting.append(header)
        return encode_request(header, message)


class RawClient:
    """A client that says exactly what the test says, over a real socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.headers = Headers()
        self._frames = FrameDecoder(2**30)

    async def send(self, name: str, message: Any, version: int | None = None) -> None:
        await self.send_bytes(self.headers.encode(name, message, version))

    async def send_bytes(self, data: bytes) -> None:
        with trio.fail_after(WAIT_S):
            await self.stream.send_all(data)

    async def receive_frame(self) -> bytes:
        """The next frame, without its length; EndOfChannel if the broker has closed the connection."""
        with trio.fail_after(WAIT_S):
            while (found := self._frames.next_frame()) is None:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    raise trio.EndOfChannel
                self._frames.receive_data(bytes(data))
            buffer, start, stop = found
            return bytes(buffer[start:stop])

    async def receive(self) -> Any:
        """The answer to the first request that has none."""
        frame = await self.receive_frame()
        return read_response(self.headers.waiting.pop(0), Reader(frame))

    async def ask(self, name: str, message: Any, version: int | None = None) -> Any:
        await self.send(name, message, version)
        return await self.receive()

    async def produce(self, topic: str, batch: bytes, *, partition: int = 0, acks: int = -1) -> Any:
        """The answer for the one partition."""
        response = await self.ask("Produce", Make.produce(topic, batch, partition=partition, acks=acks))
        return response.responses[0].partition_responses[0]

    async def fetch(self, topic: str, offset: int, **options: Any) -> Any:
        """The answer for the one partition, in a version that has topic names."""
        response = await self.ask("Fetch", Make.fetch(topic, offset, **options), 12)
        return response.responses[0].partitions[0]


Connect = Callable[[], Awaitable[RawClient]]
ConnectTo = Callable[[Broker], Awaitable[RawClient]]


@pytest.fixture
async def connect_to() -> AsyncIterator[ConnectTo]:
    """``await connect_to(broker)``: a client of that broker."""
    streams: list[trio.SocketStream] = []

    async def connect_to(broker: Broker) -> RawClient:
        stream = await trio.open_tcp_stream(*broker.addresses["kafka"])
        streams.append(stream)
        return RawClient(stream)

    yield connect_to
    for stream in streams:
        await trio.aclose_forcefully(stream)


@pytest.fixture
async def connect(broker: Broker, connect_to: ConnectTo) -> Connect:
    return lambda: connect_to(broker)


@pytest.fixture
async def client(connect: Connect) -> RawClient:
    return await connect()


class RememberingTransport(MemoryTransport):
    """Reads what was written."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = FrameDecoder(2**30)

    def take(self, headers: Headers) -> list[Any]:
        """The answers written since the last call."""
        self._frames.receive_data(self.take_written())
        found = []
        while (place := self._frames.next_frame()) is not None:
            buffer, start, stop = place
            found.append(read_response(headers.waiting.pop(0), Reader(bytes(buffer), start, stop)))
        return found


@pytest.fixture
def transport() -> RememberingTransport:
    return RememberingTransport()


@pytest.fixture
def headers() -> Headers:
    return Headers()


@pytest.fixture
def kcat() -> str:
    """The path of kcat. Without it: a skip, and an error where ``CI`` is set."""
    found = shutil.which("kcat")
    if found is None:
        reason = "kcat is not installed (Debian: apt install kcat)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
