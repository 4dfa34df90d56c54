"""Closing takes as long as there is something to wait for, and leaves the state of views written."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from trunkline import hookimpl
from trunkline.broker import open_broker
from trunkline.door import Connection, Door, DoorContext, Transport
from trunkline.groups import GroupCoordinator
from trunkline.hookspecs import RegisterDoor
from trunkline.net import transport as net_transport
from trunkline.plugins import PluginHost

pytestmark = pytest.mark.trio

WAIT_S = 20.0


class Flood(Connection):
    """Writes more than any socket holds, to whoever says something."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def receive_data(self, data: bytes) -> None:
        self._transport.established()
        self._transport.write(bytes(50_000_000))

    def closed(self, error: Exception | None) -> None:
        """Nothing to release."""


class FloodDoor(Door):
    def __init__(self, context: DoorContext) -> None:
        pass

    def connect(self, transport: Transport) -> Connection:
        return Flood(transport)


class FloodPlugin:
    @hookimpl
    def register_doors(self, register: RegisterDoor) -> None:
        register("flood", FloodDoor, default_port=9)


async def test_a_peer_that_takes_nothing_holds_up_neither_the_end_nor_what_is_written_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(net_transport, "CLOSE_TIMEOUT_S", 0.1)
    closed = []
    close = GroupCoordinator.close

    async def noted(self: GroupCoordinator) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(GroupCoordinator, "close", noted)
    host = PluginHost()
    host.add("flood", FloodPlugin())
    with socket.socket() as client, trio.fail_after(WAIT_S):  # less than limits.shutdown_timeout_s
        async with open_broker(tmp_path, listen={"flood": "127.0.0.1:0"}, plugins=host) as broker:
            client.connect(broker.addresses["flood"])
            client.sendall(b"hello")
            while not any(transport.is_congested for transport in broker._reactor.connections):
                await trio.lowlevel.checkpoint()
    assert len(closed) == 1
    assert "closing was not done" not in caplog.text
