"""The store keeps the promises of every store, and survives being cut off or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from trunkline.disk import RealDisk
from trunkline.errors import CorruptLog
from trunkline.log import Log, Store, StoreContext, TopicPartition
from trunkline.plugins import PluginHost
from trunkline.records import decode_all
from trunkline.settings import TopicSettings
from trunkline.testing import PowerLost, SimulatedDisk, StoreCompliance, crash_model, make_batch

import trunkline_shoebox
from trunkline_shoebox.store import ShoeboxStore

NAME = TopicPartition("orders", 0)
DIRECTORY = Path("/data/shoebox")


class TestShoeboxStore(StoreCompliance):
    @pytest.fixture
    def store_factory(self) -> Callable[[Path], Store]:
        return make_store


def make_store(directory: Path) -> Store:
    return ShoeboxStore(StoreContext(directory, RealDisk()))


def open_log(directory: Path) -> Log:
    return make_store(directory).open(NAME, TopicSettings())


def values(log: Log) -> list[bytes | None]:
    return [record.value for record in decode_all(log.read(log.start_offset, 1 << 20, log.end_offset))]


def test_the_plugin_offers_the_store() -> None:
    host = PluginHost()
    host.add("shoebox", trunkline_shoebox)
    assert set(host.stores) == {"shoebox"}


class Machine(crash_model.Machine):
    """The store on a simulated disk that loses power and fills up."""

    lost = (PowerLost,)

    def __init__(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed)

    def open(self) -> Store:
        self.disk.make_directory(DIRECTORY)
        return ShoeboxStore(StoreContext(DIRECTORY, self.disk))

    def arm(self, random: Random) -> None:
        self.disk.crash_after(random.randint(1, 60))

    def crash(self, random: Random) -> None:
        self.disk.capacity_bytes = None
        self.disk.crash()

    def fill_up(self, random: Random) -> None:
        self.disk.capacity_bytes = self.disk.used_bytes + random.randint(0, 4000)

    def make_room(self) -> None:
        self.disk.capacity_bytes = None


@pytest.mark.parametrize("seed", range(30))
def test_what_was_flushed_survives_crashes(seed: int) -> None:
    crash_model.CrashModel(Machine(seed), seed).run(crashes=10)


def test_whatever_a_crash_cuts_off_the_batches_before_it_are_there(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.append([make_batch(0, b"a"), make_batch(1, b"b")])
    log.flush()
    last = make_batch(2, b"c")
    log.append([last])
    file = tmp_path / "log" / "orders-0" / "records.0"
    whole = file.stat().st_size
    for missing in range(1, len(last) + 1):
        copy = tmp_path / str(missing)
        shutil.copytree(tmp_path / "log", copy)
        with (copy / "orders-0" / "records.0").open("r+b") as cut:
            cut.truncate(whole - missing)
        opened = open_log(copy)
        assert (values(opened), opened.end_offset) == ([b"a", b"b"], 2)
        opened.append([make_batch(2, b"again")])
        opened.close()
        assert values(open_log(copy)) == [b"a", b"b", b"again"]


@pytest.mark.parametrize("position", [0, 7, 8, 16, 20, 60, -1])
def test_damage_to_what_was_durable_is_no_torn_tail(tmp_path: Path, position: int) -> None:
    log = open_log(tmp_path)
    log.append([make_batch(0, b"a")])
    log.close()
    file = tmp_path / "orders-0" / "records.0"
    contents = bytearray(file.read_bytes())
    contents[position] ^= 0x40
    file.write_bytes(contents)

    with pytest.raises(CorruptLog) as caught:
        open_log(tmp_path)
    assert (caught.value.file, caught.value.position) == (str(file), 0)
    assert file.read_bytes() == contents


def test_a_file_that_lost_its_end_is_damaged(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append([make_batch(0, b"a"), make_batch(1, b"b")])
    log.close()
    with (tmp_path / "orders-0" / "records.0").open("r+b") as cut:
        cut.truncate(len(make_batch(0, b"a")))

    with pytest.raises(CorruptLog, match="had been synced"):
        open_log(tmp_path)


def test_trimming_gives_space_back(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append([make_batch(offset, size=1000) for offset in range(100)])
    log.trim(90)
    log.close()

    files = [*(tmp_path / "orders-0").glob("records.*")]
    assert [file.name for file in files] == ["records.1"]
    assert files[0].stat().st_size <= 11 * 1000
