"""The same connections behind TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig
from trunkline.conversion import convert
from trunkline.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.net.conftest import Bench

pytestmark = pytest.mark.trio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def address(bench: Bench, server_context: ssl.SSLContext) -> tuple[str, int]:
    return bench.listen_tls(server_context)


async def open_tls(
    bench: Bench, address: tuple[str, int], context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    tcp = await trio.open_tcp_stream(*address)
    bench.clients.append(tcp)
    stream = trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True)
    with trio.fail_after(20):
        await stream.do_handshake()
    return stream


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_handshake_and_much_data_both_ways(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client_context.maximum_version = client_context.minimum_version = version
    client = await open_tls(bench, address, client_context)
    await bench.echo(client, b"hello")
    await bench.echo(client, bytes(range(256)) * 10_000)
    await client.aclose()
    await bench.until(lambda: bench.reactor.connection_count == 0)
    assert bench.door.peers[0].events[-1] == ("closed", None)


async def test_closing_sends_everything_and_says_good_bye(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext
) -> None:
    client = await open_tls(bench, address, client_context)
    await client.send_all(b"close")
    assert await bench.receive_all(client) == bytes(1_000_000)  # an end without close_notify would raise
    await bench.until(lambda: bench.reactor.connection_count == 0)


async def test_what_a_door_writes_before_the_handshake_arrives_after_it(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext
) -> None:
    tcp = await trio.open_tcp_stream(*address)
    bench.clients.append(tcp)
    await bench.until(lambda: bool(bench.door.peers))
    bench.door.peers[0].transport.write(b"welcome")
    client = trio.SSLStream(tcp, client_context, server_hostname="127.0.0.1", https_compatible=True)
    assert await bench.receive(client, 7) == b"welcome"


@pytest.mark.parametrize(
    ("garbage", "meaning"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the peer does not speak TLS"),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c", "the peer does not speak TLS"),
        (bytes(200), "TLS"),
        (b"\x16\x03\x01\xff\xff" + bytes(300), "TLS"),
    ],
)
async def test_garbage_instead_of_a_handshake_ends_that_connection(
    bench: Bench,
    address: tuple[str, int],
    client_context: ssl.SSLContext,
    garbage: bytes,
    meaning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = await open_tls(bench, address, client_context)
    tcp = await trio.open_tcp_stream(*address)
    bench.clients.append(tcp)
    await tcp.send_all(garbage)
    with trio.fail_after(20):
        while await tcp.receive_some(1000):
            pass
    assert meaning in caplog.text
    await bench.echo(other, b"unharmed")


async def test_garbage_in_the_middle_ends_that_connection(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    client = await open_tls(bench, address, client_context)
    await bench.echo(client, b"hello")
    await client.transport_stream.send_all(bytes(1000))
    await bench.until(lambda: bench.reactor.connection_count == 0)
    assert "closed: TLS" in caplog.text


async def test_a_handshake_that_never_comes_has_a_deadline(bench: Bench, address: tuple[str, int]) -> None:
    """Not before a device on a slow mobile network is through with four round trips."""
    tcp = await trio.open_tcp_stream(*address)
    bench.clients.append(tcp)
    await bench.until(lambda: bench.reactor.connection_count == 1)
    (transport,) = bench.reactor.connections
    transport.check_time(bench.reactor.now + 14)
    assert bench.reactor.connection_count == 1
    transport.check_time(bench.reactor.now + 16)
    assert await bench.receive_all(tcp) == b""


async def test_a_client_that_does_not_read_is_congested_and_can_go_on_later(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext
) -> None:
    client = await open_tls(bench, address, client_context)
    await bench.echo(client, b"hello")
    peer = bench.door.peers[0]
    for _ in range(20):  # the kernel takes some megabytes of it
        peer.transport.write(bytes(1_000_000))
    await bench.until(lambda: peer.transport.is_congested)
    assert await bench.receive(client, 20_000_000) == bytes(20_000_000)
    assert peer.events.count("writable") == 1


async def test_what_is_written_in_a_round_is_one_record(
    bench: Bench, address: tuple[str, int], client_context: ssl.SSLContext
) -> None:
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2  # it has no session tickets that come when they like
    client = await open_tls(bench, address, client_context)
    await bench.until(lambda: bool(bench.door.peers))
    for _ in range(1000):
        bench.door.peers[0].transport.write(b"piece")

    head = await bench.receive(client.transport_stream, 5)

    assert head[0] == 23, "application data"
    assert int.from_bytes(head[3:]) > 5000


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("none.pem", "key.pem", r"certificate: '.*/none.pem' cannot be read: No such file or directory"),
        ("chain.pem", "none.pem", r"key: '.*/none.pem' cannot be read: No such file or directory"),
        ("chain.pem", "other.pem", r"key: '.*/other.pem': it is not the key of the certificate '.*/chain.pem'"),
        ("chain.pem", "locked.pem", r"key: '.*/locked.pem': the key has a passphrase; store it without one"),
        ("chain.pem", "", r"certificate: '.*/chain.pem': it is no certificate in PEM with its key \("),
        (
            "text.pem",
            "key.pem",
            r"certificate: '.*/text.pem': it is no certificate in PEM with its key in '.*/key.pem' \(",
        ),
    ],
)
@pytest.mark.parametrize("table", ["tls", "tls.door.native"])
async def test_what_is_wrong_with_a_certificate_is_named(
    authority: trustme.CA, tmp_path: Path, certificate: str, key: str, says: str, table: str
) -> None:
    issued, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    other.private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "text.pem").write_text("no certificate")
    locked = load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    files = {"certificate": str(tmp_path / certificate), "key": str(tmp_path / key) if key else ""}
    raw = {"tls": files} if table == "tls" else {"tls": {"door": {"native": files}}}
    config = convert({"listen": {"native": "127.0.0.1:0"}, **raw}, BrokerConfig)
    with pytest.raises(ConfigurationError, match=f"^{table}.{says}"):
        async with open_broker(tmp_path / "data", store="memory", config=config):
            raise AssertionError("it was taken")
