"""How batches lie in the bytes of a fetch: their sizes, offsets and codecs, undecoded. No I/O.

Format 2 (Kafka 0.11) has a header of 61 bytes. Older messages share its first 17 bytes, except for
what stands in them after the length.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# base offset, length, leader epoch, magic, check sum, attributes, last offset delta, first and last
# timestamp, producer, its epoch, first sequence, records
HEADER = Struct(">qiibIhiqqqhii")
LENGTH = Struct(">i")
PREFIX_BYTES = 12  # base offset and length, which the length leaves out
LEGACY_BYTES_MIN = 14  # of the oldest message, after the prefix
MAGIC_AT = 16
ATTRIBUTES_AT = 22  # the low byte of the two
LEGACY_ATTRIBUTES_AT = 17
MAGIC = 2
CODEC_BITS, TRANSACTION_BIT, CONTROL_BIT = 0x07, 0x10, 0x20
OFFSETS_MAX = (1 << 31) - 1  # of one batch, and between an offset asked for and what follows it


def batches(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each whole batch begins, and its size."""
    at, end = 0, len(raw)
    while at + PREFIX_BYTES <= end:
        (length,) = LENGTH.unpack_from(raw, at + 8)
        size = PREFIX_BYTES + length
        if length < LEGACY_BYTES_MIN or at + size > end:
            return
        yield at, size
        at += size


def next_offset(raw: bytes) -> int | None:
    """Return the offset after the last whole batch in fetched bytes; None if there is none."""
    reached = None
    for at, size in batches(raw):
        reached = int.from_bytes(raw[at : at + 8], "big", signed=True) + 1
        if raw[at + MAGIC_AT] == MAGIC and size >= HEADER.size:
            reached += int.from_bytes(raw[at + 23 : at + 27], "big", signed=True)
    return reached


def following(raw: bytes, at: int) -> int:
    """Return the base offset of the batch at `at`, 0 where there is none."""
    return int.from_bytes(raw[at : at + 8], "big", signed=True) if at + 17 <= len(raw) else 0


def is_compressed(raw: bytes) -> bool:
    """Tell whether a fetch holds a compressed batch."""
    return any(
        raw[at + (ATTRIBUTES_AT if raw[at + MAGIC_AT] == MAGIC else LEGACY_ATTRIBUTES_AT)]
        & CODEC_BITS
        for at, _ in batches(raw)
    )
