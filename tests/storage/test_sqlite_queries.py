"""What docs/store-sqlite.md shows works on the file of a running broker, and by the indexes it names."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trunkline.testing.background import BackgroundBroker
from trunkline_sqlite.settings import SqliteSettings

PAGE = Path(__file__).parents[2] / "docs" / "store-sqlite.md"
QUERIES = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
LAST, ONE_DEVICE, MEAN, BY_HEADER, SIZES = QUERIES


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a broker that is running; two of its three devices have a name."""
    data = tmp_path_factory.mktemp("data")
    with BackgroundBroker(data, store="sqlite") as broker:
        for number in range(6):
            value = b'{"temperature": %d}' % (20 + number)
            key = (b"kitchen", b"cellar")[number % 2]
            broker.publish("sensors", value, key=key, headers=[("trace", b"7f3%x" % number)])
        broker.publish("sensors", b"\xff\x00", headers=[("trace", b"7f3a")])
        yield data / "sqlite" / "trunkline.db"


@pytest.fixture
def connection(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, query: str) -> str:
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))


def test_what_each_device_said_last(connection: sqlite3.Connection) -> None:
    assert connection.execute(LAST).fetchall() == [
        ("cellar", '{"temperature": 25}', 5),
        ("kitchen", '{"temperature": 24}', 4),
    ]
    assert "records_by_key" in plan(connection, LAST)


def test_everything_of_one_device(connection: sqlite3.Connection) -> None:
    rows = connection.execute(ONE_DEVICE).fetchall()
    assert [value for _, value in rows] == [f'{{"temperature": {n}}}' for n in (24, 22, 20)]
    assert {when[:4] for when, _ in rows} <= {time.strftime("%Y", time.gmtime(time.time() - s)) for s in (0, 3600)}
    assert "records_by_key (topic=? AND key=?)" in plan(connection, ONE_DEVICE)


def test_the_mean_of_the_last_hour(connection: sqlite3.Connection) -> None:
    assert sorted(connection.execute(MEAN).fetchall()) == [("cellar", 3, 23.0), ("kitchen", 3, 22.0)]
    assert "records_by_time (topic=? AND timestamp>?)" in plan(connection, MEAN)


def test_the_records_with_a_header(connection: sqlite3.Connection) -> None:
    assert connection.execute(BY_HEADER).fetchall() == [("sensors", 0, 6, b"\xff\x00")]


def test_how_much_each_topic_holds(connection: sqlite3.Connection) -> None:
    found = {topic: rest for topic, *rest in connection.execute(SIZES).fetchall()}
    offsets, size_bytes, since = found["sensors"]
    assert offsets == 7
    assert 7 * 16 < size_bytes < 1000
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", since)


def test_a_record_is_found_by_its_offset_directly(connection: sqlite3.Connection) -> None:
    query = "SELECT value FROM records WHERE topic = 'sensors' AND partition = 0 AND offset = 3"
    assert connection.execute(query).fetchall() == [('{"temperature": 23}',)]
    assert "(topic=? AND partition=? AND offset=?)" in plan(connection, query)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_sqlite_utils_reads_it(database: Path) -> None:
    command = [sys.executable, "-m", "sqlite_utils", "rows", str(database), "records", "--where", "topic='sensors'"]
    rows: list[dict[str, Any]] = json.loads(run(*command, "--limit", "1"))
    assert [(row["offset"], row["key"], row["headers"]) for row in rows] == [(0, "kitchen", '{"trace": "7f30"}')]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 shell is not installed")
def test_the_sqlite3_shell_reads_it(database: Path) -> None:
    assert run("sqlite3", str(database), "SELECT count(*) FROM records WHERE topic = 'sensors'") == "7\n"


def test_every_setting_is_documented() -> None:
    missing = [name for name in SqliteSettings.__struct_fields__ if f"| `{name}` |" not in PAGE.read_text()]
    assert missing == []
