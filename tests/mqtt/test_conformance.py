"""docs/mqtt-conformance.md names tests that exist, and leaves no statement in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROW = re.compile(r"^\| (MQTT-[\d.]+-\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"^(?:async )?def test_(\w+)\(", re.MULTILINE)
SECTIONS = {"MQTT 5.0": 251, "MQTT 3.1.1": 140}
"""How many statements each standard has."""


@pytest.fixture(scope="module")
def text(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "mqtt-conformance.md").read_text()


@pytest.fixture(scope="module")
def tests() -> set[str]:
    return {name for path in Path(__file__).parent.glob("test_*.py") for name in TEST.findall(path.read_text())}


def test_every_test_that_is_named_exists(text: str, tests: set[str]) -> None:
    named = {name for name in re.findall(r"`(\w+)`", text.split("## The Paho")[0]) if "_" in name and name != "test_"}
    assert len(named) > 100
    assert sorted(named - tests) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_statement_is_listed_once_with_a_test_or_a_reason(text: str, section: str) -> None:
    page = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = ROW.findall(page)
    listed = [statement for statement, _, _ in rows]
    listed += re.findall(r"MQTT-[\d.]+-\d+", page.split("About clients alone:")[1].split("There is no")[0])
    assert len(listed) == len(set(listed)) == SECTIONS[section]
    assert [statement for statement, _, tests in rows if not tests.strip()] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_no_number_is_left_out(text: str, section: str) -> None:
    page = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    numbers: dict[str, set[int]] = {}
    for chapter, number in re.findall(r"MQTT-([\d.]+)-(\d+)", page):
        numbers.setdefault(chapter, set()).add(int(number))
    assert {chapter: found for chapter, found in numbers.items() if found != {*range(1, max(found) + 1)}} == {}
