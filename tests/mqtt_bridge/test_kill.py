"""kill -9 of the broker under load, again and again: every message arrives, in the log and back.

``TRUNKLINE_KILL_ROUNDS=40 pytest tests/mqtt_bridge/test_kill.py`` makes forty rounds of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from tests.mqtt.conftest import WAIT_S, RawClient
from tests.mqtt_bridge.conftest import Address, ConnectTo, Mosquitto

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig
from trunkline_mqtt.packets import Puback, Publish, Suback, Subscribe, Subscription

pytestmark = [pytest.mark.trio, pytest.mark.slow]

ROUNDS = int(os.environ.get("TRUNKLINE_KILL_ROUNDS", "2"))
STEP = 300
"""Messages that Mosquitto has acknowledged between two kills."""


def configuration(address: Address) -> str:
    """From Mosquitto into the log, and by another connection back, since a link sends nothing to where it came from."""
    host, port = address
    return f"""
        [bridge.mqtt.brokers.there]
        url = "mqtt://{host}:{port}"
        first_pause_s = 0.05
        [bridge.mqtt.brokers.again]
        url = "mqtt://{host}:{port}"
        client_id = "again"
        first_pause_s = 0.05
        [bridge.mqtt.links.up]
        broker = "there"
        direction = "in"
        filter = "numbers"
        [bridge.mqtt.links.down]
        broker = "again"
        direction = "out"
        filter = "numbers"
        remote_prefix = "back/"
        """


async def serve(directory: Path) -> trio.Process:
    """``trunkline serve``, ready."""
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--json", "--log-level", "error"]
    command += ["--config", str(directory / "trunkline.toml"), "--data", str(directory / "data")]
    command += ["--listen", "native=127.0.0.1:0"]
    others = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=others)
    assert process.stdout is not None
    with trio.fail_after(WAIT_S):
        json.loads(await process.stdout.receive_some())
    return process


class Watcher:
    """Numbers that have come back."""

    def __init__(self, peer: RawClient) -> None:
        self.peer = peer
        self.seen: set[int] = set()
        self.count = 0

    async def run(self) -> None:
        while True:
            packet = await self.peer.receive()
            if isinstance(packet, Publish):
                self.count += 1
                self.seen.add(int(packet.payload))
                await self.peer.send(Puback(packet.packet_id))


async def test_no_message_is_lost_when_the_broker_is_killed(
    mosquitto: Mosquitto, connect_to: ConnectTo, tmp_path: Path
) -> None:
    (tmp_path / "trunkline.toml").write_text(configuration(mosquitto.address))
    watching = await connect_to(mosquitto.address, "watcher")
    assert isinstance(await watching.ask(Subscribe(1, (Subscription("back/numbers", 1),))), Suback)
    watcher = Watcher(watching)
    device = await connect_to(mosquitto.address, "device")
    process = await serve(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run)
        sent = 0
        for _ in range(ROUNDS):
            while not watcher.seen:
                await device.ask(Publish("numbers", b"%d" % sent, 1, packet_id=1))
                sent += 1
                await trio.sleep(0.01)
            for _ in range(STEP):
                assert await device.ask(Publish("numbers", b"%d" % sent, 1, packet_id=1)) == Puback(1)
                sent += 1
            process.kill()
            await process.wait()
            process = await serve(tmp_path)
        first = min(watcher.seen)
        wanted = set(range(first, sent))
        with trio.move_on_after(WAIT_S):
            while not wanted <= watcher.seen:  # noqa: ASYNC110 - what it waits for comes from another process
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    process.kill()
    await process.wait()
    async with open_broker(tmp_path / "data", config=BrokerConfig(listen={})) as broker:
        stored = [int(record.value or b"") async for record in broker.read("mqtt", follow=False)]
    print(f"{ROUNDS} kills, {len(wanted)} sent; {len(stored)} records, {watcher.count} came back")
    assert wanted - set(stored) == set()
    assert wanted - watcher.seen == set()
