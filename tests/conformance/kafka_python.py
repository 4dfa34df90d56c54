"""Run kafka-python's integration tests against the Kafka door: ``python tests/conformance/kafka_python.py CHECKOUT``.

CHECKOUT is a working tree of kafka-python (github.com/dpkp/kafka-python); its library is used, not an installed one.
What is left out is in LEFT_OUT, with the reason. The exit code is pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from trunkline.config import BrokerConfig, TopicsConfig
from trunkline.testing.background import BackgroundBroker

TESTS: Final = ("admin", "consumer", "producer")

LEFT_OUT: Final = {
    "test_create_describe_delete_acls": "no ACLs",
    "test_alter_replica_log_dirs": "one directory",
    "test_describe_metadata_quorum": "no KRaft",
}


def main(checkout: Path) -> int:
    integration = checkout / "test" / "integration"
    if not integration.is_dir():
        print(f"{checkout} is no checkout of kafka-python: it has no test/integration", file=sys.stderr)
        return 2
    for name, reason in LEFT_OUT.items():
        print(f"left out: {name}: {reason}")
    config = BrokerConfig(plugins=[], topics=TopicsConfig(default_partitions=4))  # as the suite sets up Kafka
    listen = {"kafka": "127.0.0.1:0"}
    with (
        tempfile.TemporaryDirectory() as directory,
        BackgroundBroker(directory, store="segments", listen=listen, config=config) as broker,
    ):
        host, port = broker.addresses["kafka"]
        environment = os.environ | {
            "KAFKA_VERSION": "4.0.0",
            "KAFKA_URI": f"kafka://{host}:{port}",
            "KAFKA_ROOT": directory,  # it must be there, and is not looked into
            "PROJECT_ROOT": str(checkout),
            "PYTHONPATH": str(checkout),
        }
        expression = " and ".join(f"not {name}" for name in LEFT_OUT)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore"]
        command += ["-o", "addopts=", "-k", expression]
        files = [str(integration / f"test_{name}_integration.py") for name in TESTS]
        return subprocess.run([*command, *files], cwd=checkout, env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
