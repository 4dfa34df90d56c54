"""The weather data as series of readings, one for each station and measure.

A series is one MQTT topic, and its readings are numbered from 0: topic and number say which reading a
message holds, whatever happens to it on the way. The payload is JSON, as sensors often send it::

    weather/seattle/temp_max    {"n": 0, "date": "2012-01-01", "value": 12.8}
"""

from __future__ import annotations

import csv
import json
from importlib import resources
from typing import Final, NamedTuple

__all__ = ["MEASURES", "TOPIC_PREFIX", "ReadingId", "Series", "load_series", "reading_id", "shares"]

TOPIC_PREFIX: Final = "weather"
MEASURES: Final = ("precipitation", "temp_max", "temp_min", "wind")

ReadingId = tuple[str, int]
"""MQTT topic and number."""


class Series(NamedTuple):
    """What one sensor reports: a value a day. After the last day it starts again, with the numbers going on."""

    topic: str
    days: list[tuple[str, float]]

    def payload(self, n: int) -> bytes:
        """Reading number ``n``."""
        date, value = self.days[n % len(self.days)]
        return json.dumps({"n": n, "date": date, "value": value}).encode()


def load_series() -> list[Series]:
    """One series for every station and measure of the data set."""
    found: dict[str, Series] = {}
    text = resources.files(__package__).joinpath("weather.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        station = row["location"].lower().replace(" ", "-")
        for measure in MEASURES:
            topic = f"{TOPIC_PREFIX}/{station}/{measure}"
            series = found.setdefault(topic, Series(topic, []))
            series.days.append((row["date"], float(row[measure])))
    return list(found.values())


def shares(total: int, parts: int) -> list[int]:
    """``total`` split into whole parts that differ by one at most."""
    each, rest = divmod(total, parts)
    return [each + (position < rest) for position in range(parts)]


def reading_id(topic: bytes | None, payload: bytes | None) -> ReadingId | None:
    """Which reading a record holds, or None if it is something else."""
    if topic is None or payload is None or not topic.startswith(f"{TOPIC_PREFIX}/".encode()):
        return None
    try:
        return topic.decode(), int(json.loads(payload)["n"])
    except (ValueError, KeyError, TypeError):
        return None
