"""Produce requests to bytes and back by hand, for the reason that `fetches` has.

Version 7 (Kafka 2.1), acks=all, no transaction. A test holds both directions to aiokafka's own.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BytesIO

    from aiokafka import TopicPartition

_API_KEY = 0
_API_VERSION = 7
_ALL = -1

_HEAD = Struct(">hhii")  # no transactional id, acks, time-out, topics
_COUNT = Struct(">i")
_NAME = Struct(">h")
_BATCH = Struct(">ii")  # partition, bytes
_ANSWER = Struct(">ihqqq")  # partition, error, offset, time, the log's start


class Produced(Response):  # type: ignore[misc]  # aiokafka has no types
    """An answer: (topic, partition, error, offset of the batch's first record) of each batch."""

    API_KEY = _API_KEY
    API_VERSION = _API_VERSION
    SCHEMA = ProduceResponse_v7.SCHEMA

    def __init__(self, answers: list[tuple[str, int, int, int]]) -> None:
        self.answers = answers

    def __repr__(self) -> str:
        """Return what a debug log can bear."""
        return f"Produced(batches={len(self.answers)})"

    @classmethod
    def decode(cls, data: BytesIO) -> Produced:
        """Read the body that follows the header."""
        body, at = data.getvalue(), data.tell()
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
        return cls(answers)


class _ProduceStruct(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = _API_KEY
    API_VERSION = _API_VERSION
    RESPONSE_TYPE = Produced
    SCHEMA = ProduceRequest_v7.SCHEMA

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __repr__(self) -> str:
        return f"Produce({len(self._body)} bytes)"

    def encode(self) -> bytes:
        return self._body


class Produce(Request[_ProduceStruct]):  # type: ignore[misc]  # aiokafka has no types
    """Append one batch to each of these partitions, acknowledged by all in-sync replicas."""

    API_KEY: ClassVar[int] = _API_KEY

    def __init__(self, batches: Mapping[TopicPartition, bytes], *, timeout_ms: int) -> None:
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for to, data in batches.items():
            topics.setdefault(to.topic, []).append((to.partition, data))
        parts = [_HEAD.pack(-1, _ALL, timeout_ms, len(topics))]
        for topic, entries in topics.items():
            name = topic.encode()
            parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(entries)))
            for partition, data in entries:
                parts += (_BATCH.pack(partition, len(data)), data)
        self._body = b"".join(parts)

    def build(self, request_struct_class: type[_ProduceStruct]) -> _ProduceStruct:
        """Return the request; aiokafka calls this with the version it agreed on."""
        return request_struct_class(self._body)
