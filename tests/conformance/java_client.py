"""Run Kafka's own Java client against the Kafka door: ``python tests/conformance/java_client.py DIRECTORY``.

DIRECTORY holds kafka-clients.jar and what it needs: slf4j-api.jar, lz4-java.jar, snappy-java.jar, zstd-jni.jar. Java is
called by name. What the program (``JavaClient.java``) does is compared with EXPECTED; the exit code is 1 if it differs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from trunkline.testing.background import BackgroundBroker

PROGRAM: Final = Path(__file__).with_name("JavaClient.java")

EXPECTED: Final = {
    "create": "null",  # what it returns when all is well
    "grow": "null",
    "describe": "4",
    "change": "null",
    "changed": "700000",
    **{f"produce {codec}": "100" for codec in ("none", "gzip", "snappy", "lz4", "zstd")},
    "too large": "RecordTooLargeException",
    "group": "500",
    "static members, cooperative": "2 and 2",
    "broker assigns": "UnsupportedVersionException",
    "transactions": "500",
    "fenced": "ProducerFencedException",
    "describe group": "Empty",
    "offsets": "4",
    "reset": "null",
    "delete offsets": "null",
    "delete group": "null",
    "delete records": "null",
    "earliest": "1",
    "list transactions": "2",
    "producers": "1",
    "fence": "null",
    "log directories": "1",
    "elect": "ElectionNotNeededException",
    "delete": "null",
}


def main(jars: Path) -> int:
    if not (jars / "kafka-clients.jar").is_file():
        print(f"{jars} has no kafka-clients.jar", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        path = f"{jars}/*:{directory}"
        subprocess.run(["javac", "-cp", path, "-d", directory, str(PROGRAM)], check=True)
        with BackgroundBroker(directory, store="segments", listen={"kafka": "127.0.0.1:0"}) as broker:
            host, port = broker.addresses["kafka"]
            command = ["java", "-cp", path, PROGRAM.stem, f"{host}:{port}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    for name in EXPECTED | found:
        if found.get(name) != EXPECTED.get(name):
            print(f"{name}: {found.get(name)}, where {EXPECTED.get(name)} was due")
    print(f"{sum(found.get(name) == came for name, came in EXPECTED.items())} of {len(EXPECTED)} as they should be")
    return int(found != EXPECTED)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
