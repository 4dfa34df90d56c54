"""``trunkline demo``: the real thing with fewer readings, and its account on made-up notes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from trunkline import open_broker
from trunkline.demo.readers import Notes
from trunkline.demo.readings import ReadingId, load_series, reading_id, shares
from trunkline.demo.tally import tally

DEMO = [sys.executable, "-m", "trunkline.cli", "demo"]
TIMEOUT_S = 120
DATA = Path(__file__).parents[1] / "examples" / "data"

SERIES = [
    f"weather/{station}/{measure}"
    for station in ("seattle", "new-york")
    for measure in ("precipitation", "temp_max", "temp_min", "wind")
]


# -- the data --------------------------------------------------------------------------------------


def test_the_data_set_is_a_series_for_each_station_and_measure() -> None:
    series = load_series()
    assert [found.topic for found in series] == SERIES
    assert {len(found.days) for found in series} == {1461}  # four years
    assert json.loads(series[1].payload(0)) == {"n": 0, "date": "2012-01-01", "value": 12.8}


def test_a_series_starts_again_after_its_last_day_with_the_numbers_going_on() -> None:
    series = load_series()[0]
    assert json.loads(series.payload(1461)) == json.loads(series.payload(0)) | {"n": 1461}


def test_the_data_file_is_the_one_whose_source_is_documented() -> None:
    contents = (DATA / "weather.csv").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()
    assert blob in (DATA / "README.md").read_text()


def test_a_number_of_readings_is_shared_out_evenly() -> None:
    assert shares(10, 4) == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b'{"n": 1}'),
        (b"other/topic", b'{"n": 1}'),
        (b"weather/seattle/wind", None),
        (b"weather/seattle/wind", b"\xff"),
        (b"weather/seattle/wind", b"[]"),
        (b"weather/seattle/wind", b"{}"),
    ],
)
def test_what_is_no_reading_is_not_counted(key: bytes | None, value: bytes | None) -> None:
    assert reading_id(key, value) is None


# -- the account -----------------------------------------------------------------------------------


def notes_of(*readings: tuple[str, int]) -> Notes:
    notes = Notes({0: 0})
    notes.readings = Counter(readings)
    notes.records = len(readings)
    return notes


def test_an_acknowledged_reading_that_one_reader_misses_is_lost() -> None:
    both, one = notes_of(("t", 0), ("t", 1)), notes_of(("t", 0))
    count = tally(2, {("t", 0), ("t", 1)}, {"a": both, "b": one})
    assert count.lost == 1
    assert not count.is_kept


def test_a_reading_that_was_never_acknowledged_is_not_lost_but_open() -> None:
    count = tally(2, {("t", 0)}, {"a": notes_of(("t", 0))})
    assert (count.lost, count.unacknowledged) == (0, 1)
    assert not count.is_kept


def test_a_second_record_of_a_reading_is_a_duplicate_and_no_fault() -> None:
    count = tally(1, {("t", 0)}, {"a": notes_of(("t", 0), ("t", 0))})
    assert count.duplicated == 1
    assert count.is_kept


# -- the demo itself -------------------------------------------------------------------------------


def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_midway(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--records", "2000", "--data", str(tmp_path / "data"), "--json"],
        capture_output=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    result = json.loads(done.stdout)
    count = result["tally"]
    assert (count["acknowledged"], count["lost"], count["out_of_order"]) == (2000, 0, 0)
    assert result["interruption"]["acknowledged_before"] == 1000
    assert set(count["read"].values()) == {2000 + count["duplicated"]}
    assert result["segments"] >= 1
    returned = result["returned"]
    assert (returned["topic"], returned["missing"]) == ("weather/seattle/wind", 0)
    assert returned["received"] >= 250

    kept = trio.run(readings_in, tmp_path / "data")  # the data directory outlives the demo
    assert len(kept) == 2000 + count["duplicated"]
    assert len(set(kept)) == 2000


async def readings_in(data: Path) -> list[ReadingId | None]:
    async with open_broker(data) as broker:
        return [reading_id(record.key, record.value) async for record in broker.read("mqtt", follow=False)]


def test_in_a_pipe_it_writes_plain_lines_and_the_count() -> None:
    done = subprocess.run(
        [*DEMO, "--seconds", "1", "--devices", "3", "--no-kill"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^lost +0 ", done.stdout, re.MULTILINE)
    assert "3 MQTT devices" in done.stdout
    assert "killed" not in done.stdout
    assert "\x1b" not in done.stdout
    assert re.search(r"the device is back: [1-9][\d,]* messages had waited", done.stdout)


def test_a_signal_ends_it_and_its_broker() -> None:
    with subprocess.Popen([*DEMO, "--seconds", "100"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        ready = re.search(r"broker (\d+) is ready", running.stdout.readline())
        assert ready is not None
        running.send_signal(signal.SIGTERM)
        assert running.wait(TIMEOUT_S) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(ready[1]), 0)


def test_a_broker_that_cannot_start_is_reported_with_its_own_words() -> None:
    done = subprocess.run(
        [*DEMO, "--store", "attic"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert "unknown store 'attic'" in done.stderr
