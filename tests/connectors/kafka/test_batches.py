"""Fetched batches, whole and damaged: what can be read is, and what cannot is told, once."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from turnstream.connectors.kafka.read.batch_layout import is_compressed, next_offset
from turnstream.connectors.kafka.read.batches import Budget, batch_records, readable
from turnstream.connectors.kafka.read.decompression import decompress
from turnstream.connectors.kafka.read.unreadable import RAW_BYTES_MAX, Unreadable, unreadable_of
from turnstream.schemas.errors import BatchUnreadableError

MIB = 1 << 20
HEADER = 61


def batch(base: int, values: list[bytes], codec: int = 0, headers: Any = ()) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
    for at, value in enumerate(values):
        builder.append(at, 1000 + at, b"k", value, list(headers))
    return signed(base.to_bytes(8, "big") + bytes(builder.build())[8:])


def signed(raw: bytes) -> bytes:
    """The batch with the check sum that it should have."""
    return raw[:17] + calc_crc32c(raw[21:]).to_bytes(4, "big") + raw[21:]


def around(data: bytes, codec: int, *, base: int = 5, records: int = 1) -> bytes:
    """A batch whose compressed part is `data`."""
    head = bytearray(batch(base, [b"x"] * records)[:HEADER])
    head[22] = codec
    head[8:12] = (HEADER - 12 + len(data)).to_bytes(4, "big")
    return signed(bytes(head) + data)


def records(raw: bytes) -> list[Any]:
    """What aiokafka's reader makes of bytes: (offset, value), or what a record stands for."""
    found: list[Any] = []
    batches = MemoryRecords(raw)
    while batches.has_next():
        for record in batches.next_batch():
            told = unreadable_of(record.headers)
            found.append((record.offset, record.value) if told is None else told)
    return found


def read(raw: bytes, position: int = 5, bytes_max: int = MIB) -> list[Any]:
    return records(readable(raw, position, Budget(bytes_max)))


def test_what_is_whole_and_plain_is_handed_on_as_it_is() -> None:
    raw = batch(5, [b"a", b"b"]) + batch(7, [b"c"])
    assert readable(raw, 5, Budget(MIB)) is raw
    assert not is_compressed(raw)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_each_codec_is_read(codec: int) -> None:
    raw = batch(5, [b"a", b"b" * 5000], codec, [("h", b"x"), ("null", None)]) + batch(7, [b"c"])
    assert is_compressed(raw)
    assert read(raw) == [(5, b"a"), (6, b"b" * 5000), (7, b"c")]
    plain = readable(raw, 5, Budget(MIB))
    assert next_offset(plain) == next_offset(raw) == 8
    assert [offset for offset, _, _ in batch_records(plain, 6)] == [6, 7]
    first = next(iter(MemoryRecords(plain).next_batch()))
    assert (first.key, first.timestamp) == (b"k", 1000)
    assert list(first.headers) == [("h", b"x"), ("null", None)]


def xerial(*blocks: bytes, version: bytes = b"\0\0\0\x01\0\0\0\x01") -> bytes:
    packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return b"\x82SNAPPY\0" + version + b"".join(struct.pack(">i", len(p)) + p for p in packed)


FRAMINGS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "raw snappy": (2, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy-java": (2, lambda data: xerial(data[:7], data[7:])),
    "snappy-java, versions little-endian": (
        2,
        lambda data: xerial(data, version=b"\x01\0\0\0\x01\0\0\0"),
    ),
    "snappy-java, two streams": (2, lambda data: xerial(data[:9]) + xerial(data[9:])),
    "gzip, two members": (1, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "gzip, padded": (1, lambda data: gzip.compress(data) + b"\0\0\0"),
    "zstd, two frames": (
        4,
        lambda data: compressed(4, data[:9]) + compressed(4, data[9:]),
    ),
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_each_framing_is_read(name: str) -> None:
    codec, pack = FRAMINGS[name]
    plain = batch(5, [b"some text", b"more"])[HEADER:]
    assert read(around(pack(plain), codec, records=2)) == [(5, b"some text"), (6, b"more")]


def compressed(codec: int, data: bytes) -> bytes:
    pack: dict[int, Any] = {
        1: gzip.compress,
        2: cramjam.snappy.compress_raw,
        3: cramjam.lz4.compress,
        4: cramjam.zstd.compress,
    }
    return bytes(pack[codec](data))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_decompression_stops_at_its_bound(codec: int) -> None:
    exact = compressed(codec, b"a" * MIB)
    assert bytes(decompress(codec, exact, MIB)) == b"a" * MIB
    with pytest.raises(BatchUnreadableError) as raised:
        decompress(codec, exact, MIB - 1)
    assert raised.value.code == "batch_too_large"
    assert "TURNSTREAM_BATCH_BYTES_MAX" in str(raised.value)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_over_the_bound_is_told_once_and_passed(codec: int) -> None:
    bomb = around(compressed(codec, b"a" * 2 * MIB), codec)
    (told, after) = read(bomb + batch(6, [b"next"]))
    assert isinstance(told, Unreadable)
    assert (told.first, told.end, told.code) == (5, 6, "batch_too_large")
    assert "offset 5" in told.message
    assert after == (6, b"next")


def test_what_a_fetch_may_decompress_is_shared_and_the_rest_comes_later() -> None:
    values = [b"v" * 400_000]
    raw = batch(5, values, 1) + batch(6, values, 1) + batch(7, values, 1)
    budget = Budget(900_000)
    assert records(readable(raw, 5, budget)) == [(5, values[0]), (6, values[0])]
    assert readable(batch(0, values, 1), 0, budget) == b""  # another partition's, of the same fetch
    assert records(readable(raw, 7, Budget(900_000)))[-1] == (7, values[0])


def test_many_empty_gzip_members_are_refused() -> None:
    with pytest.raises(BatchUnreadableError, match="members"):
        decompress(1, gzip.compress(b"") * 10_000, MIB)


@dataclass(frozen=True)
class Damaged:
    """A batch at offset 5, what its one letter is to say, and where reading goes on."""

    raw: bytes
    code: str
    end: int = 6


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]


def legacy(magic: int, codec: int) -> bytes:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    builder.append(0, 1000, b"k", b"old")
    raw = bytes(builder.build())
    return (5).to_bytes(8, "big") + raw[8:]


THREE = batch(5, [b"a", b"b", b"c"])
DAMAGED = {
    "an unknown codec": Damaged(around(b"data", 5), "unknown_codec"),
    "a wrong check sum": Damaged(flipped(THREE, 70), "bad_crc", 8),
    "a wrong check sum of its own": Damaged(flipped(THREE, 18), "bad_crc", 8),
    "no gzip": Damaged(around(b"data", 1, records=3), "corrupt_batch", 8),
    "cut gzip": Damaged(
        around(compressed(1, THREE[HEADER:])[:-9], 1, records=3), "corrupt_batch", 8
    ),
    "no snappy": Damaged(around(b"\xff\xff\xff\xff\xff\xff", 2), "corrupt_batch"),
    "a snappy block that is cut": Damaged(around(xerial(b"abc")[:-1], 2), "corrupt_batch"),
    "no lz4": Damaged(around(b"data", 3), "corrupt_batch"),
    "cut lz4": Damaged(
        around(compressed(3, THREE[HEADER:])[:-5], 3, records=3), "corrupt_batch", 8
    ),
    "no zstd": Damaged(around(b"data", 4), "corrupt_batch"),
    "nothing compressed": Damaged(around(compressed(1, b""), 1), "corrupt_batch"),
    "an unknown format": Damaged(THREE[:16] + b"\x03" + THREE[17:], "unsupported_format"),
    "a compressed message of format 1": Damaged(legacy(1, 1), "unsupported_format"),
    "a compressed message of format 0": Damaged(legacy(0, 1), "unsupported_format"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_batch_is_told_once_and_its_neighbours_are_read(name: str) -> None:
    case = DAMAGED[name]
    (before, told, after) = read(batch(4, [b"before"]) + case.raw + batch(case.end, [b"after"]), 4)
    assert (before, after) == ((4, b"before"), (case.end, b"after"))
    assert (told.first, told.end, told.code) == (5, case.end, case.code)


@pytest.mark.parametrize("name", DAMAGED)
def test_readers_of_the_tail_leave_a_damaged_batch_out(name: str) -> None:
    case = DAMAGED[name]
    raw = batch(4, [b"before"]) + case.raw + batch(case.end, [b"after"])
    if is_compressed(raw):
        raw = readable(raw, 4, Budget(MIB))
    found = [offset for offset, _, _ in batch_records(raw, 4)]
    assert found[0] == 4
    assert found[-1] == case.end


def test_an_unreadable_batch_keeps_its_bytes_or_their_digest() -> None:
    raw = flipped(THREE, 70)
    plain = readable(raw, 5, Budget(MIB))
    assert next(iter(MemoryRecords(plain).next_batch())).value == raw
    large = flipped(batch(5, [b"x" * (RAW_BYTES_MAX + 1)]), 70)
    plain = readable(large, 5, Budget(MIB))
    record = next(iter(MemoryRecords(plain).next_batch()))
    assert record.value == b""
    told = unreadable_of(record.headers)
    assert told is not None
    assert f"{len(large)} bytes" in told.message
    assert "sha256" in told.message
    assert "codec none" in told.message


def test_old_messages_that_are_not_compressed_are_read() -> None:
    assert read(legacy(1, 0) + legacy(0, 0).replace(b"\0\5", b"\0\6", 1)) == [
        (5, b"old"),
        (6, b"old"),
    ]


@pytest.mark.parametrize("length", [-12, -1, 0, 5, 2**31 - 1])
def test_a_batch_whose_length_is_wrong_is_passed(length: int) -> None:
    raw = THREE[:8] + struct.pack(">i", length) + THREE[12:]
    (told,) = read(raw)
    assert (told.first, told.end, told.code) == (5, 6, "corrupt_batch")
    # behind a whole batch it is left for the next fetch, which begins with it
    assert read(batch(4, [b"whole"]) + raw, 4) == [(4, b"whole")]


def varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def record(offset: int, value: bytes, name: bytes = b"") -> bytes:
    """A record's bytes, with one header of this name if there is one."""
    fields = b"\0" + varint(0) + varint(offset) + varint(-1) + varint(len(value)) + value
    fields += varint(1) + varint(len(name)) + name + varint(-1) if name else varint(0)
    return varint(len(fields)) + fields


def test_a_header_name_that_is_no_utf8_costs_nothing() -> None:
    data = record(0, b"a") + record(1, b"b", b"\xff\xfe") + record(2, b"c")
    for codec in (0, 1):
        raw = around(gzip.compress(data) if codec else data, codec, records=3)
        assert read(raw) == [(5, b"a"), (6, b"b"), (7, b"c")]
        if not codec:
            assert [value for _, _, value in batch_records(raw, 5)] == [b"a", b"b", b"c"]


def test_one_damaged_record_does_not_cost_its_batch() -> None:
    bad = bytearray(record(1, b"broken"))
    bad[-1] = 2  # one header, and no bytes of it
    raw = around(record(0, b"a") + bytes(bad) + record(2, b"c"), 0, records=3)
    first, told, last = read(raw)
    assert (first, last) == ((5, b"a"), (7, b"c"))
    assert (told.first, told.end) == (6, 7)
    assert [value for _, _, value in batch_records(raw, 5)] == [b"a", b"c"]


@pytest.mark.parametrize("count", [-1, 0, 1, 2**31 - 1])
def test_a_wrong_number_of_records_loses_none_of_the_bytes(count: int) -> None:
    raw = bytearray(around(record(0, b"a") + record(1, b"b"), 0, records=2))
    raw[57:61] = struct.pack(">i", count)
    found = read(signed(bytes(raw)))
    told = [one for one in found if isinstance(one, Unreadable)]
    values = [one for one in found if not isinstance(one, Unreadable)]
    assert values == [(5, b"a"), (6, b"b")][: len(values)]
    assert told or len(values) == 2


def test_nobody_else_can_write_what_stands_for_the_unreadable() -> None:
    (record_,) = read(batch(5, [b"v"], headers=[("turnstream-unreadable", b"{}")]))
    assert record_ == (5, b"v")
    assert unreadable_of([("turnstream-unreadable", None)]) is None


def test_an_aborted_transaction_stays_one() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 1, 7, 3, 11, 1 << 20)
    builder.append(0, 0, None, b"x", [])
    raw = (5).to_bytes(8, "big") + bytes(builder.build())[8:]
    head = bytearray(raw[:HEADER])
    head[22] |= 1
    data = compressed(1, b"a" * 2 * MIB)
    head[8:12] = (HEADER - 12 + len(data)).to_bytes(4, "big")
    (told,) = [MemoryRecords(readable(signed(bytes(head) + data), 5, Budget(MIB))).next_batch()]
    assert told.is_transactional
    assert (told.producer_id, told.base_offset, told.next_offset) == (7, 5, 6)


def test_random_damage_never_raises_and_always_moves_on() -> None:
    """Cut, flipped and re-signed bytes of every codec."""
    rng = random.Random(11)
    whole = [
        batch(5, [b"a", b"b" * 50, b"c"], codec, [("h", None)]) + batch(8, [b"d"], codec)
        for codec in range(5)
    ]
    for _ in range(3000):
        raw = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 1, 2, 6))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        if rng.random() < 0.3:
            del raw[rng.randrange(1, len(raw)) :]
        size = 12 + int.from_bytes(raw[8:12], "big", signed=True)
        if rng.random() < 0.6 and HEADER <= size <= len(raw):
            raw[17:21] = calc_crc32c(bytes(raw[21:size])).to_bytes(4, "big")
        plain = readable(bytes(raw), 5, Budget(1 << 16))
        found = records(plain)
        end = next_offset(plain)
        assert end is not None
        assert end > 5
        assert found
        offsets = [one.end - 1 if isinstance(one, Unreadable) else one[0] for one in found]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] < end
        list(batch_records(bytes(raw), 5))


def test_a_reader_of_zlib_is_what_is_bounded() -> None:
    """What the bound is for: a MiB of gzip can hold a thousand of them."""
    packed = zlib.compressobj(9, wbits=31)
    out = BytesIO()
    for _ in range(64):
        out.write(packed.compress(b"a" * MIB))
    out.write(packed.flush())
    assert len(out.getvalue()) < MIB // 8
    with pytest.raises(BatchUnreadableError):
        decompress(1, out.getvalue(), MIB)
