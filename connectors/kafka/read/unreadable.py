"""What stands in a batch for what cannot be read: one record that carries the reason. No I/O."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from turnstream.connectors.kafka.read.batch_layout import (
    CODEC_BITS,
    CONTROL_BIT,
    HEADER,
    MAGIC,
    MAGIC_AT,
    TRANSACTION_BIT,
)
from turnstream.connectors.kafka.read.decompression import CODECS
from turnstream.schemas.errors import BatchUnreadableError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNREADABLE_HEADER = "turnstream-unreadable"
RAW_BYTES_MAX = 3 << 20
"""Bytes of an unreadable batch that are kept; of a larger one only the digest and the length."""

# no other program can write a record that passes for one of ours
_TOKEN = os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What could not be read: offsets `first` up to, without, `end`, and why."""

    first: int
    end: int
    code: str
    message: str


def unreadable_of(headers: Sequence[tuple[str, bytes | None]]) -> Unreadable | None:
    """Return what a record of `readable` stands for; None for a producer's own record."""
    if len(headers) != 1 or headers[0][0] != UNREADABLE_HEADER:
        return None
    token, _, fields = (headers[0][1] or b"").partition(b" ")
    return Unreadable(**json.loads(fields)) if token == _TOKEN.encode() else None


def replaced(batch: bytes, first: int, end: int, error: Exception) -> bytes:
    """Return a batch of one record, at the last offset, that tells what cannot be read."""
    fields = [first, 0, -1, MAGIC, 0, 0, 0, 0, 0, -1, -1, -1, 0]
    if getattr(error, "code", "") != "bad_crc" and len(batch) >= HEADER.size:
        read = HEADER.unpack_from(batch)
        if read[3] == MAGIC and not read[5] & CONTROL_BIT:
            fields[5] = read[5] & TRANSACTION_BIT  # an aborted one stays unread
            fields[7:12] = read[7:12]
    end = max(end, first + 1)
    builder = builder_of(fields)
    described = _described(batch)
    append(builder, first, first, end, raw=batch, error=error, described=described)
    return built(builder, fields, end - first - 1)


def _described(batch: bytes) -> str:
    if len(batch) < HEADER.size or batch[MAGIC_AT] != MAGIC:
        return f"a batch of {len(batch)} bytes"
    fields = HEADER.unpack_from(batch)
    codec = fields[5] & CODEC_BITS
    return f"a batch of {len(batch)} bytes, {fields[12]} records, codec {CODECS.get(codec, codec)}"


def append(
    builder: DefaultRecordBatchBuilder,
    base: int,
    first: int,
    end: int,
    *,
    raw: bytes,
    error: Exception,
    described: str = "a record",
) -> None:
    """Append the record that stands for offsets `first` up to, without, `end`.

    It has the last of these offsets. `base` is the batch's first; `raw` is kept as the value.
    """
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


def builder_of(fields: Sequence[int]) -> DefaultRecordBatchBuilder:
    """Return a builder of an uncompressed batch with the producer of a header's `fields`."""
    transactional = int(bool(fields[5] & TRANSACTION_BIT))
    return DefaultRecordBatchBuilder(MAGIC, 0, transactional, *fields[9:12], 1 << 30)


def built(builder: DefaultRecordBatchBuilder, fields: Sequence[int], last_delta: int) -> bytes:
    """Return what was built with the offsets, times and producer of `fields`."""
    batch = bytearray(builder.build())
    made = HEADER.unpack_from(batch)
    head = (*fields[:1], made[1], fields[2], MAGIC, 0, made[5], last_delta)
    HEADER.pack_into(batch, 0, *head, *made[7:9], *fields[9:12], made[12])
    return bytes(batch)
