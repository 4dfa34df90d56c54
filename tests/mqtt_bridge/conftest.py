"""A broker bridged with a real Mosquitto, and with amqtt."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, RawClient, open_client

from trunkline.broker import Broker, open_broker
from trunkline.config import BrokerConfig
from trunkline_mqtt.packets import MQTT_5, Connect, Suback, Subscribe, Subscription

Address = tuple[str, int]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_listening(address: Address, process: trio.Process) -> None:
    """Wait for a server; fail if it ends."""
    with trio.fail_after(WAIT_S):
        while True:
            assert process.poll() is None, "the server ended"
            try:
                stream = await trio.open_tcp_stream(*address)
            except OSError:
                await trio.sleep(0.02)
                continue
            await stream.aclose()
            return


def mosquitto_program() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if found is None:
        reason = "mosquitto is not installed (Debian: apt install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Mosquitto:
    """One that keeps its port and its data; run it with ``async with mosquitto.run():``."""

    def __init__(self, program: str, directory: Path, settings: Iterable[str]) -> None:
        self.address = ("127.0.0.1", free_port())
        self._command = [program, "-c", str(directory / "mosquitto.conf")]
        lines = [
            f"listener {self.address[1]} 127.0.0.1", "allow_anonymous true", "persistence true",
            f"persistence_location {directory}/", "max_queued_messages 0", "max_inflight_messages 100",
            *([] if os.geteuid() else ["user root"]), *settings,
        ]  # fmt: skip
        (directory / "mosquitto.conf").write_text("".join(f"{line}\n" for line in lines))
        self._log = directory / "mosquitto.log"

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Mosquitto]:
        """It ends in order, so it has what it acknowledged when it runs again."""
        with self._log.open("ab") as log:
            process = await trio.lowlevel.open_process(self._command, stdout=log, stderr=subprocess.STDOUT)
        try:
            await until_listening(self.address, process)
            yield self
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


MakeMosquitto = Callable[..., Mosquitto]


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> MakeMosquitto:
    """``make_mosquitto(*lines)``: one with these lines of configuration too; not running yet."""
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    return lambda *lines: Mosquitto(mosquitto_program(), directory, lines)


@pytest.fixture
async def mosquitto(make_mosquitto: MakeMosquitto) -> AsyncIterator[Mosquitto]:
    async with make_mosquitto().run() as running:
        yield running


_AMQTT = """
import asyncio, sys
from amqtt.broker import Broker

async def main():
    broker = Broker({
        "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    })
    await broker.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def amqtt(tmp_path: Path) -> AsyncIterator[Address]:
    """amqtt's broker, which speaks MQTT 3.1.1."""
    pytest.importorskip("amqtt") if not os.environ.get("CI") else __import__("amqtt")
    address = ("127.0.0.1", free_port())
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _AMQTT, str(address[1])], stderr=subprocess.DEVNULL
    )
    try:
        await until_listening(address, process)
        yield address
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


OpenBridged = Callable[..., AbstractAsyncContextManager[Broker]]


def bridge_table(address: Address, links: Mapping[str, object], **upstream: object) -> dict[str, object]:
    """The table ``[bridge.mqtt]`` with one broker, ``there``."""
    pauses = {"first_pause_s": 0.05, "last_pause_s": 0.3}
    table = {"url": f"mqtt://{address[0]}:{address[1]}", **pauses, **upstream}
    return {"brokers": {"there": table}, "links": links}


@pytest.fixture
def bridged(tmp_path: Path) -> OpenBridged:
    """``bridged(address, {link: {...}}, **broker)``: a broker of ours, on the same data each time."""

    @asynccontextmanager
    async def open_one(address: Address, links: Mapping[str, object], **upstream: object) -> AsyncIterator[Broker]:
        config = BrokerConfig(listen={"mqtt": "127.0.0.1:0"}, bridge={"mqtt": bridge_table(address, links, **upstream)})
        async with open_broker(tmp_path / "data", config=config) as broker:
            yield broker

    return open_one


ConnectTo = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect_to() -> AsyncIterator[ConnectTo]:
    """``await connect_to(address, name)``: a client of MQTT 5.0 with a clean session."""
    streams = []

    async def connect(address: Address, name: str, level: int = MQTT_5) -> RawClient:
        peer = await open_client(address, Connect(name, protocol_level=level))
        streams.append(peer.stream)
        return peer

    yield connect
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def subscribe(peer: RawClient, *filters: str, qos: int = 1) -> None:
    assert isinstance(await peer.ask(Subscribe(1, tuple(Subscription(text, qos) for text in filters))), Suback)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in the other broker, or between tasks, and tells nobody."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in another process
            await trio.sleep(0.01)


async def until_running(broker: Broker, links: int = 1) -> None:
    """All links are connected and subscribed."""

    def are_running() -> bool:
        found = [link for bridge in broker.bridges.statuses() for link in bridge.links]
        return len(found) == links and all(link.state == "running" for link in found)

    await until(are_running)
