"""Decompress batches that a producer or a broker compressed, never beyond a bound.

Kafka's codecs by their number in a batch's attributes. A batch of 1 MiB can hold 1 GB of one letter
in gzip, and more in zstd, so each codec stops as soon as its output exceeds the bound.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import cramjam

from turnstream.schemas.errors import BatchUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

CODECS = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_GZIP_WINDOW = 31  # zlib's largest window, with gzip's header and check sum
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16  # the magic, and two versions that writers fill in differently
_GZIP_MEMBERS_MAX = 256  # each costs a copy of what follows it
_FIRST_BUFFER_BYTES = 64 << 10
_GROWTH = 8


def decompress(codec: int, data: bytes, bytes_max: int) -> bytes | bytearray:
    """Return what `data` decompresses to.

    Raises `BatchUnreadableError`: `unknown_codec`, `batch_too_large` for more than `bytes_max`
    bytes, `corrupt_batch`.
    """
    read = _READERS.get(codec)
    if read is None:
        raise BatchUnreadableError(f"codec {codec} is unknown", code="unknown_codec")
    try:
        return read(data, bytes_max)
    except BatchUnreadableError:
        raise
    except (zlib.error, cramjam.DecompressionError, ValueError, OverflowError) as error:
        raise BatchUnreadableError(f"{CODECS[codec]} data is damaged: {error}") from error


def _gzip(data: bytes, bytes_max: int) -> bytes:
    """Decompress all members: writers may append one stream to another."""
    parts: list[bytes] = []
    size = 0
    while data.strip(b"\0") or not parts:
        stream = zlib.decompressobj(_GZIP_WINDOW)
        part = stream.decompress(data, bytes_max - size + 1)
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        if not stream.eof:
            raise BatchUnreadableError("gzip data is damaged: the stream has no end")
        parts.append(part)
        if len(parts) > _GZIP_MEMBERS_MAX:
            raise BatchUnreadableError(f"gzip data has more than {_GZIP_MEMBERS_MAX} members")
        data = stream.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _snappy(data: bytes, bytes_max: int) -> bytes:
    """Decompress one raw block, or the blocks in snappy-java's framing."""
    if not data.startswith(_XERIAL):
        return _snappy_block(data, bytes_max)
    parts: list[bytes] = []
    at, left = _XERIAL_HEADER_BYTES, bytes_max
    while at < len(data):
        if data.startswith(_XERIAL, at):  # one stream appended to another
            at += _XERIAL_HEADER_BYTES
            continue
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        at += 4
        if size < 0 or at + size > len(data):
            raise BatchUnreadableError(f"snappy data is damaged: a block of {size} bytes")
        part = _snappy_block(data[at : at + size], left, bytes_max)
        left -= len(part)
        at += size
        parts.append(part)
    return b"".join(parts)


def _snappy_block(data: bytes, left: int, bytes_max: int | None = None) -> bytes:
    if not data:
        raise BatchUnreadableError("snappy data is damaged: an empty block")
    if cramjam.snappy.decompress_raw_len(data) > left:
        raise _too_large(left if bytes_max is None else bytes_max)
    return bytes(cramjam.snappy.decompress_raw(data))


class _Codec(Protocol):
    """A module of cramjam."""

    def decompress_into(self, data: bytes, output: bytearray) -> int:
        """Return how many bytes were written."""
        ...


def _framed(module: _Codec) -> Callable[[bytes, int], bytearray]:
    """Return a reader that lets the codec write into a buffer of ours, which grows to the bound."""

    def read(data: bytes, bytes_max: int) -> bytearray:
        if not data:
            raise BatchUnreadableError("no compressed data")
        room = min(bytes_max, max(_FIRST_BUFFER_BYTES, _GROWTH * len(data)))
        while True:
            buffer = bytearray(room)
            try:
                size = module.decompress_into(data, buffer)
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):  # any other message means damaged data
                    raise
                if room == bytes_max:
                    raise _too_large(bytes_max) from error
                room = min(bytes_max, room * _GROWTH)
                continue
            del buffer[size:]
            return buffer

    return read


def _too_large(bytes_max: int) -> BatchUnreadableError:
    return BatchUnreadableError(
        f"more than {bytes_max} bytes when decompressed (TURNSTREAM_BATCH_BYTES_MAX)",
        code="batch_too_large",
    )


_READERS: dict[int, Callable[[bytes, int], bytes | bytearray]] = {
    1: _gzip,
    2: _snappy,
    3: _framed(cramjam.lz4),
    4: _framed(cramjam.zstd),
}
