"""Bodies that a server or a proxy compressed, though the request did not ask for it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from turnstream.schemas.errors import ModelBadResponseError

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES_MAX = 64 << 10
"""Decompressed bytes passed on at once. A reader that counts them can stop a bomb."""
_ZLIB_OR_GZIP, _RAW_DEFLATE = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_PLAIN = frozenset({"", "identity", "none"})
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


def decompressing(encoding: str, feed: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return what takes a body's bytes as they come and hands `feed` the plain ones.

    Raises `ModelBadResponseError` for an encoding other than gzip and deflate, and so does the
    callable for bytes that are not in the encoding.
    """
    name = encoding.strip().lower()
    if name in _PLAIN:
        return feed
    if name not in _KNOWN:
        raise ModelBadResponseError(
            f"the model server sent a body in content-encoding {name[:40]!r}; "
            "set it or its proxy to identity, gzip or deflate"
        )
    return _Inflating(feed).take


class _Inflating:
    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
        self._begun = False

    def take(self, data: bytes) -> None:
        """Inflate the bytes of one read; several gzip members in a row are one body."""
        while True:
            plain = self._inflate(data)
            if plain:
                self._feed(plain)
            if self._inflater.eof:
                data = self._inflater.unused_data
                if not data.strip(b"\x00"):  # nothing, or padding
                    return
                self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
                continue
            data = self._inflater.unconsumed_tail
            if not data and len(plain) < PIECE_BYTES_MAX:
                return

    def _inflate(self, data: bytes) -> bytes:
        try:
            plain = self._inflater.decompress(data, PIECE_BYTES_MAX)
        except zlib.error as error:
            if self._begun:
                raise ModelBadResponseError("the model server's body is no gzip") from error
            try:  # deflate without its header, as some servers send it
                self._inflater = zlib.decompressobj(_RAW_DEFLATE)
                plain = self._inflater.decompress(data, PIECE_BYTES_MAX)
            except zlib.error:
                raise ModelBadResponseError("the model server's body is no gzip") from error
        self._begun = True
        return plain
