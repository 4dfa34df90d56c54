"""Run the suite of an AMQP client against the AMQP door: ``python tests/conformance/amqp_clients.py PATH``.

PATH is a checkout, or an unpacked sdist, of aio-pika, aiormq, py-amqp, kombu, pika or Celery; its own code is used,
not an installed one. What its tests need beside it has to be installed: for aio-pika and aiormq ``pytest<9 aiomisc
aiomisc-pytest pytest-rst pytest-timeout pamqp yarl`` (and aiormq for aio-pika), for pika ``pytest pytest-timeout
twisted tornado gevent``, for the others ``pytest-rerunfailures pytest-timeout vine`` (and, for Celery, what it needs
itself, ``pydantic`` and ``psutil``).

``--python`` names the interpreter of an environment with these, ``--rabbitmq`` runs Debian's rabbitmq-server in place
of the door, for comparison. What follows ``--`` goes to pytest. The exit code is pytest's.

The suites run in a copy of PATH: some look for certificates there, which are made for the run, and pika's has the port
of its broker in its source.
"""

from __future__ import annotations

import argparse
import os
import shutil
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
    has_port_in_source: bool = False


SETTINGS: Final = {"max_message_bytes": 128 * 1024 * 1024}
"""As RabbitMQ has it; aiormq's suite sends 20 MiB."""

PLUGIN: Final = ("-p", "amqp_suite_plugin", "--timeout", "60")
SUITES: Final = (
    Suite("aio_pika", ("tests",), PLUGIN),
    Suite("aiormq", ("tests",), PLUGIN),
    Suite(
        "amqp",
        ("t/integration/test_rmq.py",),
        left_out={"default_certs": "certificates of a server on the internet"},
    ),
    Suite("kombu", ("t/integration/test_py_amqp.py",)),
    Suite(
        "pika",
        (
            "tests/acceptance/blocking_adapter_test.py",
            "tests/acceptance/async_adapter_tests.py",
            "tests/acceptance/enforce_one_basicget_test.py",
            "tests/acceptance/thread_safe_connection_test.py",
            "tests/acceptance/thread_safe_bounded_queue_test.py",
            "tests/acceptance/twisted_adapter_tests.py",
        ),
        ("--timeout", "60"),
        has_port_in_source=True,
    ),
    Suite("celery", ("t/integration/test_inspect.py", "t/integration/test_tasks.py"), ("--timeout", "60")),
)


class Ports(NamedTuple):
    """Where a broker is, without TLS and with."""

    plain: int
    encrypted: int


def make_certificates(directory: Path) -> None:
    """``ca.pem``, ``server.pem`` with its key, ``client.pem`` and ``client.key``."""
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    client.private_key_pem.write_to_path(directory / "client.key")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")


@contextmanager
def door(directory: Path) -> Iterator[Ports]:
    """A broker without TLS, and one with."""
    tls = TlsConfig(certificate=str(directory / "server.pem"))
    plain_config = BrokerConfig(plugins=[], door={"amqp": SETTINGS})
    tls_config = BrokerConfig(plugins=[], door={"amqp": SETTINGS}, tls=tls)
    listen = {"amqp": "127.0.0.1:0"}
    with (
        BackgroundBroker(directory / "plain", store="segments", listen=listen, config=plain_config) as plain,
        BackgroundBroker(directory / "tls", store="segments", listen=listen, config=tls_config) as encrypted,
    ):
        yield Ports(plain.addresses["amqp"][1], encrypted.addresses["amqp"][1])


@contextmanager
def rabbitmq(directory: Path) -> Iterator[Ports]:
    """Debian's rabbitmq-server."""
    sys.path.append(str(HERE.parents[1] / "benchmarks"))
    from rabbitmq_server import RabbitmqServer

    server_pem = directory / "server.pem"
    tls = {"cacertfile": directory / "ca.pem", "certfile": server_pem, "keyfile": server_pem, "verify": "verify_none"}
    (directory / "rabbitmq").mkdir()
    with RabbitmqServer(directory / "rabbitmq", tls=tls) as server:
        yield Ports(server.port, server.tls_port)


def prepare(suite: Suite, path: Path, ports: Ports, directory: Path) -> Path:
    """The copy that is run."""
    copy = directory / "suite"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    if suite.package == "amqp":
        certificates = copy / "t" / "certs"
        certificates.mkdir(exist_ok=True)
        for theirs, ours in CERTIFICATES.items():
            shutil.copyfile(directory / ours, certificates / theirs)
        for broken in ("client_key_broken.pem", "client_certificate_broken.pem"):
            (certificates / broken).write_text("nothing that could be read")
    if suite.has_port_in_source:
        for file in (copy / "tests").rglob("*.py"):
            file.write_text(file.read_text().replace("5672", str(ports.plain)))
    return copy


CERTIFICATES: Final = {
    "ca_certificate.pem": "ca.pem",
    "client_key.pem": "client.key",
    "client_certificate.pem": "client.pem",
}
"""What py-amqp's suite calls them."""


def run(suite: Suite, path: Path, python: str, ports: Ports, more: list[str]) -> int:
    """pytest's exit code."""
    environment = os.environ | {
        "AMQP_PORT": str(ports.plain),
        "AMQPS_PORT": str(ports.encrypted),
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_5672_TCP": str(ports.plain),
        "RABBITMQ_5671_TCP": str(ports.encrypted),
        "TEST_BROKER": f"pyamqp://guest:guest@127.0.0.1:{ports.plain}//",
        "TEST_BACKEND": "rpc://",
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
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_certificates(directory)
        with (rabbitmq if options.rabbitmq else door)(directory) as ports:
            copy = prepare(suite, path, ports, directory)
            return run(suite, copy, options.python, ports, more)


if __name__ == "__main__":
    sys.exit(main())
