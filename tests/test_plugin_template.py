"""The plugin template works as a stranger would use it: installed by itself, or copied by ``trunkline plugin new``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import trunkline
from trunkline.cli.root import cli
from trunkline.cli.template import is_plugin_name, template_directory
from trunkline.testing import Peer

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "plugin-template"
TIMEOUT_S = 300


def call(*command: str | Path, directory: Path, **variables: str) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(
        [str(word) for word in command], cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False, env=os.environ | variables,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def run_tests(directory: Path) -> str:
    """Run the tests of a plugin that is not installed; without the longest of the suite, which run for the template."""
    return call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                "-k", "not (a_log_is_like_a_list or overlap or crash_cuts_off)",
                directory=directory, PYTHONPATH=str(directory))  # fmt: skip


def new(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["plugin", "new", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "other"), [("store", "teletype"), ("protocol", "shoebox")])
def test_a_new_plugin_passes_its_own_tests_and_checks(
    kind: str, other: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path / "mine"
    new(kind, "my-own", "--directory", target)

    texts = {path.relative_to(target): path.read_text() for path in target.rglob("*") if path.is_file()}
    everything = "".join(f"{path}\n{text}" for path, text in texts.items()).lower()
    assert [word for word in ("shoebox", "teletype", "template") if word in everything] == []
    assert Path("trunkline_my_own/py.typed") in texts
    assert 'my-own = "trunkline_my_own"\n' in texts[Path("pyproject.toml")]
    assert " passed" in run_tests(target)
    call(sys.executable, "-m", "ruff", "check", ".", directory=target)
    call(sys.executable, "-m", "ruff", "format", "--check", ".", directory=target)
    cache = tmp_path_factory.getbasetemp() / "mypy"  # for both: nearly all that it reads is Trunkline
    call(sys.executable, "-m", "mypy", "--cache-dir", cache, directory=target)


def test_new_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = new("store", "attic")
    assert "cd trunkline-attic\n" in said
    assert "trunkline serve --store attic\n" in said
    assert (tmp_path / "trunkline-attic" / "pyproject.toml").exists()


def test_new_reports_in_json(tmp_path: Path) -> None:
    report = json.loads(new("protocol", "chatter", "--directory", tmp_path / "x", "--json"))
    assert (report["kind"], report["name"], report["directory"]) == ("protocol", "chatter", str(tmp_path / "x"))
    assert "trunkline_chatter/codec.py" in report["files"]


@pytest.mark.parametrize("name", ["Attic", "my attic", "-x", "x-", "1st", "a--b", "", "ä", "a/b", "..", "native"])
def test_new_refuses_a_name_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter):
        cli.main(["plugin", "new", "store", "--directory", str(tmp_path / "x"), "--", name], standalone_mode=False)
    assert not (tmp_path / "x").exists()


def test_new_touches_nothing_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="already there"):
        cli.main(["plugin", "new", "store", "attic", "--directory", str(tmp_path)], standalone_mode=False)
    assert [*tmp_path.iterdir()] == []


def test_names() -> None:
    assert all(map(is_plugin_name, ["a", "s3", "my-store", "my_store", "a-b-c"]))


def test_the_template_is_the_checkout_s() -> None:
    assert template_directory() == TEMPLATE


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("store", "attic"), ("protocol", "chatter")])
def test_the_tutorial_s_code_works_with_a_new_plugin(kind: str, name: str, tmp_path: Path) -> None:
    new(kind, name, "--directory", tmp_path / "plugin")
    page = (ROOT / "docs" / f"write-a-{kind}.md").read_text()
    shutil.rmtree(tmp_path / "plugin" / "tests")
    (tmp_path / "plugin" / "tests").mkdir()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)):
        # The page shows methods without their class, whose annotations name what the page has imported before.
        text = "from __future__ import annotations\n" + code
        (tmp_path / "plugin" / "tests" / f"test_block_{number}.py").write_text(text)
    assert " passed" in run_tests(tmp_path / "plugin")


# -- a stranger ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stranger_installs_the_template_runs_its_tests_and_serves_with_it(tmp_path: Path) -> None:
    folder, environment = tmp_path / "template", tmp_path / "environment"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    call(sys.executable, "-m", "venv", "--without-pip", environment, directory=tmp_path)
    programs = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", programs / "python")
    call(
        *pip, "install", ROOT, f"{folder}[test]", directory=tmp_path
    )  # not -e: what is tested is what a wheel would hold
    (folder / "tests").rename(tmp_path / "tests")

    call(programs / "pytest", "-q", "-c", folder / "pyproject.toml", "--rootdir", tmp_path, tmp_path / "tests",
         directory=tmp_path, PYTHONPATH="")  # fmt: skip
    call(programs / "trunkline", "plugin", "new", "store", "attic", directory=tmp_path)
    plugins = call(programs / "trunkline", "plugin", "list", "--json", directory=tmp_path)
    states = {report["name"]: report["failure"] for report in map(json.loads, plugins.splitlines())}
    assert (states["shoebox"], states["teletype"]) == (None, None)
    serve(programs / "trunkline", tmp_path)


def serve(program: Path, directory: Path) -> None:
    """A line client publishes, a native client reads, and the records lie in the template's store."""
    broker = subprocess.Popen(
        [program, "serve", "--json", "--data", directory / "data", "--store", "shoebox",
         "--listen", "teletype=127.0.0.1:0", "--listen", "native=127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True, cwd=directory,
    )  # fmt: skip
    with broker:
        try:
            assert broker.stdout is not None
            addresses = json.loads(broker.stdout.readline())["addresses"]
            host, _, port = addresses["teletype"].rpartition(":")
            with Peer((host, int(port))) as client:
                for request, answer in [(b"CREATE orders\n", b"OK\n"), (b"PUB orders alice 4 apples\n", b"OK 0 0\n")]:
                    client.send(request)
                    assert client.receive_until(b"\n") == answer
            with trunkline.connect_blocking(f"trunkline://{addresses['native']}") as bus:
                (record,) = bus.read("orders")
            assert (record.key, record.value) == (b"alice", b"4 apples")
        finally:
            broker.terminate()
    assert broker.returncode == 0
    assert (directory / "data" / "shoebox" / "orders-0" / "records.0").stat().st_size > 0
