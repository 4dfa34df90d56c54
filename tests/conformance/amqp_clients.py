"""Run the suite of an AMQP client against the AMQP door: ``python tests/conformance/amqp_clients.py PATH``.

PATH is a checkout, or an unpacked sdist, of aio-pika, aiormq, py-amqp or kombu; its own code is used, not an installed
one. What its tests need beside it has to be installed: for aio-pika and aiormq ``pytest<9 aiomisc aiomisc-pytest
pytest-rst pytest-timeout pamqp yarl`` (and aiormq for aio-pika), for the others ``pytest-rerunfailures vine``.

``--python`` names the interpreter of an environment with these, ``--rabbitmq`` runs Debian's rabbitmq-server in place
of the door, for comparison. What follows ``--`` goes to pytest. The exit code is pytest's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import trustme

from trunkline.config import BrokerConfig, TlsConfig
from trunkline.testing.background import BackgroundBroker

HERE: Final = Path(__file__).parent


class Suite(NamedTuple):
    """How a client's tests are run, and what is left out of them, with the reason."""

    package: str
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    left_out: Mapping[str, str] = MappingProxyType({})


SETTINGS: Final = {"max_message_bytes": 128 * 1024 * 1024}
"""As RabbitMQ has it; aiormq's suite sends 20 MiB."""

PLUGIN: Final = ("-p", "amqp_suite_plugin", "--timeout", "60")
SUITES: Final = (
    Suite("aio_pika", ("tests",), PLUGIN),
    Suite("aiormq", ("tests",), PLUGIN),
    Suite("amqp", ("t/integration/test_rmq.py",), left_out={"tls": "certificates that are not in its package"}),
    Suite("kombu", ("t/integration/test_py_amqp.py",)),
)


def server_certificate(directory: Path) -> Path:
    """With its key; of an authority that nobody knows, so suites check nothing."""
    certificate = directory / "server.pem"
    trustme.CA().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    return certificate


@contextmanager
def door(directory: Path) -> Iterator[tuple[int, int]]:
    """Ports of a broker without TLS, and of one with."""
    certificate = server_certificate(directory)
    plain_config = BrokerConfig(plugins=[], door={"amqp": SETTINGS})
    tls_config = BrokerConfig(plugins=[], door={"amqp": SETTINGS}, tls=TlsConfig(certificate=str(certificate)))
    listen = {"amqp": "127.0.0.1:0"}
    with (
        BackgroundBroker(directory / "plain", store="segments", listen=listen, config=plain_config) as plain,
        BackgroundBroker(directory / "tls", store="segments", listen=listen, config=tls_config) as encrypted,
    ):
        yield plain.addresses["amqp"][1], encrypted.addresses["amqp"][1]


@contextmanager
def rabbitmq(directory: Path) -> Iterator[tuple[int, int]]:
    """Likewise, of Debian's rabbitmq-server: one for both."""
    sys.path.append(str(HERE.parents[1] / "benchmarks"))
    from rabbitmq_server import RabbitmqServer

    certificate = server_certificate(directory)
    tls = {"cacertfile": certificate, "certfile": certificate, "keyfile": certificate, "verify": "verify_none"}
    with RabbitmqServer(directory, tls=tls) as server:
        yield server.port, server.tls_port


def run(suite: Suite, path: Path, python: str, ports: tuple[int, int], more: list[str]) -> int:
    """pytest's exit code."""
    plain, encrypted = ports
    environment = os.environ | {
        "AMQP_PORT": str(plain),
        "AMQPS_PORT": str(encrypted),
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_5672_TCP": str(plain),
        "RABBITMQ_5671_TCP": str(encrypted),
        "PYTHONPATH": os.pathsep.join((str(path), str(HERE))),
    }
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore", "-o", "addopts=", *suite.options]
    for name, reason in suite.left_out.items():
        print(f"left out: {name}: {reason}")
    expression = " and ".join(f"not {name}" for name in suite.left_out)
    if expression:
        command += ["-k", expression]
    return subprocess.run([*command, *suite.tests, *more], cwd=path, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="The suite of an AMQP client against the AMQP door.")
    parser.add_argument("path", type=Path, help="a checkout or an unpacked sdist")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for the suite")
    parser.add_argument("--rabbitmq", action="store_true", help="against Debian's rabbitmq-server instead")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, more = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    path = options.path.resolve()
    for suite in SUITES:
        if (path / suite.package).is_dir() and (path / suite.tests[0]).exists():
            break
    else:
        parser.error(f"{path} is none of {', '.join(suite.package for suite in SUITES)} with its tests")
    with tempfile.TemporaryDirectory() as name, (rabbitmq if options.rabbitmq else door)(Path(name)) as ports:
        return run(suite, path, options.python, ports, more)


if __name__ == "__main__":
    sys.exit(main())
