"""A decompressed batch of format 2, record by record: checked, and mended where one is damaged.

No I/O.
"""

from __future__ import annotations

from typing import TypeAlias

from aiokafka.record.control_record import ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import decode_varint

from turnstream.connectors.kafka.read.batch_layout import CONTROL_BIT, HEADER
from turnstream.connectors.kafka.read.unreadable import append, builder_of, built
from turnstream.schemas.errors import BatchUnreadableError

_Header: TypeAlias = tuple[str, bytes | None]


def checked(batch: bytes, end: int) -> bytes:
    """Return the batch if each of its records can be read, else with replacements for some."""
    fields = HEADER.unpack_from(batch)
    base, attributes = fields[0], fields[5]
    if base >= end:
        raise BatchUnreadableError(f"offsets {base} to {end - 1}")
    reached = base
    reader = DefaultRecordBatch(batch)
    try:
        for record in reader:
            if attributes & CONTROL_BIT:
                ControlRecord.parse(record.key)
            if not reached <= record.offset < end:
                raise BatchUnreadableError(f"record {record.offset} after {reached - 1}")  # noqa: TRY301
            reached = record.offset + 1
    except Exception:
        if attributes & CONTROL_BIT:
            raise
        return _mended(batch, end)
    return batch


def _mended(batch: bytes, end: int) -> bytes:
    """Return a batch of the records that can be read, and one in the place of each other one."""
    fields = HEADER.unpack_from(batch)
    base, first_at = fields[0], fields[7]
    builder = builder_of(fields)
    at, reached = HEADER.size, base
    for _ in range(fields[12]):
        if reached >= end:  # the header's number of records was too high
            break
        begin = at
        try:
            length, at = _varint(batch, at)
            if not 0 < length <= len(batch) - at:
                raise BatchUnreadableError(f"a record of {length} bytes")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001  no record can be found from here on
            append(builder, base, reached, end, raw=batch[begin:], error=error)
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
            append(builder, base, offset, offset + 1, raw=record, error=error)
        reached = offset + 1
    if at < len(batch) and reached < end:
        left_over = BatchUnreadableError(f"{len(batch) - at} bytes are left over")
        append(builder, base, reached, end, raw=batch[at:], error=left_over)
    return built(builder, fields, end - base - 1)


def _record(record: bytes) -> tuple[int, int, bytes | None, bytes | None, list[_Header]]:
    """Read one record: time and offset after the batch's, key, value, headers.

    A header's name that is not UTF-8 is read with U+FFFD in it.
    """
    passed, at = _varint(record, 1)  # after its attributes, which mean nothing yet
    delta, at = _varint(record, at)
    key, at = _bytes(record, at)
    value, at = _bytes(record, at)
    count, at = _varint(record, at)
    headers: list[_Header] = []
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
