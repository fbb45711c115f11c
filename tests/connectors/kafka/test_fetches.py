"""Hand-written fetch requests and answers are aiokafka's own, byte for byte."""

from __future__ import annotations

from io import BytesIO

from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.kafka.fetches import Fetch, Fetched

VERSIONS = {1: (4, 17)}
int16 = st.integers(-1, 2**15 - 1)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(-1, 2**63 - 1)
topics = st.text(st.sampled_from("abcxyz0189._-"), min_size=1, max_size=40)
targets = st.lists(st.tuples(int32, int64, int32), max_size=30)
aborted = st.none() | st.lists(st.tuples(int64, int64), max_size=3)
answers = st.lists(
    st.tuples(
        int32, int16, int64, int64, int64, aborted, int32, st.none() | st.binary(max_size=99)
    ),
    max_size=30,
)


@given(topics, targets, int32, int32, int32)
def test_requests_are_aiokafkas(topic, asked, wait, least, most) -> None:
    ours = Fetch(topic, asked, max_wait_ms=wait, min_bytes=least, max_bytes=most)
    theirs = FetchRequest(wait, least, most, 0, [(topic, asked)]).build(FetchRequest_v11)
    assert ours.prepare(VERSIONS).encode() == theirs.encode()
    assert ours.prepare(VERSIONS).API_VERSION == theirs.API_VERSION


@given(int16, st.lists(st.tuples(topics, answers), max_size=3))
def test_answers_are_read_as_aiokafka_writes_them(error, said) -> None:
    body = FetchResponse_v11(0, error, 0, said).encode()
    header = b"\0\0\0\7"
    data = BytesIO(header + body)
    data.read(len(header))
    read = Fetched.decode(data)
    assert read.error == error
    assert read.partitions == [
        (partition, code, raw or b"")
        for _, partitions in said
        for partition, code, _, _, _, _, _, raw in partitions
    ]
