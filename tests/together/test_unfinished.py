"""What peers begin to send and do not finish costs so much memory in all, and no more, whichever door they came by."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.amqp.raw import RawClient, publish_frames

import trunkline
from trunkline.config import BrokerConfig, Limits
from trunkline.testing.background import BackgroundBroker
from trunkline_amqp.methods import TxSelect, TxSelectOk
from trunkline_native.codec import encode
from trunkline_native.frames import Hello

WAIT_S = 30.0
LIMIT_BYTES = 1024 * 1024
SMALL, LARGE = 300_000, 800_000  # together more than that

Address = tuple[str, int]


@pytest.fixture(scope="module")
def broker() -> Iterator[BackgroundBroker]:
    config = BrokerConfig(plugins=[], limits=Limits(max_unfinished_bytes=LIMIT_BYTES))
    with BackgroundBroker(config=config) as broker:
        yield broker


def connected(address: Address, greeting: bytes) -> socket.socket:
    sock = socket.create_connection(address, timeout=WAIT_S)
    sock.sendall(greeting)
    assert sock.recv(4096)
    return sock


def mqtt(address: Address, size: int) -> socket.socket:
    sock = connected(address, b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02" + b"c%d" % (size > SMALL))
    sock.sendall(b"\x32\xa0\xf7\x36" + bytes(size))  # PUBLISH of 900,000 bytes
    return sock


def kafka(address: Address, size: int) -> socket.socket:
    sock = connected(address, struct.pack(">ihhih", 10, 18, 0, 1, -1))  # ApiVersions
    sock.sendall(struct.pack(">ihhih", 10_000_000, 0, 9, 2, -1) + bytes(size))
    return sock


def native(address: Address, size: int) -> socket.socket:
    sock = connected(address, encode(Hello(0, [1], "test")))
    sock.sendall(struct.pack(">IH", 10_000_000, 100) + bytes(size))
    return sock


def amqp(address: Address, size: int) -> socket.socket:
    client = RawClient(address).hello()
    client.send(publish_frames("nowhere", bytes(size))[:-1])
    return client.sock


def amqp_transaction(address: Address, size: int) -> socket.socket:
    client = RawClient(address).hello()
    client.method(1, TxSelect())
    client.expect(TxSelectOk)
    client.send(publish_frames("nowhere", bytes(size)))
    return client.sock


@pytest.mark.parametrize("begin", [mqtt, kafka, native, amqp, amqp_transaction])
def test_who_has_most_of_it_goes_and_the_others_stay(
    broker: BackgroundBroker, begin: Callable[[Address, int], socket.socket]
) -> None:
    address = broker.addresses[begin.__name__.removesuffix("_transaction")]
    with ExitStack() as stack:
        small = stack.enter_context(begin(address, SMALL))
        large = stack.enter_context(begin(address, LARGE))
        assert ended(large)
        small.setblocking(False)
        with pytest.raises(BlockingIOError):
            small.recv(1)
    with trunkline.connect_blocking(broker.url) as bus:
        bus.publish("others", b"are not disturbed")


def ended(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True
