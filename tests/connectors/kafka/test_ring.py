"""The ring: bounded bytes, a key's records only, nothing missing after what it holds."""

from __future__ import annotations

import tracemalloc

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.kafka.read.batch_layout import next_offset
from turnstream.connectors.kafka.read.batches import batch_records
from turnstream.connectors.kafka.read.ring import (
    KEY_OVERHEAD_BYTES,
    PIECE_OVERHEAD_BYTES,
    Ring,
)


def raw_of(first, records):
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for at, (key, value) in enumerate(records):
        builder.append(at, 1, key, value, [])
    raw = bytearray(builder.build())
    raw[0:8] = first.to_bytes(8, "big")
    return bytes(raw)


def test_offsets_are_read_from_the_headers():
    one = raw_of(10, [(b"a", b"1"), (b"b", b"2")])
    two = raw_of(12, [(b"a", b"3")])
    assert next_offset(one) == 12
    assert next_offset(one + two) == 13
    assert next_offset(one + two[:-1]) == 12  # a batch that was cut at the end of the fetch
    assert next_offset(one[:20]) is None
    assert [record[0] for record in batch_records(one + two, 11)] == [11, 12]


def test_only_the_key_asked_for():
    ring = Ring(1 << 20)
    ring.restart(0, 0)
    ring.add(0, 3, raw_of(0, [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]), {b"a", b"b"})
    assert ring.held(0, b"a", 0, 10) == [(0, b"1"), (2, b"3")]
    assert ring.held(0, b"a", 1, 10) == [(2, b"3")]
    assert ring.held(0, b"c", 0, 10) == []
    assert ring.end(0) == 3


def test_what_is_not_held_is_said_so():
    ring = Ring(1 << 20)
    assert ring.held(0, b"a", 0, 10) is None
    ring.restart(0, 5)
    assert ring.held(0, b"a", 4, 10) is None
    assert ring.held(0, b"a", 5, 10) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=400)), max_size=60))
def test_bounded_and_whole_from_where_it_begins(pieces):
    ring = Ring(4 * PIECE_OVERHEAD_BYTES + 3 * KEY_OVERHEAD_BYTES)
    said = {number: [] for number in range(3)}
    for number in range(3):
        ring.restart(number, 0)
    for number, value in pieces:
        offset = ring.end(number)
        ring.add(number, offset + 1, raw_of(offset, [(b"k", value)]), {b"k"})
        said[number].append((offset, value))
        assert ring.bytes <= ring.bytes_max or len(pieces) == 1
    for number in range(3):
        begins = ring.begins(number)
        assert ring.held(number, b"k", begins, 1000) == said[number][begins:]


def test_a_restart_forgets_the_partition_and_its_bytes():
    ring = Ring(1 << 20)
    for number in range(2):
        ring.restart(number, 0)
        ring.add(number, 1, raw_of(0, [(b"k", b"v")]), {b"k"})
    left = ring.bytes
    ring.restart(0, 50)
    assert ring.bytes == left // 2
    assert ring.held(0, b"k", 50, 10) == []
    assert ring.held(1, b"k", 0, 10) == [(0, b"v")]


@pytest.mark.parametrize("threads", [20, 500, 20_000], ids="{} threads".format)
def test_what_is_counted_is_used(threads):
    """The bound is one on memory: what the ring counts is what it takes, within a third."""
    ring, pieces, size = Ring(1 << 40), 20_000, 300
    ring.restart(0, 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(pieces):
            keys = {b"default/%036d" % ((2 * at + k) % threads) for k in range(2)}
            ring.add(0, at + 1, bytes(size), keys)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 2 / 3 < used / ring.bytes < 4 / 3
