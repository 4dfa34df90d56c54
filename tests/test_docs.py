"""What the documentation says is so: its code runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import builtins
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest

import trunkline
from trunkline import errors
from trunkline.cli.root import COMMANDS, cli
from trunkline.plugins import PluginHost
from trunkline.testing.background import BackgroundBroker

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("examples/**/*.md"))]
TIMEOUT_S = 60


class Block(NamedTuple):
    """A fenced code block."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] == language:
            yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, language)]


def commands() -> list[tuple[str, str]]:
    """Every ``trunkline ...`` line of a code block, fenced or indented, and where it is."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for part in re.split(r" && | \| ", line.strip().partition("  #")[0]):
                if re.match(r"trunkline [a-z-]", part) and (line.startswith("    ") or line in fenced(page)):
                    found.append((f"{page.relative_to(ROOT)}:{number}", part))
    return found


def fenced(page: Path) -> set[str]:
    return {line for block in blocks(page, "sh") for line in block.text.splitlines()}


# -- code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_in_the_documentation_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


KAFKA_PYTHON_WARNS = [
    option
    for function in ("read", "open")
    for option in ("-W", f"ignore:{function}_text is deprecated:DeprecationWarning")
]
"""As it is imported."""


@pytest.mark.parametrize("block", list(blocks(README, "python")), ids=str)
def test_python_in_the_readme_runs(block: Block, trunkline_broker: BackgroundBroker, tmp_path: Path) -> None:
    code = block.text.replace("trunkline://127.0.0.1:7700", trunkline_broker.url)
    code = code.replace("port=1883", f"port={trunkline_broker.addresses['mqtt'][1]}")
    code = code.replace("localhost:9092", f"localhost:{trunkline_broker.addresses['kafka'][1]}")
    host, port = trunkline_broker.addresses["amqp"]
    code = code.replace('"localhost", 5672', f'"{host}", {port}')
    done = subprocess.run(
        [sys.executable, "-W", "error", *KAFKA_PYTHON_WARNS, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def run_here(block: Block, url: str) -> dict[str, Any]:
    """Run a block in this process, where it may ``await`` outside of a function; return its names."""
    code = block.text.replace("trunkline://127.0.0.1:7700", url)
    names: dict[str, Any] = {"trunkline": trunkline}  # a page imports it once
    coroutine = eval(compile(code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if coroutine is not None:
        asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))
    return names


CLIENT_BLOCKS = [
    block
    for block in blocks(ROOT / "docs" / "client.md", "python")
    if "bus.tail(" not in block.text or "break" in block.text
]


@pytest.mark.parametrize("block", CLIENT_BLOCKS, ids=str)
def test_python_in_the_client_s_page_runs_if_it_comes_to_an_end(
    block: Block, trunkline_broker: BackgroundBroker
) -> None:
    run_here(block, trunkline_broker.url)


def test_the_example_of_error_handling_handles_errors(
    trunkline_broker: BackgroundBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks(ROOT / "docs" / "errors.md", "python")
    publish_order = run_here(block, trunkline_broker.url)["publish_order"]
    asyncio.run(publish_order(trunkline_broker.url, b"4 apples"))
    asyncio.run(publish_order(trunkline_broker.url, bytes(2_000_000)))
    assert re.fullmatch(r"2000\d{3} bytes, 1048588 are allowed; not written\n", capsys.readouterr().out)
    assert [record.value for record in trunkline_broker.read("orders")] == [b"4 apples"]


def test_the_readme_s_first_message_arrives(trunkline_broker: BackgroundBroker, tmp_path: Path) -> None:
    publish, tail = next(block for block in blocks(README, "sh") if "publish" in block.text).text.splitlines()
    for command in (publish, tail):
        done = subprocess.run(
            [sys.executable, "-m", "trunkline.cli", *shlex.split(command)[1:], "--server", trunkline_broker.url],
            cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert "greetings/0@0  first  hello, world" in done.stdout


@pytest.mark.parametrize(("place", "command"), commands())
def test_commands_in_the_documentation_parse(place: str, command: str) -> None:
    found: click.Command = cli
    arguments = shlex.split(command)[1:]
    while isinstance(found, click.Group):
        name = arguments.pop(0)
        child = found.get_command(click.Context(found), name)
        assert child is not None, f"{place}: there is no command {name}"
        found = child
    found.make_context(found.name, arguments)


# -- completeness ----------------------------------------------------------------------------------


def documented_errors() -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)


def public_errors() -> set[str]:
    return {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}


def test_every_error_is_documented_once() -> None:
    assert sorted(documented_errors()) == sorted(public_errors() - {"TrunklineError"})


def test_every_error_that_may_be_retried_is_marked_so() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    assert {name for name, row in rows.items() if "retriable" in row} == {
        name for name in rows if getattr(errors, name).retriable
    }


def test_errors_do_not_shadow_builtins() -> None:
    assert public_errors() & set(dir(builtins)) == set()


def test_every_command_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert {name for name in COMMANDS if f"`{name}`" not in index} == set()


def test_every_setting_of_the_built_in_doors_is_documented() -> None:
    host = PluginHost()
    host.load_all(None)
    pages = "\n".join(page.read_text() for page in PAGES)
    settings = [door.settings_type for door in host.doors.values() if door.settings_type is not None]
    assert settings
    missing = [f"{found.__name__}.{field.name}" for found in settings for field in msgspec.structs.fields(found)
               if f"`{field.name}`" not in pages]  # fmt: skip
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_the_readme_names_the_two_commands_word_for_word() -> None:
    lines = fenced(README)
    assert "pip install . && trunkline demo" in lines
    assert "pip install -e '.[test]' && pytest" in lines


# -- references ------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_s_way_into_the_source_exists() -> None:
    steps = re.findall(r"^\d+\. `(\w+)\.(\w+)` in \[`([^`]+)`\]", README.read_text(), re.MULTILINE)
    assert len(steps) == 8
    for owner, function, file in steps:
        tree = ast.parse((ROOT / file).read_text())
        (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
        assert function in {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
