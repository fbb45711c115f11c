"""Hand-written produce requests and answers are aiokafka's own, byte for byte."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.kafka.wire.produce_request import (
    API_VERSION,
    produce_answers,
    produce_request,
)

int16 = st.integers(-1, 2**15 - 1)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(-1, 2**63 - 1)
topics = st.text(st.sampled_from("abcxyz0189._-"), min_size=1, max_size=40)
places = st.builds(TopicPartition, topics, int32)
answers = st.lists(st.tuples(int32, int16, int64, int64, int64), max_size=30)


@given(st.dictionaries(places, st.binary(max_size=99), max_size=30), int32)
def test_requests_are_aiokafkas(batches, timeout_ms) -> None:
    by_topic: dict[str, list[tuple[int, bytes]]] = {}
    for to, data in batches.items():
        by_topic.setdefault(to.topic, []).append((to.partition, data))
    theirs = ProduceRequest(None, -1, timeout_ms, list(by_topic.items())).build(ProduceRequest_v7)
    assert produce_request(batches, timeout_ms=timeout_ms) == theirs.encode()
    assert theirs.API_VERSION == API_VERSION


@given(st.lists(st.tuples(topics, answers), max_size=3))
def test_answers_are_read_as_aiokafka_writes_them(said) -> None:
    header = b"\0\0\0\7"
    assert produce_answers(header + ProduceResponse_v7(said, 0).encode(), len(header)) == [
        (topic, partition, error, offset)
        for topic, partitions in said
        for partition, error, offset, _, _ in partitions
    ]
