"""What is imported is what is used: start-up time is spent on imports, so these tests keep it by their names.

Each looks at a fresh interpreter.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "sqlite3", "sqlite_utils", "rich", "multiprocessing", "concurrent.futures", "http", "unittest"}
"""What neither a broker nor a client needs, of the standard library and of what Trunkline is installed with."""

BROKER = """
import trio
from trunkline import open_broker

async def main():
    async with open_broker(listen={{"{door}": "127.0.0.1:0"}}):
        print(*sys.modules)

trio.run(main)
"""


def imported_by(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def of(package: str, modules: set[str]) -> set[str]:
    return {name for name in modules if name == package or name.startswith(f"{package}.")}


def door_alone(name: str) -> set[str]:
    """The modules of a door that is not opened: what the plugin host asks."""
    return {f"trunkline_{name}", f"trunkline_{name}.settings", f"trunkline_{name}.plugin"}


@pytest.mark.parametrize("door", ["mqtt", "kafka"])
def test_a_broker_imports_the_doors_that_it_opens_and_nothing_of_the_others(door: str) -> None:
    modules = imported_by(BROKER.format(door=door))
    assert f"trunkline_{door}.serve" in modules
    for other in {"mqtt", "kafka", "amqp", "native"} - {door}:
        assert of(f"trunkline_{other}", modules) <= door_alone(other)
    for unused in ("trunkline_sqlite", "trunkline_rabbitmq", "trunkline_mqtt_bridge", "trunkline_native.client"):
        assert not of(unused, modules)
    for unused in ("websocket", "cli", "demo", "testing", "links"):
        assert not of(f"trunkline.net.{unused}", modules) | of(f"trunkline.{unused}", modules)
    assert not of("trunkline_kafka.messages", modules)  # each comes with the first request of its kind
    assert HEAVY.isdisjoint(modules)
    assert {"anyio", "difflib", "h11", "click"}.isdisjoint(modules)


def test_what_the_first_batch_needs_is_imported_before_the_broker_is_ready() -> None:
    modules = imported_by(BROKER.format(door="mqtt"))
    assert {"crc32c", "cramjam", "trunkline.records.encoding"} <= modules


def test_a_client_imports_no_event_loop_no_broker_and_nothing_that_looks_for_plugins() -> None:
    modules = imported_by("import trunkline; trunkline.connect; print(*sys.modules)")
    assert "trunkline_native.client.bus" in modules
    assert HEAVY.isdisjoint(modules)
    assert {"trio", "ssl", "pluggy", "importlib.metadata", "email", "crc32c"}.isdisjoint(modules)
    assert {"trunkline.broker", "trunkline_native.connection"}.isdisjoint(modules)


@pytest.mark.parametrize("command", ["serve", "topic", "publish", "queue"])
def test_a_command_of_ours_is_found_without_looking_for_plugins(command: str) -> None:
    modules = imported_by(f"from trunkline.cli.root import run; run(['{command}', '--help']); print(*sys.modules)")
    assert HEAVY.isdisjoint(modules)
    assert {"importlib.metadata", "pluggy", "msgspec", "anyio", "trio", "trunkline.records"}.isdisjoint(modules)


def test_help_imports_what_commands_say_of_themselves_and_not_what_they_do() -> None:
    modules = imported_by("from trunkline.cli.root import run; run(['--help']); print(*sys.modules)")
    assert {"trunkline.cli.demo", "trunkline_mqtt.commands", "trunkline_kafka.commands"} <= modules
    assert HEAVY.isdisjoint(modules)
    assert {"anyio", "trio", "ssl", "trunkline.records", "trunkline_mqtt.serve"}.isdisjoint(modules)
