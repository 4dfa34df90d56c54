"""The MQTT door against Mosquitto: the same random operations, the same for every client to see.

``TRUNKLINE_DIFFERENTIAL=SEED:COUNT pytest tests/mqtt/test_differential.py`` runs so many stories from that seed on; a
difference is shown with all the operations that led to it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mqtt.differential import AGREE_S, Address, Story
from tests.mqtt_bridge.conftest import free_port, mosquitto_program

from trunkline.testing.background import BackgroundBroker

FIRST, _, COUNT = os.environ.get("TRUNKLINE_DIFFERENTIAL", "1:25").partition(":")
STEPS = 60


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Where one listens that forgets nothing that this broker would not."""
    address = ("127.0.0.1", free_port())
    config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    _configure(config, address[1])
    with subprocess.Popen([mosquitto_program(), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + AGREE_S
            while True:
                try:
                    socket.create_connection(address, AGREE_S).close()
                    break
                except OSError:
                    assert process.poll() is None, "Mosquitto ended"
                    assert time.monotonic() < deadline, "Mosquitto does not listen"
                    time.sleep(0.02)  # it says nothing when it begins to listen
            yield address
        finally:
            process.terminate()


def _configure(path: Path, port: int) -> None:
    lines = [
        f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false", "max_queued_messages 0",
        "max_inflight_messages 0", "queue_qos0_messages true", "set_tcp_nodelay true",
        *([] if os.geteuid() else ["user root"]),
    ]  # fmt: skip
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def ours() -> Iterator[Address]:
    with BackgroundBroker(listen={"mqtt": "127.0.0.1:0"}) as broker:
        host, port = broker.addresses["mqtt"]
        yield host, port


@pytest.mark.parametrize("seed", range(int(FIRST), int(FIRST) + int(COUNT or 1)))
def test_clients_see_what_they_would_see_of_mosquitto(mosquitto: Address, ours: Address, seed: int) -> None:
    story = Story(seed, mosquitto, ours)
    try:
        for _ in range(STEPS):
            story.step()
    finally:
        story.end()
