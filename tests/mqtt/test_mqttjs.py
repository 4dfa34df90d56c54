"""mqtt.js, unmodified, from npm: every version over TCP, TLS, WebSocket and WebSocket over TLS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trustme
from tests.npm import installed, program

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig, TlsConfig, TlsFiles

pytestmark = pytest.mark.trio

WAIT_S = 120.0  # for a dozen cases that take a second or two in all

PROGRAM = Path(__file__).with_name("mqttjs_client.mjs")


@pytest.fixture(scope="session")
def mqttjs(pytestconfig: pytest.Config) -> Path:
    """A directory with mqtt.js in its node_modules."""
    return installed(pytestconfig, "mqttjs", "mqtt@5")


async def test_mqttjs_of_every_version_over_every_transport(mqttjs: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "b.pem"))
    certificate = TlsFiles(certificate=str(tmp_path / "b.pem"))
    trusted = authority.cert_pem.bytes().decode()
    config = BrokerConfig(tls=TlsConfig(door={"mqtt-tls": certificate, "mqtt-ws-tls": certificate}))
    schemes = {"mqtt": "mqtt", "mqtt-ws": "ws", "mqtt-tls": "mqtts", "mqtt-ws-tls": "wss"}
    listen = dict.fromkeys(schemes, "127.0.0.1:0")
    async with open_broker(tmp_path, store="memory", listen=listen, config=config) as broker:
        urls = [f"{scheme}://127.0.0.1:{broker.addresses[name][1]}/mqtt" for name, scheme in schemes.items()]
        cases = [{"url": url, "protocolVersion": version, "ca": trusted} for url in urls for version in (3, 4, 5)]
        with trio.fail_after(WAIT_S):
            command = [program("node"), str(PROGRAM), str(mqttjs), json.dumps(cases)]
            lines = (await trio.run_process(command, capture_stdout=True)).stdout

    expected = [
        {
            "isPresent": version != 3,  # 3.1 has no bit to say so
            "got": [[f"js/{number}/{qos}", 6, qos] for qos in (0, 1, 2)] + [[f"js/{number}/large", 100_000, 1]],
        }
        for number, version in enumerate(case["protocolVersion"] for case in cases)
    ]
    assert [json.loads(line) for line in lines.splitlines()] == expected
