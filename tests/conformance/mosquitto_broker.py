"""Run Mosquitto's own tests of its broker: ``python tests/conformance/mosquitto_broker.py CHECKOUT [NAME ...]``.

CHECKOUT is a working tree of eclipse/mosquitto (github.com); nothing of it is built. Its tests start ``src/mosquitto``,
so a program of that name is put there that starts Trunkline with what it knows of the configuration. What it does not
know (access rights, limits of other kinds) is about Mosquitto and not about MQTT: such tests are left out, and said.
Those of bridges, TLS and plugins are not even begun.

The tests compare bytes. These differences are allowed, which the standards leave to a broker: properties of CONNACK
that tell its limits, reason strings, 0x10 for a message that nobody wants, and 0x92 for what is complete already.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

WORKERS: Final = 3
LIMIT_S: Final = 300.0

STARTING_S: Final = 0.5
"""Between their twenty looks whether the broker has started."""

LEFT_OUT: Final = 77
"""Exit code of a broker that cannot be configured like that."""

NOT_BEGUN: Final = ("06-bridge", "08-", "09-plugin", "14-dynsec")

KNOWN: Final = {
    "max_inflight_messages": ("max_inflight", "receive_maximum"),
    "max_keepalive": ("max_keep_alive_s",),
    "max_topic_alias": ("max_topic_aliases",),
}
IGNORED: Final = {
    "persistence", "persistence_file", "persistence_location", "log_type", "sys_interval", "autosave_interval",
    "per_listener_settings", "bind_address",
}  # fmt: skip

BYTE, TWO, FOUR, VARIABLE, PAIR = {1, 23, 36, 37, 40, 41, 42}, {19, 33, 34, 35}, {2, 17, 24, 39}, {11}, {38}
LIMITS: Final = {33, 34, 36, 37, 39, 40, 41, 42}  # MQTT 5.0, 3.2.2.3
REASON_STRING: Final = 31


# -- in place of src/mosquitto ---------------------------------------------------------------------


def broker(arguments: list[str]) -> None:
    """Become a Trunkline with this command line of Mosquitto's."""
    port, door, unknown, database = 1883, {"sys_interval_s": 0, "max_session_expiry_s": 0}, [], None
    if "-p" in arguments:
        port = int(arguments[arguments.index("-p") + 1])
    if "-c" in arguments:
        lines = Path(arguments[arguments.index("-c") + 1]).read_text().splitlines()
        for line in lines:
            name, *values = line.split() or ["#"]
            if name in ("port", "listener"):
                port = int(values[0])
            elif name in KNOWN:
                door |= dict.fromkeys(KNOWN[name], int(values[0]))
            elif name == "persistence_file":
                database = Path(values[0])
            elif not (name.startswith("#") or name in IGNORED or (name, values) == ("allow_anonymous", ["true"])):
                unknown.append(line.strip())
        if "allow_anonymous true" not in lines:
            unknown.append("allow_anonymous false")
    if unknown:
        print(f"LEFT OUT: {'; '.join(unknown)}", file=sys.stderr)
        sys.exit(LEFT_OUT)
    data = Path(tempfile.mkdtemp(prefix="mosquitto-tests-"))
    if database is not None:  # the tests take the file away when they want to begin anew
        data = Path(f"{database}.data")
        if not database.exists():
            shutil.rmtree(data, ignore_errors=True)
        database.touch()
    settings = data.with_suffix(".toml")
    settings.write_text("[door.mqtt]\n" + "".join(f"{name} = {value}\n" for name, value in door.items()))
    command = [sys.executable, "-m", "trunkline.cli", "serve", "--data", str(data), "--config", str(settings)]
    command += ["--log-level", "error", "--listen", f"mqtt=127.0.0.1:{port}", "--listen", "native=127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    os.execve(command[0], command, environment)


# -- in place of their comparison ------------------------------------------------------------------


def properties(data: bytes) -> dict[int, bytes]:
    """Identifier -> all its properties, as they are; in no order."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        kind, end = data[at], at + 1
        if kind in VARIABLE:
            while data[end] & 0x80:
                end += 1
            end += 1
        elif kind in PAIR:
            for _ in range(2):
                end += 2 + int.from_bytes(data[end : end + 2], "big")
        else:
            size = 1 if kind in BYTE else 2 if kind in TWO else 4 if kind in FOUR else None
            end += 2 + int.from_bytes(data[end : end + 2], "big") if size is None else size
        found[kind] = found.get(kind, b"") + data[at:end]
        at = end
    return found


def meaning(packet: bytes) -> object:
    """What is equal for two packets that say the same."""
    kind, body = packet[0] >> 4, packet[1:]
    while body[0] & 0x80:
        body = body[1:]
    body = body[1:]
    if kind == 2 and len(body) > 2:
        said = properties(body[3:])
        return packet[0], body[:2], {name: said[name] for name in said.keys() - LIMITS - {REASON_STRING}}
    if 4 <= kind <= 7:
        code = body[2] if len(body) > 2 else 0
        return packet[0], body[:2], 0 if code in (0x10, 0x92) else code
    if kind == 14:
        return packet[0], body[:1]
    return packet


def receive_packet(sock: socket.socket) -> bytes:
    """The next one; what there is of it, if the connection ends."""
    head = receive_all(sock, 2)
    while 2 <= len(head) < 5 and head[-1] & 0x80:
        head += receive_all(sock, 1)
    return head + receive_all(sock, sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:])))


def receive_all(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def run_test(name: str, ports: list[str]) -> None:
    """Run one of their scripts, with a comparison that knows what may differ."""
    sys.path[:0] = [os.path.realpath("."), os.path.realpath("..")]
    helper: Any = __import__("mosq_test")

    def expect_packet(sock: socket.socket, title: str, expected: bytes) -> bool:
        if not expected:
            got = sock.recv(1)
        else:
            got = receive_packet(sock)
            while 0 < len(got) < len(expected) and meaning(got) != meaning(expected):
                got += receive_packet(sock)  # they may expect several at once
        if got == expected or (got and expected and meaning(got) == meaning(expected)):
            return True
        helper.packet_matches(title, got, expected)
        raise helper.TestError

    started = subprocess.Popen

    def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        if command[0].endswith("helper.py"):  # a second client, which compares as well
            command = [sys.executable, str(Path(__file__).resolve()), "--test", *command]
        return started(command, **options)

    subprocess.Popen = start  # type: ignore[assignment, misc]
    helper.expect_packet = expect_packet
    helper.time = SimpleNamespace(sleep=lambda seconds: time.sleep(max(seconds, STARTING_S)))
    sys.argv = [name, *ports]
    runpy.run_path(name, run_name="__main__")


# -- all of them -----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    name: str
    what: str
    output: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def run_one(directory: Path, name: str) -> Outcome:
    text = (directory / name).read_text()
    ports = [str(free_port()) for _ in range(2 if "get_port(2)" in text else 3 if "get_port(3)" in text else 1)]
    command = [sys.executable, str(Path(__file__).resolve()), "--test", name, *ports]
    with tempfile.TemporaryFile() as output:
        test = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = test.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(test.pid, signal.SIGKILL)  # the broker too, if the test has left it there
            test.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    what = "passed" if code == 0 else "left out" if "LEFT OUT" in said else "failed"
    return Outcome(name, what, said)


def main(arguments: list[str]) -> int:
    checkout = Path(arguments[0])
    program = checkout / "src" / "mosquitto"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" --broker "$@"\n')
    program.chmod(0o755)
    directory = checkout / "test" / "broker"
    found = sorted(path.name for path in directory.glob("[0-9][0-9]-*.py"))
    names = arguments[1:] or [name for name in found if "helper" not in name and not name.startswith(NOT_BEGUN)]
    with ThreadPoolExecutor(WORKERS) as pool:
        outcomes = []
        for outcome in pool.map(lambda name: run_one(directory, name), names):
            print(f"{outcome.what:8} {outcome.name}", flush=True)
            if outcome.what == "failed":
                print("\n".join(f"    {line[:300]}" for line in outcome.output.splitlines()[-25:]))
            outcomes.append(outcome)
    counts = {what: sum(each.what == what for each in outcomes) for what in ("passed", "failed", "left out")}
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    if sys.argv[1] == "--broker":
        broker(sys.argv[2:])
    elif sys.argv[1] == "--test":
        run_test(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
