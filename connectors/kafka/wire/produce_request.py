"""Produce requests to bytes and back by hand; aiokafka's way walks a tree of types.

The pump produces a round every few milliseconds. aiokafka takes 5 times as long for a request of 24
partitions and 8 times as long for its answer (rows `produce request` and `produce answer` of
`python -m tests.bench --only parts`). Version 7 (Kafka 2.1), acks=all, no transaction. A test holds
both directions to aiokafka's own.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka import TopicPartition

API_KEY = 0
API_VERSION = 7
_ALL = -1

_HEAD = Struct(">hhii")  # no transactional id, acks, time-out, topics
_COUNT = Struct(">i")
_NAME = Struct(">h")
_BATCH = Struct(">ii")  # partition, bytes
_ANSWER = Struct(">ihqqq")  # partition, error, offset, time, the log's start


def produce_request(batches: Mapping[TopicPartition, bytes], *, timeout_ms: int) -> bytes:
    """Return the body that appends one batch to each partition, acked by all in-sync replicas."""
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for to, data in batches.items():
        topics.setdefault(to.topic, []).append((to.partition, data))
    parts = [_HEAD.pack(-1, _ALL, timeout_ms, len(topics))]
    for topic, entries in topics.items():
        name = topic.encode()
        parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(entries)))
        for partition, data in entries:
            parts += (_BATCH.pack(partition, len(data)), data)
    return b"".join(parts)


def produce_answers(body: bytes, at: int) -> list[tuple[str, int, int, int]]:
    """Return (topic, partition, error, offset of its first record) of each batch."""
    (topics,) = _COUNT.unpack_from(body, at)
    at += _COUNT.size
    answers: list[tuple[str, int, int, int]] = []
    for _ in range(topics):
        begin = at + _NAME.size
        at = begin + _NAME.unpack_from(body, at)[0]
        topic = body[begin:at].decode()
        (count,) = _COUNT.unpack_from(body, at)
        at += _COUNT.size
        for _ in range(count):
            partition, error, offset, _, _ = _ANSWER.unpack_from(body, at)
            at += _ANSWER.size
            answers.append((topic, partition, error, offset))
    return answers
