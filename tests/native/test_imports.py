"""What importing costs, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trunkline_native

PACKAGE = Path(trunkline_native.__file__).parent


def imported_by(program: str) -> set[str]:
    code = f"import sys; {program}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_only_groups_and_queues_need_is_imported_when_they_are_used() -> None:
    modules = imported_by("import trunkline_native.client")
    assert not {
        name for name in modules if name.startswith(("trunkline_native.client.group", "trunkline_native.client.q"))
    }


def test_importing_the_plugin_imports_neither_door_nor_client() -> None:
    modules = imported_by("import trunkline_native")
    assert {"trio", "anyio", "cbor2", "trunkline_native.serve", "trunkline_native.client"}.isdisjoint(modules)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("settings", set()),
        ("header", set()),
        ("frames", {"header"}),
        ("group_frames", {"header"}),
        ("queue_frames", {"header"}),
        ("codec", {"frames", "header", "queue_frames"}),
        ("bridge", {"frames"}),
        ("streams", {"bridge", "codec", "frames"}),
        ("control", {"bridge", "codec", "frames", "connection"}),  # the connection for its type only
        ("queue_bridge", {"bridge", "queue_frames"}),
        ("queue_control", {"codec", "connection", "frames", "header", "queue_bridge", "queue_frames"}),
        ("views", {"header"}),
        ("queues", {"bridge", "codec", "connection", "header", "queue_control", "queue_frames", "views"}),
        ("groups", {"bridge", "codec", "connection", "frames", "group_frames", "header", "views"}),
        ("connection", {"bridge", "codec", "control", "frames", "groups", "queues", "settings", "streams", "views"}),
    ],
)
def test_imports_point_inward(module: str, allowed: set[str]) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    inner = {name.removeprefix("trunkline_native").removeprefix(".") for name in names if "trunkline_native" in name}
    assert inner - {""} <= allowed


@pytest.mark.parametrize(
    "module", ["frames", "group_frames", "queue_frames", "codec", "client/lanes", "client/verdicts"]
)
def test_what_decides_does_no_io(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"socket", "asyncio", "trio", "ssl", "time", "random", "os"}.isdisjoint(names)
