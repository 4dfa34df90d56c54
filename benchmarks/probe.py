"""What a run costs: processor time and memory of the broker, read from ``/proc`` (Linux).

Messages a second depend on what else the machine does. The processor time that the broker takes for a
million of them hardly does, so that is what the benchmarks compare. ``utime`` and ``stime`` of
``/proc/PID/stat`` count all threads, in ticks of 10 ms: a run should cost a second of it or more.

``other_cpu`` is the share of all cores that processes other than broker and generator took during
the run. Distrust the msgs/s of a run where it is large.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

__all__ = ["Probe", "cpu_seconds", "hard_limit", "percentile", "resident_kib"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_HARD_LIMIT_MARGIN_S: Final = 15


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of ``pid``, in user and system mode, since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before it may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_kib(pid: int) -> int:
    """Resident memory of ``pid``."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no memory: it has ended")


def _busy_seconds() -> float:
    """Processor time of the whole machine: user, nice and system."""
    with open("/proc/stat") as file:
        return sum(int(field) for field in file.readline().split()[1:4]) / _TICKS_PER_S


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of ``values``, which are sorted and not empty, do not exceed."""
    return values[min(len(values) - 1, int(len(values) * share))]


def hard_limit(seconds: float) -> None:
    """End this process if it is still there well after ``seconds``, whatever it is doing."""

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"not done {_HARD_LIMIT_MARGIN_S} s after its time limit of {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(int(seconds) + _HARD_LIMIT_MARGIN_S)


class Probe:
    """A measurement, from making it to :meth:`stop`. ``broker``: its process id, or None if it is not known."""

    def __init__(self, broker: int | None) -> None:
        self._broker = broker
        self._broker_start = cpu_seconds(broker) if broker else 0.0
        self._busy_start = _busy_seconds()
        self._own_start = time.process_time()
        self._start = time.perf_counter()

    def stop(self, messages: int) -> dict[str, float | int]:
        """The figures of a run of so many messages."""
        seconds = time.perf_counter() - self._start
        own = time.process_time() - self._own_start
        used = cpu_seconds(self._broker) - self._broker_start if self._broker else 0.0
        others = max(0.0, _busy_seconds() - self._busy_start - own - used)
        figures: dict[str, float | int] = {
            "msgs": messages,
            "secs": round(seconds, 3),
            "msgs_s": round(messages / seconds),
            "generator_cpu_s": round(own, 2),
            "other_cpu": round(others / seconds / (os.cpu_count() or 1), 2),
        }
        if self._broker:
            figures["broker_cpu_s"] = round(used, 2)
            figures["broker_cpu_s_per_million"] = round(used / messages * 1e6, 2)
            figures["broker_rss_kib"] = resident_kib(self._broker)
        return figures
