"""The compressions of Kafka's record batches, with a bound on what they may unpack to.

What Kafka's clients write and read:

=======  =====  ==================================================================================
gzip     1      RFC 1952, one member
snappy   2      written in the framing of snappy-java ("xerial"), read in that or raw, see below
lz4      3      LZ4 frame format with independent blocks: Kafka's Java client reads no linked ones
zstd     4      RFC 8878, one or more frames
=======  =====  ==================================================================================

xerial framing, integers big-endian::

    0   8  magic  82 "SNAPPY" 00
    8   4  version, 1
    12  4  oldest compatible version, 1; some producers write both little-endian, so neither is read
    16     blocks: 4 bytes length, then as many bytes of raw snappy of at most 32 KiB;
           a second header may stand where a length would (streams put one after another)

No raw snappy begins with that magic: read as raw, its first element would copy from nothing.

LZ4 frame as written here, integers little-endian::

    0   4  magic  04 22 4D 18
    4   3  60 40 82: version 1, independent blocks of at most 64 KiB, no checksums, header checksum
    7      blocks: 4 bytes length (top bit set: stored as it is), then as many bytes; a length of 0 ends it

**Bounds.** A few KiB can claim, or be, hundreds of MiB. A size that the compressed bytes state is
never believed: zlib unpacks no more than it is asked for; lz4 and zstd unpack into a buffer of ours that begins
small and is made larger only when it was filled, up to the limit; snappy needs the stated size, but
cannot unpack to more than 22 times its input, so a larger claim is a lie.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import IntEnum

import cramjam

from trunkline.errors import CorruptBatch, DecompressionLimitExceeded, UnsupportedCompression

__all__ = ["Compression", "compress", "decompress"]

Buffer = bytes | bytearray | memoryview


class Compression(IntEnum):
    """How a batch's records are compressed; the value is the one stored in its attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4

    @classmethod
    def from_name(cls, name: str) -> Compression:
        """The compression called ``none``, ``gzip``, ``snappy``, ``lz4`` or ``zstd``.

        Raises:
          UnsupportedCompression: there is none of this name.
        """
        for kind in cls:
            if kind.name.lower() == name:
                return kind
        known = ", ".join(kind.name.lower() for kind in cls)
        raise UnsupportedCompression(f"there is no compression {name!r}; use one of {known}", compression=name)


def compress(kind: int, data: Buffer) -> bytes:
    """Compress ``data`` as Kafka's Java client would.

    Raises:
      UnsupportedCompression: ``kind`` is not a :class:`Compression`.
    """
    return _find(_COMPRESS, kind)(data)


def decompress(kind: int, data: Buffer, max_bytes: int) -> bytes:
    """Unpack ``data``, never holding much more than ``max_bytes`` for it.

    Raises:
      UnsupportedCompression: ``kind`` is not a :class:`Compression`.
      DecompressionLimitExceeded: it would unpack to more than ``max_bytes``.
      CorruptBatch: it is no whole and intact stream of this kind.
    """
    return _find(_DECOMPRESS, kind)(data, max_bytes)


_Function = Callable[..., bytes]


def _find(table: dict[int, _Function], kind: int) -> _Function:
    function = table.get(kind)
    if function is None:
        raise UnsupportedCompression(f"compression {kind} is not known; Kafka defines 0 to 4", compression=kind)
    return function


def _limit_exceeded(max_bytes: int) -> DecompressionLimitExceeded:
    return DecompressionLimitExceeded(
        f"the records unpack to more than {max_bytes} bytes; raise the limit if they are meant to",
        limit_bytes=max_bytes,
    )


# none


def _store(data: Buffer) -> bytes:
    return bytes(data)


def _unstore(data: Buffer, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise _limit_exceeded(max_bytes)
    return bytes(data)


# gzip

_GZIP_WINDOW_BITS = 31  # 15 bits of window, +16: with gzip's header and checksum


def _gzip(data: Buffer) -> bytes:
    return zlib.compress(data, level=6, wbits=_GZIP_WINDOW_BITS)


def _gunzip(data: Buffer, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        # One byte more than allowed tells "just fits" from "too much"
        unpacked = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise CorruptBatch(f"the records are no intact gzip stream: {error}") from None
    if len(unpacked) > max_bytes:
        raise _limit_exceeded(max_bytes)
    if not stream.eof or stream.unused_data:
        raise CorruptBatch("the records are no intact gzip stream: it ends early or late")
    return unpacked


# snappy

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\x00\x00\x00\x01\x00\x00\x00\x01"
_XERIAL_BLOCK_BYTES = 32 * 1024  # snappy-java's default
_SNAPPY_MAX_RATIO = 22  # three bytes (a copy with a 16-bit offset) make at most 64


def _snappy(data: Buffer) -> bytes:
    parts = [_XERIAL_HEADER]
    view = memoryview(data)
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _unsnappy(data: Buffer, max_bytes: int) -> bytes:
    view = memoryview(data)
    if view[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _unsnappy_block(view, max_bytes, max_bytes)
    blocks = []
    room = max_bytes
    position = 0
    while position < len(view):
        if view[position : position + len(_XERIAL_MAGIC)] == _XERIAL_MAGIC:
            position += len(_XERIAL_HEADER)
            if position > len(view):
                raise CorruptBatch("the records are no intact snappy stream: a header is cut short")
            continue
        start = position + 4
        position = start + int.from_bytes(view[position:start], "big")
        if position > len(view):
            raise CorruptBatch("the records are no intact snappy stream: a block is cut short")
        block = _unsnappy_block(view[start:position], room, max_bytes)
        room -= len(block)
        blocks.append(block)
    return b"".join(blocks)


def _unsnappy_block(block: memoryview, room: int, max_bytes: int) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size > room:
            raise _limit_exceeded(max_bytes)
        if size > len(block) * _SNAPPY_MAX_RATIO:
            raise CorruptBatch(f"{len(block)} bytes of snappy claim to unpack to {size}")
        return bytes(cramjam.snappy.decompress_raw(block)) if size else b""
    except cramjam.DecompressionError as error:
        raise CorruptBatch(f"the records are no intact snappy stream: {error}") from None


# lz4

_LZ4_FRAME_HEADER = bytes.fromhex("04224d18 60 40 82")
_LZ4_BLOCK_BYTES = 64 * 1024
_LZ4_STORED = 1 << 31
_LZ4_END = bytes(4)


def _lz4(data: Buffer) -> bytes:
    # Not cramjam.lz4.compress: it links the blocks to each other
    parts = [_LZ4_FRAME_HEADER]
    view = memoryview(data)
    for start in range(0, len(view), _LZ4_BLOCK_BYTES):
        block = view[start : start + _LZ4_BLOCK_BYTES]
        packed = bytes(cramjam.lz4.compress_block(block, store_size=False))
        if len(packed) < len(block):
            parts += (len(packed).to_bytes(4, "little"), packed)
        else:
            parts += ((len(block) | _LZ4_STORED).to_bytes(4, "little"), bytes(block))
    parts.append(_LZ4_END)
    return b"".join(parts)


def _unlz4(data: Buffer, max_bytes: int) -> bytes:
    return _unpack_growing("lz4", cramjam.lz4.decompress_into, data, max_bytes)


# zstd

_ZSTD_LEVEL = 3  # the default of zstd and of Kafka's Java client; cramjam's own is slower


def _zstd(data: Buffer) -> bytes:
    return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))


def _unzstd(data: Buffer, max_bytes: int) -> bytes:
    return _unpack_growing("zstd", cramjam.zstd.decompress_into, data, max_bytes)


# shared by lz4 and zstd

_FIRST_BUFFER_BYTES = 64 * 1024
_FIRST_RATIO = 4  # most batches compress by less, so one try is enough
_GROWTH = 4
_BUFFER_FULL = "failed to write whole buffer"  # Rust's io::Write::write_all; cramjam has no type for it


def _unpack_growing(name: str, unpack_into: Callable[[Buffer, bytearray], int], data: Buffer, max_bytes: int) -> bytes:
    size = min(max(len(data) * _FIRST_RATIO, _FIRST_BUFFER_BYTES), max_bytes)
    while True:
        output = bytearray(size)
        try:
            written = unpack_into(data, output)
        except cramjam.DecompressionError as error:
            if _BUFFER_FULL not in str(error):
                raise CorruptBatch(f"the records are no intact {name} stream: {error}") from None
            if size >= max_bytes:
                raise _limit_exceeded(max_bytes) from None
            size = min(size * _GROWTH, max_bytes)
        else:
            return bytes(memoryview(output)[:written])


_COMPRESS: dict[int, _Function] = {
    Compression.NONE: _store,
    Compression.GZIP: _gzip,
    Compression.SNAPPY: _snappy,
    Compression.LZ4: _lz4,
    Compression.ZSTD: _zstd,
}
_DECOMPRESS: dict[int, _Function] = {
    Compression.NONE: _unstore,
    Compression.GZIP: _gunzip,
    Compression.SNAPPY: _unsnappy,
    Compression.LZ4: _unlz4,
    Compression.ZSTD: _unzstd,
}
