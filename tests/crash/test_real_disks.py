"""Real file systems that fill up or turn read-only under a real broker; mounting them needs root.

Without root the tests are skipped, also where ``CI`` is set: no dependency is missing then, only the right to mount.
With root a mount that fails is an error there, and a skip elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

import trunkline
from trunkline.demo.broker_process import BrokerProcess, BrokerProcessFailed
from trunkline.errors import StoreFull, TrunklineError
from trunkline_mqtt.decoder import Decoder
from trunkline_mqtt.encoder import encode
from trunkline_mqtt.packets import Connack, Connect, Packet, Puback, Publish

pytestmark = [pytest.mark.trio, pytest.mark.slow]

WAIT_S = 60.0  # for anything at all to happen
REFUSED_WITHIN_S = 1.0
SIZE_MIB = 16
VALUE_BYTES = 100_000


class FileSystem(NamedTuple):
    """A mounted file system of 16 MiB."""

    kind: str
    path: Path
    image: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def leave_little_room(self) -> None:
        """Room for a few records."""
        free = os.statvfs(self.path)
        self._ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - 1024 * 1024))

    def leave_no_room(self) -> None:
        """Not for a single byte."""
        with (self.path / "more ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(512)):
                pass

    def make_room(self) -> None:
        self._ballast.unlink()

    def mount(self) -> None:
        if self.kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", self.path)
        else:
            run("mount", "-o", "loop,errors=remount-ro", self.image, self.path)

    def find_an_error(self) -> None:
        """Let the kernel believe so (ext4)."""
        device = next(
            line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if str(self.path) in line
        )
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    def repair(self) -> None:
        """As whoever runs the machine would."""
        run("umount", self.path)
        subprocess.run(["e2fsck", "-fy", self.image], capture_output=True, timeout=WAIT_S, check=False)
        self.mount()


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def mounted(kind: str, directory: Path) -> Iterator[FileSystem]:
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    system = FileSystem(kind, directory / "mounted", directory / "image")
    system.path.mkdir()
    try:
        if kind == "ext4":
            with system.image.open("wb") as image:
                image.truncate(SIZE_MIB * 1024 * 1024)
            run("mkfs.ext4", "-q", "-F", "-m", "0", system.image)
        system.mount()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{kind} cannot be mounted here: {error}")
    try:
        yield system
    finally:
        run("umount", system.path)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSystem]:
    with mounted(request.param, tmp_path) as system:
        yield system


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[FileSystem]:
    with mounted("ext4", tmp_path) as system:
        yield system


class Ledger:
    """What two clients published to a broker, each to a topic of its own, and what of it was acknowledged."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self.acknowledged: dict[str, list[bytes]] = {"orders": [], "mqtt": []}
        self.refusals: list[TrunklineError] = []

    async def publish_natively(self) -> bool:
        """Whether it was acknowledged; a refusal is kept and has come at once, not after the delivery timeout."""
        value = os.urandom(VALUE_BYTES)
        async with trunkline.connect(self._broker.url) as bus:
            try:
                with trio.fail_after(REFUSED_WITHIN_S):
                    await bus.publish("orders", value)
            except StoreFull as error:
                self.refusals.append(error)
                return False
        self.acknowledged["orders"].append(value)
        return True

    async def publish_by_mqtt(self) -> bool:
        """Whether it was acknowledged; else the connection was closed, at once."""
        value = os.urandom(VALUE_BYTES)
        with trio.fail_after(REFUSED_WITHIN_S):
            is_acknowledged = await publish_at_qos_1(self._broker.address("mqtt"), value)
        if is_acknowledged:
            self.acknowledged["mqtt"].append(value)
        return is_acknowledged

    async def publish_until_refused(self) -> None:
        """By both doors."""
        while await self.publish_natively():
            pass
        while await self.publish_by_mqtt():
            pass

    async def check(self) -> None:
        """Everything acknowledged is there once, in order, and nothing else is."""
        async with trunkline.connect(self._broker.url) as bus:
            for topic, values in self.acknowledged.items():
                async with bus.read(topic) as reader:
                    assert [record.value async for record in reader] == values


async def publish_at_qos_1(address: tuple[str, int], payload: bytes) -> bool:
    """Publish one message as an MQTT client; whether there was a PUBACK, else the connection was closed."""
    async with await trio.open_tcp_stream(*address) as stream:
        decoder = Decoder()
        await stream.send_all(encode(Connect("sensor")))
        assert await receive(stream, decoder) == Connack()
        await stream.send_all(encode(Publish("measured", payload, qos=1, packet_id=1)))
        answer = await receive(stream, decoder)
    assert answer in (None, Puback(1))
    return answer is not None


async def receive(stream: trio.SocketStream, decoder: Decoder) -> Packet | None:
    """The next packet, or None at the end of the connection."""
    while (packet := decoder.next_event()) is None:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError:
            return None
        if not data:
            return None
        decoder.receive_data(bytes(data))
    return packet


@pytest.fixture(params=["segments", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def broker(small_disk: FileSystem, store: str) -> AsyncIterator[BrokerProcess]:
    with trio.fail_after(WAIT_S):
        async with BrokerProcess.open(small_disk.path / "data", store=store) as running:
            yield running


async def test_a_full_disk_refuses_records_until_there_is_room(small_disk: FileSystem, broker: BrokerProcess) -> None:
    ledger = Ledger(broker)
    assert await ledger.publish_natively()
    assert await ledger.publish_by_mqtt()
    small_disk.leave_little_room()
    await ledger.publish_until_refused()
    assert "disk is full" in str(ledger.refusals[0])
    await ledger.check()
    assert not await ledger.publish_natively()
    assert not await ledger.publish_by_mqtt()

    small_disk.make_room()

    assert await ledger.publish_natively()
    assert await ledger.publish_by_mqtt()
    await ledger.check()


async def test_what_was_acknowledged_on_a_full_disk_outlives_a_kill(
    small_disk: FileSystem, broker: BrokerProcess
) -> None:
    ledger = Ledger(broker)
    assert await ledger.publish_by_mqtt()
    small_disk.leave_little_room()
    await ledger.publish_until_refused()
    small_disk.make_room()
    assert await ledger.publish_natively()
    small_disk.leave_little_room()
    await ledger.publish_until_refused()
    broker.kill()
    await broker.wait_ended()
    small_disk.make_room()

    await broker.start()

    await ledger.check()
    assert await ledger.publish_natively()
    await ledger.check()


async def test_a_broker_starts_and_is_read_on_a_full_disk(small_disk: FileSystem, broker: BrokerProcess) -> None:
    ledger = Ledger(broker)
    assert await ledger.publish_by_mqtt()
    small_disk.leave_little_room()
    await ledger.publish_until_refused()
    broker.kill()
    await broker.wait_ended()
    small_disk.leave_no_room()

    await broker.start()

    await ledger.check()


async def test_a_file_system_that_turns_read_only_refuses_records_and_is_read(ext4: FileSystem, store: str) -> None:
    """ext4 does so by itself when it finds an error, with ``errors=remount-ro``."""
    with trio.fail_after(WAIT_S):
        async with BrokerProcess.open(ext4.path / "data", store=store) as broker:
            ledger = Ledger(broker)
            assert await ledger.publish_natively()
            assert await ledger.publish_by_mqtt()
            ext4.find_an_error()
            assert not await ledger.publish_natively()
            assert not await ledger.publish_by_mqtt()
            assert "the file system is read-only" in str(ledger.refusals[0])
            await ledger.check()
            broker.kill()
            await broker.wait_ended()

            ext4.repair()
            await broker.start()

            await ledger.check()
            assert await ledger.publish_natively()
            await ledger.check()


async def test_a_file_system_cannot_be_remounted_read_only_under_a_broker(
    small_disk: FileSystem, broker: BrokerProcess
) -> None:
    """It holds files open for writing, so the kernel refuses, and nothing is lost."""
    with pytest.raises(OSError, match="busy"):
        run("mount", "-o", "remount,ro", small_disk.path)
    assert await Ledger(broker).publish_natively()


async def test_a_broker_does_not_start_on_a_read_only_file_system(small_disk: FileSystem) -> None:
    run("mount", "-o", "remount,ro", small_disk.path)
    with pytest.raises(ExceptionGroup) as raised:
        async with BrokerProcess.open(small_disk.path / "data"):
            pass
    assert raised.group_contains(BrokerProcessFailed, match="Read-only file system; choose one that can be written")
