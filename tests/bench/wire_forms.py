"""Requests to Kafka and tokens in Avro: what is written by hand, and the library's way of doing it.

Rows of the table "parts": how many times as long the library takes, the median of `ROUNDS` rounds
in which the two take turns. No server, one core, half a minute. Modules cite their row by its name.
"""

from __future__ import annotations

import itertools
import statistics
import time
from io import BytesIO
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

from tests.bench.rows import judge, line
from turnstream.connectors.avro import Codec
from turnstream.connectors.avro_tokens import TokenDecoder, TokenEncoder
from turnstream.connectors.kafka.wire.fetch_request import Fetch, Fetched
from turnstream.connectors.kafka.wire.produce_request import produce_answers, produce_request
from turnstream.schemas.ids import event_id
from turnstream.schemas.records.events import TokensEmitted

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 31
ROUND_S = 0.02
PARTITIONS = 24
BATCH = bytes(2_000)
TOPIC = "turn-events"

ANSWER = FetchResponse_v11(
    0,
    0,
    7,
    [(TOPIC, [(n, 0, 1_000, 1_000, 0, None, -1, BATCH) for n in range(PARTITIONS)])],
).encode()
TARGETS = [(n, 1_000 + n, 1 << 20) for n in range(PARTITIONS)]
BATCHES = {TopicPartition(TOPIC, n): BATCH for n in range(PARTITIONS)}
ACKS = ProduceResponse_v7([(TOPIC, [(n, 0, 1_000, -1, 0) for n in range(PARTITIONS)])], 0).encode()


CODEC = Codec()
DECODER = TokenDecoder(CODEC)
ENVELOPE = {
    "tenant": "default",
    "thread_id": "0198c7d2-6c1a-7cc0-9d0e-5a4be5bb5b01",
    "turn_id": "0198c7d2-6c1a-7cc0-9d0e-5a4be5bb5b02",
    "epoch": 7,
    "actor": "",
    "traceparent": "",
}
ENCODER = TokenEncoder(CODEC, **ENVELOPE)
BLOCK = ("0198c7d2-task", "lc_run--0198c7d2-6c1a-7cc0-9d0e", 0, "text")
COUNT = itertools.count(100)
RECORDS = itertools.cycle(
    [ENCODER.encode(n, 1_764_600_000_000_000 + n, BLOCK, f" word{n}", ("", "")) for n in range(64)]
)


def tokens() -> bytes:
    return ENCODER.encode(next(COUNT), 1_764_600_000_000_000, BLOCK, " token", ("", ""))


def tokens_of_fastavro() -> bytes:
    path, message_id, block, kind = BLOCK
    n = next(COUNT)
    record = TokensEmitted(
        event_id=event_id(ENVELOPE["turn_id"], ENVELOPE["epoch"], n),
        n=n,
        at=1_764_600_000_000_000,
        path=path,
        message_id=message_id,
        block=block,
        kind=kind,
        text=" token",
        **ENVELOPE,
    )
    return CODEC.encode(record)


def fetch_request() -> bytes:
    return Fetch(TOPIC, TARGETS, max_wait_ms=500, min_bytes=1, max_bytes=1 << 24).body


def fetch_request_of_aiokafka() -> bytes:
    targets = [(n, -1, offset, -1, size) for n, offset, size in TARGETS]
    request = FetchRequest_v11(-1, 500, 1, 1 << 24, 0, 0, -1, [(TOPIC, targets)], [], "")
    return request.encode()


def produce_request_of_aiokafka() -> bytes:
    batches = [(to.partition, data) for to, data in BATCHES.items()]
    return ProduceRequest_v7(None, -1, 10_000, [(TOPIC, batches)]).encode()


ROWS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "fetch request": (fetch_request, fetch_request_of_aiokafka),
    "fetch answer": (
        lambda: Fetched.parse(ANSWER, 0),
        lambda: FetchResponse_v11.decode(BytesIO(ANSWER)),
    ),
    "produce request": (
        lambda: produce_request(BATCHES, timeout_ms=10_000),
        produce_request_of_aiokafka,
    ),
    "produce answer": (
        lambda: produce_answers(ACKS, 0),
        lambda: ProduceResponse_v7.decode(BytesIO(ACKS)),
    ),
    "tokens to Avro": (tokens, tokens_of_fastavro),
    "tokens from Avro": (
        lambda: DECODER.decode(next(RECORDS)),
        lambda: CODEC.decode(next(RECORDS)),
    ),
}
"""By hand, and the library's way."""


def seconds(call: Callable[[], object], times: int) -> float:
    """Return how long so many calls take."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Return how many times as long theirs takes."""
    times = 1
    while seconds(theirs, times) < ROUND_S:
        times *= 2
    pairs = [(seconds(ours, times), seconds(theirs, times)) for _ in range(ROUNDS)]
    return statistics.median(their / our for our, their in pairs)


def wire_forms() -> None:
    """Print the rows."""
    for name, (ours, theirs) in ROWS.items():
        times = ratio(ours, theirs)
        line(f"{name}, library / ours", f"{times:.2f}x", "1", "2", judge(times, 1, 2, more=True))
