"""Run aiokafka's integration tests against the Kafka door: ``python tests/conformance/aiokafka_suite.py CHECKOUT``.

CHECKOUT is a working tree of aiokafka (github.com/aio-libs/aiokafka); the installed library is used. Of what its
``requirements-ci.txt`` names, docker, pytest-asyncio and pytest-mock have to be installed. The suite starts Kafka in
Docker; fixtures that name our door take the place of that. What is left out is in LEFT_OUT. The exit code is pytest's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from trunkline.config import BrokerConfig, TopicsConfig
from trunkline.testing.background import BackgroundBroker

TESTS: Final = (
    "admin", "client", "conn", "consumer", "coordinator", "fetcher", "pep492", "producer", "sender",
    "transactional_consumer", "transactional_producer",
)  # fmt: skip

LEFT_OUT: Final = {
    "ssl": "certificates that its Docker image makes",
    "sasl": "no SASL",
    "test_exclude_internal_topics": "it wants to see __consumer_offsets",
}

FIXTURES: Final = """

@pytest.fixture(scope="session")
def docker():
    return None


@pytest.fixture(scope="session")
def kafka_image(request):
    return request.config.getoption("--docker-image")


@pytest.fixture(scope="session")
def ssl_folder():
    return pathlib.Path("tests")


@pytest.fixture(scope="class")
def acl_manager():
    return None


kafka_config = kerberos_utils = acl_manager


@pytest.fixture(scope="session")
def kafka_server():
    return KafkaServer(os.environ["KAFKA_HOST"], int(os.environ["KAFKA_PORT"]), 1, 1, 1, None)
"""


def main(checkout: Path) -> int:
    suite = checkout / "tests"
    if not (suite / "conftest.py").is_file():
        print(f"{checkout} is no checkout of aiokafka: it has no tests/conftest.py", file=sys.stderr)
        return 2
    for name, reason in LEFT_OUT.items():
        print(f"left out: {name}: {reason}")
    config = BrokerConfig(plugins=[], topics=TopicsConfig(default_partitions=2))  # as the suite sets up Kafka
    with (
        tempfile.TemporaryDirectory() as directory,
        BackgroundBroker(
            f"{directory}/data", store="segments", listen={"kafka": "127.0.0.1:0"}, config=config
        ) as broker,
    ):
        copied = Path(directory) / "tests"
        shutil.copytree(suite, copied)
        conftest = copied / "conftest.py"
        conftest.write_text(conftest.read_text() + FIXTURES)
        host, port = broker.addresses["kafka"]
        expression = " and ".join(f"not {name}" for name in LEFT_OUT)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore", "-o", "addopts="]
        command += ["--docker-image", "none:2.8.1", "-k", expression]  # the version that it takes the broker for
        command += [f"tests/test_{name}.py" for name in TESTS]
        environment = os.environ | {"KAFKA_HOST": host, "KAFKA_PORT": str(port)}
        return subprocess.run(command, cwd=directory, env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
