"""Run confluent-kafka's integration tests: ``python tests/conformance/confluent_kafka_python.py CHECKOUT``.

CHECKOUT is a working tree of confluent-kafka-python (github.com/confluentinc/confluent-kafka-python), of a version near
the installed ``confluent-kafka``, which is the library that is tested. The suite imports its schema registry client, so
it needs ``pip install 'confluent-kafka[schemaregistry,avro]' pytest-asyncio pytest-timeout``. It can be given a running
cluster, but imports the package that would start one all the same: an empty one stands in for that here.

What is left out is in LEFT_OUT, with the reason. The exit code is pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from trunkline.config import BrokerConfig
from trunkline.testing.background import BackgroundBroker

TESTS: Final = ("admin", "consumer", "producer", "serialization")

LEFT_OUT: Final = {
    "test_user_scram_credentials": "no SASL",
    "test_describe_operations": "no SASL",
    "test_basic_operations": "it sets compression.type, and batches are stored as they were sent",
    "test_incremental_alter_configs": "likewise",
}


def main(checkout: Path) -> int:
    integration = checkout / "tests" / "integration"
    if not (integration / "cluster_fixture.py").is_file():
        print(f"{checkout} is no checkout of confluent-kafka-python: no tests/integration", file=sys.stderr)
        return 2
    for name, reason in LEFT_OUT.items():
        print(f"left out: {name}: {reason}")
    config = BrokerConfig(plugins=[])
    with tempfile.TemporaryDirectory() as directory:
        stand_in = Path(directory) / "path" / "trivup" / "clusters"
        stand_in.mkdir(parents=True)
        (stand_in / "KafkaCluster.py").write_text("class KafkaCluster: pass\n")
        data = Path(directory) / "data"
        with BackgroundBroker(data, store="segments", listen={"kafka": "127.0.0.1:0"}, config=config) as broker:
            host, port = broker.addresses["kafka"]
            environment = os.environ | {
                "BROKERS": f"{host}:{port}",
                "PYTHONPATH": os.pathsep.join(
                    [str(stand_in.parents[1]), str(checkout), os.environ.get("PYTHONPATH", "")]
                ),
            }
            expression = " and ".join(f"not {name}" for name in LEFT_OUT)
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore", "--timeout=120"]
            command += ["-k", expression, *(str(integration / name) for name in TESTS)]
            return subprocess.run(command, cwd=checkout, env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
