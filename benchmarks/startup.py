"""How long it takes to begin, and what an idle broker holds: ``python benchmarks/startup.py``.

    fresh_s        from starting ``trunkline serve`` to its ready line, in an empty data directory
    fresh_cpu_s    the processor time in it
    existing_s     the same on the directory that a broker has left behind
    idle_rss_kib   resident memory of the fresh broker when it is ready
    import_s       a fresh interpreter that imports the client: python -c "import trunkline; trunkline.connect"
    import_cpu_s   the processor time in it
    python_s       a fresh interpreter that does nothing, for comparison; it is part of all the others

Medians, as one JSON line; each kind is started in turn, so that a disturbance meets all alike. All are started once
before that, so that there is bytecode of what they import, as there is of an installed package.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from brokers import environment, trunkline
from probe import cpu_seconds, resident_kib

CLIENT_IMPORT = "import trunkline; trunkline.connect"


def seconds_of(program: str) -> tuple[float, float]:
    """Wall clock and processor time of a Python interpreter that runs ``program``, from start to exit."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment())
    seconds, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used


def measure(repetitions: int, directory: Path | None) -> dict[str, float]:
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(repetitions + 1):
        with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as data:
            with trunkline(Path(data)) as broker:
                figures["fresh_cpu_s"].append(cpu_seconds(broker.pid))
                figures["fresh_s"].append(broker.ready_s)
                figures["idle_rss_kib"].append(resident_kib(broker.pid))
            with trunkline(Path(data)) as broker:
                figures["existing_s"].append(broker.ready_s)
        for name, program in (("import", CLIENT_IMPORT), ("python", "pass")):
            seconds, used = seconds_of(program)
            figures[f"{name}_s"].append(seconds)
            figures[f"{name}_cpu_s"].append(used)
    return {name: round(statistics.median(values[1:]), 3) for name, values in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=10)
    parser.add_argument("--dir", type=Path, help="where the data directories go  [default: the temporary directory]")
    options = parser.parse_args(arguments)
    print(json.dumps({"mode": "startup"} | measure(options.reps, options.dir)))


if __name__ == "__main__":
    main()
