"""Fetched batches made readable: decompressed within a bound, and whole.

`readable` takes the bytes of a fetch, as a broker gave them, and returns bytes that aiokafka's
readers read without an error: nothing is compressed, and each batch or record that cannot be read
is replaced by one record that carries the reason (`unreadable_of`). Neighbours keep their offsets,
keys, values, headers and transactions. Check sums are verified here and not written anew, so
readers of the result do not verify them. No I/O, no clock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from turnstream.connectors.kafka.read.batch_layout import (
    ATTRIBUTES_AT,
    CODEC_BITS,
    HEADER,
    LEGACY_ATTRIBUTES_AT,
    LENGTH,
    MAGIC,
    MAGIC_AT,
    OFFSETS_MAX,
    PREFIX_BYTES,
    batches,
    following,
    is_compressed,
    next_offset,
)
from turnstream.connectors.kafka.read.decompression import CODECS, decompress
from turnstream.connectors.kafka.read.repair import checked
from turnstream.connectors.kafka.read.unreadable import replaced, unreadable_of
from turnstream.schemas.errors import BatchUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_BYTES_MAX = 64 << 20
"""Bytes that one fetch may have when it is decompressed, where no setting says otherwise."""


@dataclass(slots=True)
class Budget:
    """Bytes that one fetch may have when it is decompressed; the first batch may take all."""

    bytes_max: int
    used: int = 0

    @property
    def spent(self) -> bool:
        """Whether later batches have to wait for the next fetch."""
        return self.used > 0 and self.used >= self.bytes_max


async def made_readable(raw: bytes, position: int, budget: Budget) -> bytes:
    """Return the fetch's batches for `batch_records`, which verifies no check sums.

    A fetch with a compressed batch is read in a thread, because 64 MiB take a tenth of a second.
    """
    if is_compressed(raw):
        return await asyncio.to_thread(readable, raw, position, budget)
    return raw if next_offset(raw) is not None else readable(raw, position, budget)


def readable(raw: bytes, position: int, budget: Budget) -> bytes:
    """Return the fetch's batches so that each can be read; see the module.

    `position` is the offset that was asked for. The result ends before the batch that would exceed
    the budget, unless it is the first that uses it, and is empty if that is the first of all.
    """
    parts: list[bytes] = []
    changed, whole = False, 0
    for at, size in batches(raw):
        batch, whole = raw[at : at + size], at + size
        if not parts and _is_before(batch, position):
            changed = True
            continue
        # only the first may begin before what was asked for, or before the end of another
        plain = _plain(batch, position, following(raw, whole), budget, inside=not parts)
        if plain is None:
            return b"".join(parts)
        changed = changed or plain is not batch
        parts.append(plain)
        position = max(position, next_offset(plain) or 0)
    if raw and not parts:
        return replaced(raw, position, position + 1, BatchUnreadableError("the batch is cut"))
    # what is left is a batch that the fetch's bound has cut: the next fetch begins with it
    return b"".join(parts) if changed else raw[:whole]


def batch_records(raw: bytes, first: int) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """Yield (offset, key, value) of each record at or after `first` in bytes of `readable`.

    Records that cannot be read are left out.
    """
    for at, size in batches(raw):
        batch = raw[at : at + size]
        reached = first
        try:
            reader = _reader(batch)
            if reader.is_control_batch or reader.next_offset <= first:
                continue
            for record in reader:
                offset, key = record.offset, record.key
                if offset < reached or (key is None and unreadable_of(record.headers) is not None):
                    continue
                reached = offset + 1
                yield offset, key, record.value
        except Exception:  # noqa: BLE001  whatever a damaged batch does to its reader
            mended = _plain(batch, first, 0, Budget(len(batch)), inside=True)
            for record in _reader(mended) if mended else ():
                if record.offset >= reached and unreadable_of(record.headers) is None:
                    yield record.offset, record.key, record.value


def _reader(batch: bytes) -> DefaultRecordBatch | LegacyRecordBatch:
    magic = batch[MAGIC_AT]
    return DefaultRecordBatch(batch) if magic >= MAGIC else LegacyRecordBatch(batch, magic)


def _is_before(batch: bytes, position: int) -> bool:
    """Tell whether a batch that is not damaged ends before what was asked for."""
    return (
        len(batch) >= HEADER.size
        and batch[MAGIC_AT] == MAGIC
        and (next_offset(batch) or 0) <= position
        and DefaultRecordBatch(batch).validate_crc()
    )


def _plain(
    batch: bytes, position: int, next_base: int, budget: Budget, *, inside: bool
) -> bytes | None:
    """Return one batch so that it can be read: itself if it can; None over the budget."""
    end = _end(batch, position, next_base)
    try:
        if len(batch) < HEADER.size or batch[MAGIC_AT] != MAGIC:
            return _legacy(batch, position)
        if not DefaultRecordBatch(batch).validate_crc():
            raise BatchUnreadableError("its check sum is wrong", code="bad_crc")  # noqa: TRY301
        fields = HEADER.unpack_from(batch)
        base, told_end = fields[0], fields[0] + fields[6] + 1
        if not 0 < told_end - position < OFFSETS_MAX or (base < position and not inside):
            raise BatchUnreadableError(f"offset {base} where {position} comes next")  # noqa: TRY301
        end = told_end  # the check sum vouches for it
        codec = fields[5] & CODEC_BITS
        if codec and len(batch) > HEADER.size:
            if budget.spent:
                return None
            left = budget.bytes_max - budget.used
            try:
                data = decompress(codec, batch[HEADER.size :], left)
            except BatchUnreadableError as error:
                if error.code == "batch_too_large" and budget.used:
                    return None  # alone, in the next fetch, it may be small enough
                raise
            budget.used += max(len(data), 1)
            plain = _headed(batch, data)
        else:
            plain = batch
        return checked(plain, end)
    except Exception as error:  # noqa: BLE001  whatever hostile bytes do to a reader
        base = int.from_bytes(batch[:8], "big", signed=True)
        return replaced(batch, base if position < base < end else position, end, error)


def _end(batch: bytes, position: int, next_base: int) -> int:
    """Return the offset after a batch whose header may be damaged; above `position`.

    The header tells it if its figures agree, else the next batch; else one record is passed.
    """
    if len(batch) >= HEADER.size and batch[MAGIC_AT] == MAGIC:
        fields = HEADER.unpack_from(batch)
        end = fields[0] + fields[6] + 1
        if fields[6] + 1 == fields[12] and 0 < end - position < OFFSETS_MAX:
            return int(end)
    return next_base if 0 < next_base - position < OFFSETS_MAX else position + 1


def _legacy(batch: bytes, position: int) -> bytes:
    """Return a message of a format before Kafka 0.11, if it is one record and whole."""
    magic = batch[MAGIC_AT]
    if magic > MAGIC or (magic == MAGIC and len(batch) < HEADER.size):
        raise BatchUnreadableError(f"format {magic} is unknown", code="unsupported_format")
    codec = batch[LEGACY_ATTRIBUTES_AT] & CODEC_BITS
    if codec:
        raise BatchUnreadableError(
            f"format {magic} with {CODECS.get(codec, codec)}: only format 2 may be compressed",
            code="unsupported_format",
        )
    base = int.from_bytes(batch[:8], "big", signed=True)
    if not 0 <= base - position < OFFSETS_MAX:
        raise BatchUnreadableError(f"offset {base} where {position} comes next")
    reader = LegacyRecordBatch(batch, magic)
    if not reader.validate_crc():
        raise BatchUnreadableError("its check sum is wrong", code="bad_crc")
    for _ in reader:
        pass
    return batch


def _headed(batch: bytes, data: bytes | bytearray) -> bytes:
    """Return a batch with this data behind its header, not compressed; the check sum is not set."""
    header = bytearray(batch[: HEADER.size])
    LENGTH.pack_into(header, 8, HEADER.size - PREFIX_BYTES + len(data))
    header[ATTRIBUTES_AT] &= ~CODEC_BITS
    return b"".join((header, data))
