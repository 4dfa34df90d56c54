"""Topics moved between stores: what stays the same, and what an interruption leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from trunkline.broker import open_broker
from trunkline.errors import ConfigurationError, CorruptLog, DataDirectoryLocked, StoreFull, UnknownTopic
from trunkline.hookspecs import RegisterStore, hookimpl
from trunkline.log import Log, SavedState, TopicPartition
from trunkline.memory_log import MemoryLog
from trunkline.offline import OfflineData, open_offline
from trunkline.plugins import PluginHost
from trunkline.records import (
    HEADER_BYTES,
    BatchHeader,
    decode,
    encode,
    iter_headers,
    read_header,
    with_records,
)
from trunkline.settings import TopicSettings
from trunkline.store_conversion import Conversion
from trunkline.testing.memory_store import MemoryStore

NAME = TopicPartition("orders", 0)
RECORDS = [(1_000, b"key", b"x" * 50, (("name", b"\x00\xff"), ("name", None))), (900, None, None, ())]


def thinned(batch: bytes, last_offset_delta: int) -> bytes:
    """The batch, as if it had had more records."""
    header = read_header(batch)._replace(last_offset_delta=last_offset_delta)
    return with_records(header, batch[HEADER_BYTES:])


def awkward_batches() -> list[bytes]:
    """One of each kind that a log may hold, with gaps between them."""
    nonsense = encode(RECORDS, base_offset=60, leader_epoch=3)
    nonsense = with_records(read_header(nonsense), b"\xff" * (len(nonsense) - HEADER_BYTES))
    return [
        encode(RECORDS, base_offset=10, leader_epoch=1),
        encode(RECORDS, base_offset=12, leader_epoch=1, compression=1),
        encode(RECORDS * 4, base_offset=30, leader_epoch=2, producer_id=7, producer_epoch=1, base_sequence=4),
        thinned(encode(RECORDS, base_offset=40, leader_epoch=2), 9),
        encode(RECORDS, base_offset=50, leader_epoch=3, producer_id=9, producer_epoch=0, base_sequence=0,
               is_transactional=True),
        encode([(1, b"\0\0\0\1", b"\0" * 6, ())], base_offset=52, leader_epoch=3, producer_id=9, producer_epoch=0,
               is_transactional=True, is_control=True),
        nonsense,
        encode(RECORDS, base_offset=5_000_000_000, leader_epoch=3, append_time=77),
    ]  # fmt: skip


async def make_topic(data: Path, store: str, *, settings: dict[str, str] | None = None, partitions: int = 1) -> None:
    async with open_broker(data, store=store) as broker:
        await broker.create_topic("orders", partitions=partitions, settings=settings or {})


def fill(data: Path, store: str, batches: Sequence[bytes], *, start: int = 0, state: bytes = b"") -> None:
    with (
        open_offline(data) as offline,
        closing(offline.store(store).open(NAME, TopicSettings(segment_bytes=1024))) as log,
    ):
        for batch in batches:
            log.append([batch])
        log.flush()
        log.trim(start)
        if state:
            log.save_state(SavedState(log.end_offset, state))


def convert(data: Path, target: str, *names: str, keep: bool = False, host: PluginHost | None = None) -> None:
    with open_offline(data, host=host) as offline:
        conversion = Conversion(offline, target, keep=keep)
        conversion.settle()
        for topic in conversion.topics(names):
            conversion.run(topic)


@contextmanager
def opened(data: Path, *, host: PluginHost | None = None) -> Iterator[Log]:
    """The log ``orders/0``, wherever it is now."""
    with open_offline(data, host=host) as offline:
        topic = offline.topic("orders")
        with closing(offline.store(topic.storage).open(NAME, topic.parsed_settings)) as log:
            yield log


def contents(log: Log) -> list[tuple[BatchHeader, object]]:
    """Each batch: its header without what compression changes, and its records, or its bytes if it has none to read."""
    found: list[tuple[BatchHeader, object]] = []
    offset = log.start_offset
    while offset < log.end_offset and (data := log.read(offset, 1 << 20, log.end_offset)):
        for position, header in iter_headers(data):
            batch = data[position : position + header.size_bytes]
            what = batch if header.base_offset == 60 else decode(batch)
            plain = header._replace(
                crc=0, batch_length=0, attributes=header.attributes - header.compression, base_timestamp=0
            )
            found.append((plain, what))
            offset = header.next_offset
    return found


def storage_of(data: Path) -> str:
    with open_offline(data) as offline:
        assert offline.entries("conversions/") == {}
        return offline.topic("orders").storage


def left_in(data: Path, store: str) -> list[TopicPartition]:
    with open_offline(data) as offline:
        return offline.store(store).list()


@pytest.mark.parametrize(("source", "target"), [("segments", "sqlite"), ("sqlite", "segments")])
def test_every_kind_of_batch_stays_what_it_is(tmp_path: Path, source: str, target: str) -> None:
    trio.run(make_topic, tmp_path, source)
    fill(tmp_path, source, awkward_batches(), start=10, state=b"producers")
    with opened(tmp_path) as log:
        before = (log.start_offset, log.end_offset, log.load_state(), contents(log))
    convert(tmp_path, target)
    with opened(tmp_path) as log:
        assert (log.start_offset, log.end_offset, log.load_state(), contents(log)) == before
    assert (storage_of(tmp_path), left_in(tmp_path, source)) == (target, [])


@pytest.mark.parametrize(("source", "target"), [("segments", "sqlite"), ("sqlite", "segments")])
def test_a_log_that_starts_inside_a_batch_or_is_empty_keeps_its_ends(tmp_path: Path, source: str, target: str) -> None:
    trio.run(make_topic, tmp_path, source)
    fill(tmp_path, source, awkward_batches(), start=33)
    convert(tmp_path, target)
    with opened(tmp_path) as log:
        assert (log.start_offset, log.end_offset) == (33, 5_000_000_002)
        assert log.read(33, 1, log.end_offset)[:8] == (30).to_bytes(8, "big")
        log.trim(log.end_offset)
    convert(tmp_path, source)
    with opened(tmp_path) as log:
        assert (log.start_offset, log.end_offset) == (5_000_000_002, 5_000_000_002)


def test_offsets_that_are_missing_at_the_end_are_not_used_again(tmp_path: Path) -> None:
    trio.run(make_topic, tmp_path, "sqlite")
    fill(tmp_path, "sqlite", awkward_batches())
    with opened(tmp_path) as log:
        log.rewrite(log.end_offset, lambda batch: batch if read_header(batch).base_offset < 30 else None)
    convert(tmp_path, "segments")
    with opened(tmp_path) as log:
        assert log.end_offset == 5_000_000_002
        assert [header.base_offset for header, records in contents(log) if records] == [10, 12]


def test_a_converted_topic_is_used_as_before(tmp_path: Path) -> None:
    async def use(store: str, expected: int) -> None:
        async with open_broker(tmp_path) as broker:
            assert (await broker.publish("orders", b"%d" % expected)).offset == expected
            values = [record.value async for record in broker.read("orders", follow=False)]
            assert values == [b"%d" % number for number in range(expected + 1)]
            assert broker.topic("orders").settings.storage == store

    trio.run(lambda: make_topic(tmp_path, "segments", settings={"storage": "segments"}))
    for number, store in enumerate(("sqlite", "segments", "sqlite")):
        trio.run(use, "segments" if number % 2 == 0 else "sqlite", number)
        convert(tmp_path, store)
    trio.run(use, "sqlite", 3)


def test_kept_logs_are_in_the_way_of_going_back(tmp_path: Path) -> None:
    trio.run(make_topic, tmp_path, "segments")
    fill(tmp_path, "segments", awkward_batches())
    convert(tmp_path, "sqlite", keep=True)
    assert left_in(tmp_path, "segments") == [NAME]
    with pytest.raises(ConfigurationError, match="already holds 1 logs of orders"):
        convert(tmp_path, "segments")
    assert storage_of(tmp_path) == "sqlite"


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no broker's data directory"):
        convert(tmp_path, "sqlite")
    trio.run(make_topic, tmp_path, "segments")
    with pytest.raises(UnknownTopic):
        convert(tmp_path, "sqlite", "invoices")
    with open_offline(tmp_path), pytest.raises(DataDirectoryLocked):
        convert(tmp_path, "sqlite")


class _Odd(MemoryStore):
    """Does something wrong with what is appended."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    def open(self, name: TopicPartition, settings: TopicSettings) -> Log:
        log = super().open(name, settings)
        assert isinstance(log, MemoryLog)
        log.__class__ = {"full": _FullLog, "forgetful": _ForgetfulLog}[self._fault]
        return log


class _FullLog(MemoryLog):
    def append(self, batches: Sequence[bytes]) -> None:
        if self.end_offset:
            raise StoreFull("full")
        super().append(batches[:1])
        raise StoreFull("full")


class _ForgetfulLog(MemoryLog):
    def append(self, batches: Sequence[bytes]) -> None:
        for batch in batches:
            header = read_header(batch)
            kept = [(record.timestamp, record.key, record.value, ()) for record in decode(batch)]  # no headers
            super().append([encode(kept, base_offset=header.base_offset, leader_epoch=header.leader_epoch)])


class _OddPlugin:
    @hookimpl
    def register_stores(self, register: RegisterStore) -> None:
        register("full", lambda context: _Odd("full"))
        register("forgetful", lambda context: _Odd("forgetful"))


@pytest.mark.parametrize(("target", "error"), [("full", StoreFull), ("forgetful", CorruptLog)])
def test_a_copy_that_fails_or_is_not_the_same_leaves_the_topic_where_it_is(
    tmp_path: Path, target: str, error: type[Exception]
) -> None:
    host = PluginHost()
    host.add("odd", _OddPlugin())
    trio.run(make_topic, tmp_path, "segments")
    fill(tmp_path, "segments", awkward_batches()[:2])
    with open_offline(tmp_path, host=host) as offline:
        conversion = Conversion(offline, target)
        with pytest.raises(error):
            conversion.run(offline.topic("orders"))
        assert offline.store(target).list() == []
    assert storage_of(tmp_path) == "segments"
    with opened(tmp_path) as log:
        assert len(contents(log)) == 2


def test_a_damaged_original_is_not_copied(tmp_path: Path) -> None:
    trio.run(make_topic, tmp_path, "segments")
    fill(tmp_path, "segments", awkward_batches())
    path = sorted((tmp_path / "segments" / "orders-0").glob("*.log"))[1]
    data = bytearray(path.read_bytes())
    data[80] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match="damaged at offset"):
        convert(tmp_path, "sqlite")
    assert (storage_of(tmp_path), left_in(tmp_path, "sqlite")) == ("segments", [])


def test_too_little_room_is_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.run(make_topic, tmp_path, "segments")
    fill(tmp_path, "segments", awkward_batches())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(StoreFull, match="only 100 are free"):
        convert(tmp_path, "sqlite")
    monkeypatch.undo()
    assert left_in(tmp_path, "sqlite") == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from trunkline.offline import open_offline
from trunkline.store_conversion import Conversion

left = int(sys.argv[2])

def step(*args):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

with open_offline(Path(sys.argv[1])) as data:
    write, remove = data.write, data.store("segments").delete
    def write_or_die(*args):
        step()
        return write(*args)
    def remove_or_die(name):
        step()
        remove(name)
    data.write, data.store("segments").delete = write_or_die, remove_or_die
    conversion = Conversion(data, "sqlite", progress=step)
    for topic in conversion.topics():
        conversion.run(topic)
"""


def test_killed_at_any_step_the_topic_is_whole_and_the_next_conversion_goes_through(tmp_path: Path) -> None:
    pristine = tmp_path / "pristine"
    trio.run(lambda: make_topic(pristine, "segments", partitions=2))
    fill(pristine, "segments", awkward_batches()[:3], start=12, state=b"producers")
    with opened(pristine) as log:
        before = contents(log)
    storages = []
    for steps in range(100):
        data = tmp_path / f"killed-{steps}"
        shutil.copytree(pristine, data)
        done = subprocess.run([sys.executable, "-c", _KILLED, str(data), str(steps)], check=False, timeout=60)
        with opened(data) as log:
            assert contents(log) == before
        with open_offline(data) as offline:
            storages.append(offline.topic("orders").storage)
        convert(data, "sqlite")
        with opened(data) as log:
            assert (contents(log), log.load_state()) == (before, SavedState(38, b"producers"))
        assert (storage_of(data), left_in(data, "segments")) == ("sqlite", [])
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert storages == sorted(storages), "segments up to some step, sqlite from then on"
    assert len(storages) > 8


def test_a_topic_of_which_a_removed_one_left_copies_behind(tmp_path: Path) -> None:
    trio.run(make_topic, tmp_path, "segments")
    with open_offline(tmp_path) as offline:
        leave_copies(offline)
        key = "topics/orders"
        offline.write(key, None, offline.entries(key)[key].revision)
        assert Conversion(offline, "sqlite").settle() == ["orders"]
        assert offline.store("sqlite").list() == []


def leave_copies(offline: OfflineData) -> None:
    """As a conversion to SQLite that was killed leaves them."""
    offline.write("conversions/orders", {"from": "segments", "to": "sqlite", "keep": False}, 0)
    offline.store("sqlite").open(NAME, TopicSettings()).close()
