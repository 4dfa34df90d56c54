"""Run Eclipse's MQTT interoperability suites: ``python tests/conformance/eclipse_paho.py CHECKOUT [NAME ...]``.

CHECKOUT is a working tree of eclipse/paho.mqtt.testing (github.com); its own client is used. NAME, as in
``5.test_basic``, runs only that one. Every test has a process and a broker to itself, as they clear all retained
messages and subscribe to everything; so several run at a time, which is well, for they mostly sleep. The exit code is
1 if one fails.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from trunkline.config import BrokerConfig
from trunkline.testing.background import BackgroundBroker

SUITES: Final = {"311": "client_test", "5": "client_test5"}

UNPREFIXED: Final = "will_message_test"
"""A test of client_test.py that unittest alone would not find."""

SETTINGS: Final = {
    "receive_maximum": 20,  # test_flow_control2 sends that many messages and one more
    "max_keep_alive_s": 60,  # test_server_keep_alive asks for 120 and expects 60
    "refused_filters": ["test/nosubscribe"],  # test_subscribe_failure
}

WORKERS: Final = 8
LIMIT_S: Final = 120.0
"""For one test. The longest sleeps for half a minute."""


class Outcome(NamedTuple):
    name: str
    passed: bool
    seconds: float
    output: str


def names_in(directory: Path) -> list[str]:
    """``SUITE.TEST`` for every test."""
    found = []
    for suite, module in SUITES.items():
        text = (directory / f"{module}.py").read_text()
        names = re.findall(rf"^    def (test\w+|{UNPREFIXED})\(self\)", text, re.MULTILINE)
        found += [f"{suite}.{name}" for name in sorted(names)]
    return found


def run_one(directory: Path, name: str) -> Outcome:
    """One test in an interpreter of its own against a broker of its own."""
    began = time.monotonic()
    config = BrokerConfig(plugins=[], door={"mqtt": SETTINGS})
    with BackgroundBroker(listen={"mqtt": "127.0.0.1:0"}, config=config) as broker:
        host, port = broker.addresses["mqtt"]
        command = [sys.executable, "-W", "ignore", __file__, "--inside", str(directory), name, host, str(port)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
            passed, output = done.returncode == 0, done.stdout
        except subprocess.TimeoutExpired as error:
            passed, output = False, f"not over after {LIMIT_S:g} s\n{error.stdout!r}"
    if name.endswith("test_zero_length_clientid") and "Traceback" in output:
        passed = False  # it catches its own failures
    return Outcome(name, passed, time.monotonic() - began, output)


def inside(directory: str, name: str, host: str, port: str) -> None:
    """In the child: set what the suite's main part would, and run one test. Does not return."""
    sys.path.insert(0, directory)
    suite, _, test = name.partition(".")
    module = importlib.import_module(SUITES[suite])
    prefix = "client_test5/" if suite == "5" else ""
    topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
    wild = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
    vars(module).update(
        host=host,
        port=int(port),
        topic_prefix=prefix,
        topics=[prefix + topic for topic in topics],
        wildtopics=[prefix + topic for topic in wild],
        nosubscribe_topics=("test/nosubscribe",),
        setData=lambda: None,
    )
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite([module.Test(test)]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if result.wasSuccessful() and result.testsRun == 1 else 1)  # its threads may never end


def main(checkout: Path, chosen: list[str]) -> int:
    directory = checkout / "interoperability"
    if not all((directory / f"{module}.py").is_file() for module in SUITES.values()):
        print(
            f"{checkout} is no checkout of paho.mqtt.testing: it has no interoperability/client_test.py",
            file=sys.stderr,
        )
        return 2
    names = names_in(directory)
    unknown = {*chosen} - {*names}
    if unknown:
        print(f"no such test: {', '.join(sorted(unknown))}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    failed = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for outcome in pool.map(lambda name: run_one(directory, name), chosen or names):
            print(f"{'passed' if outcome.passed else 'FAILED'}  {outcome.seconds:6.1f} s  {outcome.name}", flush=True)
            if not outcome.passed:
                failed.append(outcome)
    for outcome in failed:
        print(f"\n== {outcome.name}\n{outcome.output}")
    total = len(chosen or names)
    print(f"{total - len(failed)} of {total} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(*sys.argv[2:])
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
