"""Fetched batches made readable: decompressed within a bound, and whole.

`readable` takes the bytes of a fetch, as a broker gave them, and returns bytes that aiokafka's
readers read without an error: nothing is compressed, and each batch or record that cannot be read
is replaced by one record that says so (`unreadable_of`). Neighbours keep their offsets, keys,
values, headers and transactions. Check sums are verified here and not written anew, so readers of
the result do not verify them. No I/O, no clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

from aiokafka.record.control_record import ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from turnstream.connectors.kafka.read.decompression import CODECS, decompress
from turnstream.schemas.errors import BatchUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH_BYTES_MAX = 64 << 20
"""Bytes that one fetch may have when it is decompressed, where no setting says otherwise."""

UNREADABLE_HEADER = "turnstream-unreadable"
RAW_BYTES_MAX = 3 << 20
"""Bytes of an unreadable batch that are kept; of a larger one only the digest and the length."""

# base offset, length, leader epoch, magic, check sum, attributes, last offset delta, first and last
# timestamp, producer, its epoch, first sequence, records
_HEADER = Struct(">qiibIhiqqqhii")
_LENGTH = Struct(">i")
_PREFIX_BYTES = 12  # base offset and length, which the length leaves out
_LEGACY_BYTES_MIN = 14  # of the oldest message, after the prefix
_MAGIC_AT = 16
_LEGACY_ATTRIBUTES_AT = 17
_MAGIC = 2
_CODEC_BITS, _TRANSACTION_BIT, _CONTROL_BIT = 0x07, 0x10, 0x20
_OFFSETS_MAX = (1 << 31) - 1  # of one batch, and between an offset asked for and what follows it

# no other program can write a record that passes for one of ours
_TOKEN = os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What could not be read: offsets `first` up to, without, `end`, and why."""

    first: int
    end: int
    code: str
    message: str


@dataclass(slots=True)
class Budget:
    """Bytes that may still be decompressed for one fetch. The first batch may take all of them."""

    bytes_max: int
    used: int = 0

    @property
    def spent(self) -> bool:
        """Whether later batches have to wait for the next fetch."""
        return self.used > 0 and self.used >= self.bytes_max


def unreadable_of(headers: Sequence[tuple[str, bytes | None]]) -> Unreadable | None:
    """Return what a record of `readable` stands for; None for a producer's own record."""
    if len(headers) != 1 or headers[0][0] != UNREADABLE_HEADER:
        return None
    token, _, fields = (headers[0][1] or b"").partition(b" ")
    return Unreadable(**json.loads(fields)) if token == _TOKEN.encode() else None


def is_compressed(raw: bytes) -> bool:
    """Tell whether a fetch holds a compressed batch."""
    return any(
        raw[at + (22 if raw[at + _MAGIC_AT] == _MAGIC else _LEGACY_ATTRIBUTES_AT)] & _CODEC_BITS
        for at, _ in _batches(raw)
    )


async def made_readable(raw: bytes, position: int, budget: Budget) -> bytes:
    """Return the fetch's batches for `batch_records`, which verifies no check sums.

    What is compressed is read in a thread: 64 MiB take a tenth of a second.
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
    for at, size in _batches(raw):
        batch, whole = raw[at : at + size], at + size
        if not parts and _is_before(batch, position):
            changed = True
            continue
        # only the first may begin before what was asked for, or before the end of another
        plain = _plain(batch, position, _following(raw, whole), budget, inside=not parts)
        if plain is None:
            return b"".join(parts)
        changed = changed or plain is not batch
        parts.append(plain)
        position = max(position, next_offset(plain) or 0)
    if raw and not parts:
        return _replaced(raw, position, position + 1, BatchUnreadableError("the batch is cut"))
    # what is left is a batch that the fetch's bound has cut: the next fetch begins with it
    return b"".join(parts) if changed else raw[:whole]


def batch_records(raw: bytes, first: int) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """Yield (offset, key, value) of each record at or after `first` in bytes of `readable`.

    Records that cannot be read are left out.
    """
    for at, size in _batches(raw):
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


def _reader(batch: bytes) -> Any:
    magic = batch[_MAGIC_AT]
    return DefaultRecordBatch(batch) if magic >= _MAGIC else LegacyRecordBatch(batch, magic)


def next_offset(raw: bytes) -> int | None:
    """Return the offset after the last whole batch in fetched bytes; None if there is none."""
    reached = None
    for at, size in _batches(raw):
        reached = int.from_bytes(raw[at : at + 8], "big", signed=True) + 1
        if raw[at + _MAGIC_AT] == _MAGIC and size >= _HEADER.size:
            reached += int.from_bytes(raw[at + 23 : at + 27], "big", signed=True)
    return reached


def _batches(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each whole batch begins, and its size."""
    at, end = 0, len(raw)
    while at + _PREFIX_BYTES <= end:
        (length,) = _LENGTH.unpack_from(raw, at + 8)
        size = _PREFIX_BYTES + length
        if length < _LEGACY_BYTES_MIN or at + size > end:
            return
        yield at, size
        at += size


def _following(raw: bytes, at: int) -> int:
    """Return the base offset of the batch at `at`, 0 where there is none."""
    return int.from_bytes(raw[at : at + 8], "big", signed=True) if at + 17 <= len(raw) else 0


def _is_before(batch: bytes, position: int) -> bool:
    """Tell whether a batch that is not damaged ends before what was asked for."""
    return (
        len(batch) >= _HEADER.size
        and batch[_MAGIC_AT] == _MAGIC
        and (next_offset(batch) or 0) <= position
        and DefaultRecordBatch(batch).validate_crc()
    )


def _plain(
    batch: bytes, position: int, following: int, budget: Budget, *, inside: bool
) -> bytes | None:
    """Return one batch so that it can be read: itself if it can; None over the budget."""
    end = _end(batch, position, following)
    try:
        if len(batch) < _HEADER.size or batch[_MAGIC_AT] != _MAGIC:
            return _legacy(batch, position)
        if not DefaultRecordBatch(batch).validate_crc():
            raise BatchUnreadableError("its check sum is wrong", code="bad_crc")  # noqa: TRY301
        fields = _HEADER.unpack_from(batch)
        base, end_ = fields[0], fields[0] + fields[6] + 1
        if not 0 < end_ - position < _OFFSETS_MAX or (base < position and not inside):
            raise BatchUnreadableError(f"offset {base} where {position} comes next")  # noqa: TRY301
        end = end_  # the check sum vouches for it
        codec = fields[5] & _CODEC_BITS
        if codec and len(batch) > _HEADER.size:
            if budget.spent:
                return None
            left = budget.bytes_max - budget.used
            try:
                data = decompress(codec, batch[_HEADER.size :], left)
            except BatchUnreadableError as error:
                if error.code == "batch_too_large" and budget.used:
                    return None  # alone, in the next fetch, it may be small enough
                raise
            budget.used += max(len(data), 1)
            batch_ = _headed(batch, data)
        else:
            batch_ = batch
        return _whole(batch_, end)
    except Exception as error:  # noqa: BLE001  whatever hostile bytes do to a reader
        base = int.from_bytes(batch[:8], "big", signed=True)
        return _replaced(batch, base if position < base < end else position, end, error)


def _end(batch: bytes, position: int, following: int) -> int:
    """Return the offset after a batch whose header may be damaged; above `position`.

    The header tells it if its figures agree, else the next batch; else one record is passed.
    """
    if len(batch) >= _HEADER.size and batch[_MAGIC_AT] == _MAGIC:
        fields = _HEADER.unpack_from(batch)
        end = fields[0] + fields[6] + 1
        if fields[6] + 1 == fields[12] and 0 < end - position < _OFFSETS_MAX:
            return int(end)
    return following if 0 < following - position < _OFFSETS_MAX else position + 1


def _legacy(batch: bytes, position: int) -> bytes:
    """Let a message of the formats before Kafka 0.11 pass, if it is one record and whole."""
    magic = batch[_MAGIC_AT]
    if magic > _MAGIC or (magic == _MAGIC and len(batch) < _HEADER.size):
        raise BatchUnreadableError(f"format {magic} is unknown", code="unsupported_format")
    codec = batch[_LEGACY_ATTRIBUTES_AT] & _CODEC_BITS
    if codec:
        raise BatchUnreadableError(
            f"format {magic} with {CODECS.get(codec, codec)}: only format 2 may be compressed",
            code="unsupported_format",
        )
    base = int.from_bytes(batch[:8], "big", signed=True)
    if not 0 <= base - position < _OFFSETS_MAX:
        raise BatchUnreadableError(f"offset {base} where {position} comes next")
    reader = LegacyRecordBatch(batch, magic)
    if not reader.validate_crc():
        raise BatchUnreadableError("its check sum is wrong", code="bad_crc")
    for _ in reader:
        pass
    return batch


def _headed(batch: bytes, data: bytes | bytearray) -> bytes:
    """Return a batch with this data behind its header, not compressed; the check sum is not set."""
    header = bytearray(batch[: _HEADER.size])
    _LENGTH.pack_into(header, 8, _HEADER.size - _PREFIX_BYTES + len(data))
    header[22] &= ~_CODEC_BITS
    return b"".join((header, data))


def _whole(batch: bytes, end: int) -> bytes:
    """Return the batch if each of its records can be read, else with replacements for some."""
    fields = _HEADER.unpack_from(batch)
    base, attributes = fields[0], fields[5]
    if base >= end:
        raise BatchUnreadableError(f"offsets {base} to {end - 1}")
    reached = base
    reader = DefaultRecordBatch(batch)
    try:
        for record in reader:
            if attributes & _CONTROL_BIT:
                ControlRecord.parse(record.key)
            if not reached <= record.offset < end:
                raise BatchUnreadableError(f"record {record.offset} after {reached - 1}")  # noqa: TRY301
            reached = record.offset + 1
    except Exception:
        if attributes & _CONTROL_BIT:
            raise
        return _mended(batch, end)
    return batch


def _mended(batch: bytes, end: int) -> bytes:
    """Return a batch of the records that can be read, and one in the place of each other one."""
    fields = _HEADER.unpack_from(batch)
    base, first_at = fields[0], fields[7]
    builder = _builder(fields)
    at, reached = _HEADER.size, base
    for _ in range(fields[12]):
        if reached >= end:  # the header's number of records was too high
            break
        begin = at
        try:
            length, at = _varint(batch, at)
            if not 0 < length <= len(batch) - at:
                raise BatchUnreadableError(f"a record of {length} bytes")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001  no record can be found from here on
            _append(builder, base, reached, end, raw=batch[begin:], error=error)
            reached = end
            break
        record, at = batch[at : at + length], at + length
        try:
            passed, delta, key, value, headers = _record(record)
            offset = base + delta
            if not reached <= offset < end:
                raise BatchUnreadableError(f"record {offset} after {reached - 1}")  # noqa: TRY301
            builder.append(delta, first_at + passed, key, value, headers)
        except Exception as error:  # noqa: BLE001  whatever hostile bytes do to a reader
            offset = reached
            _append(builder, base, offset, offset + 1, raw=record, error=error)
        reached = offset + 1
    if at < len(batch) and reached < end:
        left_over = BatchUnreadableError(f"{len(batch) - at} bytes are left over")
        _append(builder, base, reached, end, raw=batch[at:], error=left_over)
    return _built(builder, fields, end - base - 1)


def _record(record: bytes) -> tuple[int, int, bytes | None, bytes | None, list[tuple[str, Any]]]:
    """Read one record: time and offset after the batch's, key, value, headers.

    A header's name that is not UTF-8 is read with U+FFFD in it.
    """
    passed, at = _varint(record, 1)  # after its attributes, which mean nothing yet
    delta, at = _varint(record, at)
    key, at = _bytes(record, at)
    value, at = _bytes(record, at)
    count, at = _varint(record, at)
    headers = []
    for _ in range(count):
        name, at = _bytes(record, at)
        content, at = _bytes(record, at)
        headers.append(((name or b"").decode(errors="replace"), content))
    if at != len(record):
        raise BatchUnreadableError(f"{len(record) - at} bytes are left over in a record")
    return passed, delta, key, value, headers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, at = decode_varint(data, at)
    return int(value), int(at)


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    if length < 0:
        return None, at
    if length > len(data) - at:
        raise BatchUnreadableError(f"a field of {length} bytes")
    return data[at : at + length], at + length


# -- what stands for what cannot be read ---------------------------------------------------------


def _replaced(batch: bytes, first: int, end: int, error: Exception) -> bytes:
    """Return a batch of one record, at the last offset, that says what cannot be read."""
    fields = [first, 0, -1, _MAGIC, 0, 0, 0, 0, 0, -1, -1, -1, 0]
    if getattr(error, "code", "") != "bad_crc" and len(batch) >= _HEADER.size:
        read = _HEADER.unpack_from(batch)
        if read[3] == _MAGIC and not read[5] & _CONTROL_BIT:
            fields[5] = read[5] & _TRANSACTION_BIT  # an aborted one stays unread
            fields[7:12] = read[7:12]
    end = max(end, first + 1)
    builder = _builder(fields)
    described = _described(batch)
    _append(builder, first, first, end, raw=batch, error=error, described=described)
    return _built(builder, fields, end - first - 1)


def _described(batch: bytes) -> str:
    if len(batch) < _HEADER.size or batch[_MAGIC_AT] != _MAGIC:
        return f"a batch of {len(batch)} bytes"
    fields = _HEADER.unpack_from(batch)
    codec = fields[5] & _CODEC_BITS
    return f"a batch of {len(batch)} bytes, {fields[12]} records, codec {CODECS.get(codec, codec)}"


def _append(
    builder: Any,
    base: int,
    first: int,
    end: int,
    *,
    raw: bytes,
    error: Exception,
    described: str = "a record",
) -> None:
    why = str(error) if isinstance(error, BatchUnreadableError) else type(error).__name__
    offsets = f"offset {first}" if end == first + 1 else f"offsets {first} to {end - 1}"
    message = f"{offsets}: {described} cannot be read: {why[:500]}"
    if len(raw) > RAW_BYTES_MAX:
        message += f"; sha256 {hashlib.sha256(raw).hexdigest()}, {len(raw)} bytes"
        raw = b""
    code = getattr(error, "code", "") or "corrupt_batch"
    fields = {"first": first, "end": end, "code": code, "message": message}
    content = f"{_TOKEN} {json.dumps(fields)}".encode()
    builder.append(end - base - 1, 0, None, raw, [(UNREADABLE_HEADER, content)])


def _builder(fields: Sequence[int]) -> Any:
    transactional = int(bool(fields[5] & _TRANSACTION_BIT))
    return DefaultRecordBatchBuilder(_MAGIC, 0, transactional, *fields[9:12], 1 << 30)


def _built(builder: Any, fields: Sequence[int], last_delta: int) -> bytes:
    """Return what was built with the offsets, times and producer of `fields`."""
    built = bytearray(builder.build())
    made = _HEADER.unpack_from(built)
    head = (*fields[:1], made[1], fields[2], _MAGIC, 0, made[5], last_delta)
    _HEADER.pack_into(built, 0, *head, *made[7:9], *fields[9:12], made[12])
    return bytes(built)
