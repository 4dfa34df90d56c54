"""Compressed records can be read by Kafka's clients, and cost no more memory than they are allowed."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.compression import Compression, compress, decompress
from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, TrunklineError, UnsupportedCompression

KINDS = list(Compression)
PACKED = [kind for kind in KINDS if kind is not Compression.NONE]
MIB = 1024 * 1024
XERIAL_HEADER = b"\x82SNAPPY\x00" + (1).to_bytes(4, "big") * 2

texts = st.one_of(st.binary(), st.builds(lambda piece, times: piece * times, st.binary(), st.integers(0, 20_000)))


def raw_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def bomb(kind: Compression, unpacked_bytes: int) -> bytes:
    return compress(kind, bytes(unpacked_bytes))


# Round trips


@pytest.mark.parametrize("kind", KINDS)
@given(data=texts)
def test_what_was_compressed_comes_back(kind: Compression, data: bytes) -> None:
    assert decompress(kind, compress(kind, data), len(data)) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_compressed_and_unpacked(kind: Compression, wrap: type) -> None:
    assert decompress(kind, wrap(compress(kind, wrap(b"abc" * 100))), 300) == b"abc" * 100


@pytest.mark.parametrize("kind", PACKED)
def test_large_data_span_many_blocks(kind: Compression) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(500_000))

    assert decompress(kind, compress(kind, data), len(data)) == data


# The formats of Kafka's clients


def test_gzip_is_what_the_standard_library_reads_and_writes() -> None:
    assert gzip.decompress(compress(Compression.GZIP, b"abc")) == b"abc"
    assert decompress(Compression.GZIP, gzip.compress(b"abc"), 3) == b"abc"


def test_snappy_is_framed_as_by_snappy_java() -> None:
    assert compress(Compression.SNAPPY, b"abc") == XERIAL_HEADER + (5).to_bytes(4, "big") + raw_snappy(b"abc")


def test_snappy_blocks_hold_32_kib() -> None:
    packed = compress(Compression.SNAPPY, bytes(40_000))

    first_bytes = int.from_bytes(packed[16:20], "big")
    assert cramjam.snappy.decompress_raw_len(packed[20 : 20 + first_bytes]) == 32 * 1024


def test_raw_snappy_is_read_too() -> None:
    assert decompress(Compression.SNAPPY, raw_snappy(b"abc" * 50), 150) == b"abc" * 50


def test_a_snappy_header_with_little_endian_versions_is_read() -> None:
    framed = b"\x82SNAPPY\x00" + (1).to_bytes(4, "little") * 2 + (5).to_bytes(4, "big") + raw_snappy(b"abc")

    assert decompress(Compression.SNAPPY, framed, 3) == b"abc"


def test_snappy_streams_may_follow_one_another() -> None:
    packed = compress(Compression.SNAPPY, b"abc") + compress(Compression.SNAPPY, b"def")

    assert decompress(Compression.SNAPPY, packed, 6) == b"abcdef"


def test_lz4_blocks_are_independent() -> None:
    """Kafka's Java client refuses frames with linked blocks (KafkaLZ4BlockInputStream)."""
    frame = compress(Compression.LZ4, b"abc" * 100_000)

    assert frame[:4] == bytes.fromhex("04224d18")
    assert frame[4] & 0b0010_0000


def test_an_lz4_frame_with_linked_blocks_and_checksums_is_read() -> None:
    data = b"abc" * 100_000

    assert decompress(Compression.LZ4, bytes(cramjam.lz4.compress(data)), len(data)) == data


def test_several_zstd_frames_are_read() -> None:
    packed = compress(Compression.ZSTD, b"abc") + compress(Compression.ZSTD, b"def")

    assert decompress(Compression.ZSTD, packed, 6) == b"abcdef"


# Bounds


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_reached_but_not_passed(kind: Compression) -> None:
    packed = compress(kind, bytes(100_000))

    assert len(decompress(kind, packed, 100_000)) == 100_000
    with pytest.raises(DecompressionLimitExceeded):
        decompress(kind, packed, 99_999)


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_nothing_lets_only_nothing_through(kind: Compression) -> None:
    assert decompress(kind, compress(kind, b""), 0) == b""
    with pytest.raises(DecompressionLimitExceeded):
        decompress(kind, compress(kind, b"a"), 0)


@pytest.mark.parametrize("kind", PACKED)
def test_a_bomb_is_not_unpacked_beyond_the_limit(kind: Compression) -> None:
    packed = bomb(kind, 64 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionLimitExceeded):
            decompress(kind, packed, MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < len(packed) + 3 * MIB


def test_a_size_stated_by_snappy_is_not_believed() -> None:
    claim = bytes.fromhex("80808008") + b"\x00a"  # 16 MiB in six bytes

    with pytest.raises(CorruptBatch, match="claim"):
        decompress(Compression.SNAPPY, claim, 64 * MIB)


def test_snappy_at_its_densest_is_believed() -> None:
    data = bytes(MIB)

    assert decompress(Compression.SNAPPY, raw_snappy(data), MIB) == data


def test_a_size_stated_by_zstd_is_not_believed() -> None:
    # Magic, single segment with 8 bytes of content size (1 TiB), then one last block: 5 bytes as they are
    claim = bytes.fromhex("28b52ffd e0") + (1 << 40).to_bytes(8, "little") + bytes.fromhex("290000") + b"hello"

    with pytest.raises(CorruptBatch):
        decompress(Compression.ZSTD, claim, MIB)


def test_a_window_stated_by_zstd_takes_no_memory() -> None:
    # Magic, a window of 128 MiB, then one last block: 5 bytes as they are
    frame = bytes.fromhex("28b52ffd 00 88 290000") + b"hello"

    assert decompress(Compression.ZSTD, frame, 5) == b"hello"


# Malformed content


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.LZ4, Compression.ZSTD])
def test_an_unfinished_stream_is_corrupt(kind: Compression) -> None:
    packed = compress(kind, b"abc" * 50)

    for end in range(len(packed)):
        with pytest.raises(CorruptBatch):
            decompress(kind, packed[:end], 10_000)


def test_an_unfinished_snappy_block_is_corrupt() -> None:
    packed = compress(Compression.SNAPPY, b"abc" * 50)

    for end in range(len(XERIAL_HEADER) + 1, len(packed)):
        with pytest.raises(CorruptBatch):
            decompress(Compression.SNAPPY, packed[:end], 10_000)


@pytest.mark.parametrize("kind", PACKED)
def test_bytes_after_a_stream_are_corrupt(kind: Compression) -> None:
    with pytest.raises(CorruptBatch):
        decompress(kind, compress(kind, b"abc" * 50) + b"garbage", 10_000)


def test_a_gzip_checksum_that_does_not_fit_is_corrupt() -> None:
    packed = bytearray(compress(Compression.GZIP, b"abc"))
    packed[-8] ^= 1

    with pytest.raises(CorruptBatch):
        decompress(Compression.GZIP, packed, 10)


def test_a_gzip_stream_without_gzip_header_is_corrupt() -> None:
    with pytest.raises(CorruptBatch):
        decompress(Compression.GZIP, zlib.compress(b"abc"), 10)


@pytest.mark.parametrize(
    "stream",
    [
        XERIAL_HEADER[:12],
        XERIAL_HEADER + b"\x00\x00",
        XERIAL_HEADER + (100).to_bytes(4, "big") + raw_snappy(b"abc"),
        XERIAL_HEADER + (0xFFFFFFFF).to_bytes(4, "big") + raw_snappy(b"abc"),
        XERIAL_HEADER + (4).to_bytes(4, "big") + raw_snappy(b"abc"),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=["header cut", "length cut", "block cut", "negative length", "length too small", "size too long"],
)
def test_a_malformed_snappy_stream_is_corrupt(stream: bytes) -> None:
    with pytest.raises(CorruptBatch):
        decompress(Compression.SNAPPY, stream, MIB)


@pytest.mark.parametrize("kind", PACKED)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_unpacked_or_refused(kind: Compression, data: bytes) -> None:
    assert_unpacks_or_refuses(kind, data)


@pytest.mark.parametrize("kind", PACKED)
@given(data=st.binary(max_size=2000), position=st.integers(0), bits=st.integers(1, 255))
def test_damaged_streams_are_unpacked_or_refused(kind: Compression, data: bytes, position: int, bits: int) -> None:
    packed = bytearray(compress(kind, data))
    packed[position % len(packed)] ^= bits

    assert_unpacks_or_refuses(kind, packed)


def assert_unpacks_or_refuses(kind: Compression, data: bytes | bytearray) -> None:
    with contextlib.suppress(CorruptBatch, DecompressionLimitExceeded):
        assert len(decompress(kind, data, 10_000)) <= 10_000


# Names and numbers


@pytest.mark.parametrize("kind", [-1, 5, 7])
def test_an_unknown_compression_is_refused(kind: int) -> None:
    with pytest.raises(UnsupportedCompression):
        compress(kind, b"")
    with pytest.raises(UnsupportedCompression):
        decompress(kind, b"", 0)


@pytest.mark.parametrize(("name", "number"), [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
def test_compressions_have_kafkas_names_and_numbers(name: str, number: int) -> None:
    assert Compression.from_name(name) == number


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(TrunklineError, match="'brotli'; use one of none, gzip, snappy, lz4, zstd"):
        Compression.from_name("brotli")
