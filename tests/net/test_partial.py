"""Large frames that are received right where they stay, whatever the sizes and wherever the reads end."""

from __future__ import annotations

import itertools
import ssl
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.door import Connection, Door, Transport
from trunkline.net.receiving import ROUND_BYTES
from trunkline.partial import AHEAD_BYTES, AHEAD_TIMES, LEAST_ROOM_BYTES, PartialFrame, may_stay

if TYPE_CHECKING:
    from tests.net.conftest import Bench


def content(size: int) -> bytes:
    return Random(size).randbytes(size)


# -- one frame -------------------------------------------------------------------------------------


@given(st.integers(2, 3_000_000), st.integers(0, 400_000), st.lists(st.integers(1, 300_000), min_size=1), st.randoms())
@settings(max_examples=60, deadline=None)
def test_however_it_arrives_it_is_what_was_sent(size: int, ahead: int, steps: list[int], random: Random) -> None:
    frame = content(size)
    first = min(steps[0], size - 1)
    partial = PartialFrame(size, b"before" + frame[:first], 6, ahead)
    for step in itertools.cycle(steps):
        if partial.is_whole:
            break
        have, room = partial.have, partial.room
        if room is not None and random.random() < 0.7:
            step = min(step, len(room))
            room[:step] = frame[have : have + step]
            partial.filled(step)
        else:
            assert partial.add(b"<" + frame[have : have + step] + b">" * (have + step >= size), 1) == min(
                step, size - have
            )
    whole = partial.take()
    assert whole == frame
    assert type(whole) is (bytearray if size >= LEAST_ROOM_BYTES else bytes)


@pytest.mark.parametrize("arrived", [4, 60_000, 500_000])
@pytest.mark.parametrize("ahead", [0, 1_000_000])
def test_a_length_alone_takes_little_memory(arrived: int, ahead: int) -> None:
    partial = PartialFrame(2**40, bytes(arrived), ahead=ahead)
    assert partial.room is not None
    assert arrived + len(partial.room) <= max(AHEAD_BYTES, ahead, AHEAD_TIMES * arrived)


def test_there_is_no_room_for_little() -> None:
    assert PartialFrame(20_000, bytes(20_000 - LEAST_ROOM_BYTES)).room is not None
    assert PartialFrame(20_000, bytes(20_001 - LEAST_ROOM_BYTES)).room is None


def test_a_batch_stays_if_it_is_writable_and_a_good_part_of_its_frame() -> None:
    frame = bytearray(800)
    assert may_stay(memoryview(frame)[700:])
    assert not may_stay(memoryview(frame)[701:])
    assert not may_stay(memoryview(bytes(frame)))
    assert not may_stay(frame)


# -- over sockets ----------------------------------------------------------------------------------


class Frames(Connection):
    """Remembers frames of a length, in four bytes, and so many more."""

    __slots__ = ("_begun", "frames", "longest", "partial", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.frames: list[bytes] = []
        self.longest = 0  # of what was given to receive_data
        self.partial: PartialFrame | None = None
        self._begun = b""

    def receive_data(self, data: bytes) -> None:
        self.longest = max(self.longest, len(data))
        at = 0
        if self.partial is not None:
            at = self.partial.add(data)
            if not self.partial.is_whole:
                return
            self.frames.append(bytes(self.partial.take()[4:]))
            self.partial = None
        data = self._begun + data[at:]
        while len(data) >= 4:
            stop = 4 + int.from_bytes(data[:4], "big")
            if stop > len(data):
                self.partial, data = PartialFrame(stop, data), b""
                break
            self.frames.append(data[4:stop])
            data = data[stop:]
        self._begun = data
        if self.frames:
            self.transport.established()

    def closed(self, error: Exception | None) -> None:
        pass


class FramesDoor(Door):
    def __init__(self) -> None:
        self.peers: list[Frames] = []

    def connect(self, transport: Transport) -> Frames:
        self.peers.append(Frames(transport))
        return self.peers[-1]


SIZES = [3, 100_000, 70_000, 0, 1, 65_532, 65_536, 17_000, 16_380, ROUND_BYTES, 2_500_000, 20, 40_000, 40_000]


async def check(bench: Bench, door: FramesDoor, client: trio.abc.SendStream, random: Random) -> Frames:
    sent = [content(size) for size in random.sample(SIZES, len(SIZES))]
    data = b"".join(len(frame).to_bytes(4, "big") + frame for frame in sent)
    with trio.fail_after(20):
        await client.send_all(b"\0\0\0\2hi")  # little is taken from strangers
        await bench.until(lambda: bool(door.peers) and bool(door.peers[-1].frames))
        while data:
            step = random.choice([1, 5_000, 70_000, 150_000, 5_000_000])
            await client.send_all(data[:step])
            data = data[step:]
            await trio.lowlevel.checkpoint()
        await bench.until(lambda: len(door.peers[-1].frames) > len(sent))
    assert door.peers[-1].frames[1:] == sent
    return door.peers[-1]


@pytest.mark.trio
@pytest.mark.parametrize("seed", range(5))
async def test_frames_of_any_size_arrive_as_they_were_sent(bench: Bench, seed: int) -> None:
    door = FramesDoor()
    client = await trio.open_tcp_stream(*bench.reactor.listen(door, "test", "127.0.0.1", 0, None))
    async with client:
        await check(bench, door, client, Random(seed))


@pytest.mark.trio
async def test_a_large_frame_is_not_given_in_bites(bench: Bench) -> None:
    door = FramesDoor()
    client = await trio.open_tcp_stream(*bench.reactor.listen(door, "test", "127.0.0.1", 0, None))
    async with client:
        await client.send_all(b"\0\0\0\1x" + (100_000).to_bytes(4, "big"))
        await bench.until(lambda: bool(door.peers) and door.peers[0].partial is not None)
        peer = door.peers[0]
        frame = content(100_000)
        await client.send_all(frame)
        await bench.until(lambda: len(peer.frames) == 2)
        assert peer.frames[1] == frame
        assert peer.longest < LEAST_ROOM_BYTES


@pytest.mark.trio
async def test_behind_tls_they_arrive_too(bench: Bench) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    door = FramesDoor()
    tcp = await trio.open_tcp_stream(*bench.reactor.listen(door, "test", "127.0.0.1", 0, server))
    client = trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True)
    async with client:
        await check(bench, door, client, Random(0))


@pytest.mark.trio
async def test_a_peer_that_leaves_within_a_frame_ends_its_connection(bench: Bench) -> None:
    door = FramesDoor()
    client = await trio.open_tcp_stream(*bench.reactor.listen(door, "test", "127.0.0.1", 0, None))
    await client.send_all(b"\0\0\0\1x" + (100_000).to_bytes(4, "big") + bytes(50_000))
    await bench.until(lambda: bool(door.peers) and door.peers[0].partial is not None)
    await client.aclose()
    await bench.until(lambda: bench.reactor.connection_count == 0)
    assert door.peers[0].frames == [b"x"]
