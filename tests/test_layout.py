"""Where things live and who may import whom: the rules of docs/architecture.md, checked in the source."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ROOTS = ("bus", "storage", "protocols", "plugins")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [path for root in ROOTS for path in sorted((ROOT / root).glob("trunkline*")) if path.is_dir()]
MODULES = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]
DOORS = [package for package in PACKAGES if package.parent.name == "protocols"]

# What a sans-I/O module has no use for. ``random`` too: chance is an argument.
IO_MODULES = {
    "anyio", "asyncio", "io", "multiprocessing", "os", "pathlib", "random", "select", "selectors", "shutil", "signal",
    "socket", "ssl", "subprocess", "tempfile", "threading", "time", "trio",
}  # fmt: skip
SANS_IO_NAMES = re.compile(r"(codec|connection|packets|frames|fields|decoder|encoder|control|session)\.py")


def module_name(path: Path) -> str:
    return str(path.relative_to(ROOT)).removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports when it runs, anywhere in it."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module_name(path)}: relative imports are not our way"
                yield child.module or ""
            if is_type_checking(child):
                assert isinstance(child, ast.If)
                for otherwise in child.orelse:
                    yield from walk(otherwise)
            else:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(), str(path)))


def sans_io_modules() -> list[Path]:
    return [path for door in DOORS for path in sorted(door.glob("*.py")) if SANS_IO_NAMES.fullmatch(path.name)]


def test_there_is_something_to_check() -> None:
    assert len(PACKAGES) >= 4
    assert len(MODULES) > 40
    assert {path.parent.name for path in sans_io_modules()} == {door.name for door in DOORS}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_is_shipped_typed_and_can_be_found(package: Path) -> None:
    shipped = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert str(package.relative_to(ROOT)) in shipped
    assert (package / "py.typed").exists()
    assert (package / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES[1:], ids=lambda package: package.name)
def test_every_package_but_the_core_is_an_entry_point(package: Path) -> None:
    assert PACKAGES[0].name == "trunkline"
    values = PYPROJECT["project"]["entry-points"]["trunkline"].values()
    assert package.name in {value.partition(".")[0] for value in values}


def test_what_is_shipped_exists() -> None:
    shipped = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(shipped) == sorted(str(package.relative_to(ROOT)) for package in PACKAGES)


def test_every_entry_point_that_is_declared_is_installed_and_can_be_imported() -> None:
    for group, declared in PYPROJECT["project"]["entry-points"].items():
        installed = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
        for name, value in declared.items():
            assert installed[name].value == value, "install it again: pip install -e '.[test]'"
            installed[name].load()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_inward(path: Path) -> None:
    found = set(imports(path))
    tops = {name.partition(".")[0] for name in found}
    assert not tops & set(ROOTS), "a source root is no package: it would load the module twice"
    own = path.relative_to(ROOT).parts[1]
    strangers = {top for top in tops if top.startswith("trunkline_")} - {own}
    # One protocol from both sides: a bridge shares the door's codec and the form of its records.
    strangers -= {"trunkline_rabbitmq": {"trunkline_amqp"}, "trunkline_mqtt_bridge": {"trunkline_mqtt"}}.get(own, set())
    # The demo and the command line are programs that use what is installed; the core imports neither.
    is_program = path.relative_to(ROOT).parts[:3] in (("bus", "trunkline", "demo"), ("bus", "trunkline", "cli"))
    assert not strangers or is_program, f"it imports another plugin: {strangers}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.is_relative_to(PACKAGES[0])], ids=module_name)
def test_the_core_imports_no_program(path: Path) -> None:
    part = path.relative_to(PACKAGES[0]).parts[0]
    for program in {"cli", "demo", "testing"} - {part}:
        allowed = part in ("cli", "demo", "testing")
        assert allowed or not any(name.startswith(f"trunkline.{program}") for name in imports(path))


@pytest.mark.parametrize("path", sans_io_modules(), ids=module_name)
def test_codecs_and_protocol_state_do_no_io(path: Path) -> None:
    found = {name.partition(".")[0] for name in imports(path)}
    assert not found & IO_MODULES


def core_by_role() -> tuple[list[str], list[str]]:
    """What the table in docs/architecture.md says that decides, and that drives: modules, and packages with a slash."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| [\w ,]+ \|(.*)\|(.*)\|$", text.partition("| about | decides | drives |")[2], re.MULTILINE)
    decides, drives = ([name for row in table for name in re.findall(r"`(\w+/?)`", row[side])] for side in (0, 1))
    return decides, drives


def test_the_architecture_names_each_part_of_the_core_once() -> None:
    core = [path for path in PACKAGES[0].iterdir() if not path.name.startswith("__")]
    modules = [path.stem for path in core if path.suffix == ".py"]
    packages = [f"{path.name}/" for path in core if path.is_dir()]
    decides, drives = core_by_role()
    assert sorted(decides + drives) == sorted(modules + packages)


def test_the_parts_of_the_core_that_decide_do_no_io() -> None:
    names = ["records/batch", "records/encoding", "records/decoding"]
    names += ["groups/assignors", "groups/assigned", "groups/assigned_members", "groups/classic", "groups/explain"]
    names += [f"queues/{name}" for name in ("chain", "level", "spans", "ranges", "deadlines", "delayed", "entries")]
    names += [f"queues/{name}" for name in ("contents", "state", "stored", "consumers", "unwritten", "positions")]
    names += ["sessions/window", "sessions/references"]
    names += [name for name in core_by_role()[0] if not name.endswith("/")]
    for name in names:
        found = {top.partition(".")[0] for top in imports(PACKAGES[0] / f"{name}.py")}
        assert not found & IO_MODULES, name


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_bytes().decode(errors="replace")


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    machine = re.compile("/" + r"(work|root|home/\w+|Users/\w+|tmp/venv)/")
    found = [name for name, text in tracked_text() if machine.search(text)]
    assert found == []


def test_every_hook_is_documented() -> None:
    from trunkline import hookspecs

    text = (ROOT / "docs" / "plugins.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    assert hooks
    assert [hook for hook in hooks if hook not in text] == []


def test_every_fixture_is_documented() -> None:
    from trunkline.testing import pytest_plugin

    text = (ROOT / "docs" / "testing.md").read_text()
    fixtures = [name for name in pytest_plugin.__all__ if name.startswith("trunkline_")]
    assert [name for name in fixtures if f"`{name}" not in text] == []
