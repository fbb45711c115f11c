"""A command is encoded once on its way in, and decoded once where the same worker runs it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.avro import Codec
from turnstream.connectors.kafka.write.commands import KafkaCommands
from turnstream.schemas.limits import MICROS_MAX
from turnstream.schemas.records.command_rules import CommandLimits
from turnstream.schemas.records.commands import Command, ResumeTurn, StartTurn
from turnstream.streams.edge.ask import identity, submit
from turnstream.streams.edge.ask.submit import Asked, Submit
from turnstream.streams.edge.server.auth import Principal
from turnstream.streams.worker.admission import Rules, admission_for, command_in
from turnstream.streams.worker.entry.body import body_of

CODEC = Codec()
KIM = Principal(tenant="acme", user="kim", verified=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often commands went through a codec, and values of clients became JSON."""
    counted: Counter[str] = Counter()
    encode, decode, compact = Codec.encode, Codec.decode, submit.compact

    def encoding(self: Codec, record: msgspec.Struct) -> bytes:
        counted["encode"] += isinstance(record, Command)
        return encode(self, record)

    def decoding(self: Codec, data: bytes) -> msgspec.Struct:
        record = decode(self, data)
        counted["decode"] += isinstance(record, Command)
        return record

    def writing(value: object) -> str:
        counted["json"] += 1
        return compact(value)

    monkeypatch.setattr(Codec, "encode", encoding)
    monkeypatch.setattr(Codec, "decode", decoding)
    monkeypatch.setattr(submit, "compact", writing)
    return counted


class Sent:
    """Takes what the producer of commands is given."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send_and_wait(self, _topic: str, value: bytes, **_more: object) -> None:
        self.values.append(value)


class Open:
    """A gate that takes everything."""

    def check(self, *, starts: bool) -> None:
        """Take it."""

    def started(self) -> None:
        """Count nothing."""


async def test_an_edge_encodes_a_command_once(counts: Counter[str]) -> None:
    log = KafkaCommands("127.0.0.1:1", "turns", CODEC)
    await log._producer.stop()
    log._producer = producer = cast("Any", Sent())
    asking = Submit(log, cast("Any", None), Open(), limits=CommandLimits())
    asked = Asked(thread_id="t", config={"tags": ["a"]}, metadata={"m": 1})
    start = asking.start_of(KIM, asked, input={"messages": ["x"]})
    assert counts == {"json": 3}, "input, config and metadata"
    await asking._append("acme/t", start)
    assert counts == {"json": 3, "encode": 1}
    assert CODEC.decode(producer.values[0]) == start
    assert not hasattr(identity, "json"), "the caller goes into the config before it is JSON"


def test_a_worker_encodes_and_decodes_a_command_once(counts: Counter[str]) -> None:
    limits = CommandLimits()
    rules = Rules(wire=CODEC, store=CODEC, graphs={"agent"}, partitions=3, limits=limits)
    value = CODEC.encode(StartTurn(tenant="acme", thread_id="t", text="x" * 1000, at=7))
    record = cast("Any", Arrived(value))
    counts.clear()
    command = command_in(record, None, "id", rules)
    admission = admission_for(command, record, rules)
    assert counts == {"encode": 1, "decode": 1}
    assert CODEC.decode(admission.body) == command


class Arrived:
    """A record of an input topic."""

    topic, partition, offset, key, headers = "turns", 0, 1, None, ()

    def __init__(self, value: bytes) -> None:
        self.value = value


@given(
    st.sampled_from([StartTurn, ResumeTurn]),
    st.lists(TEXTS, min_size=7, max_size=7),
    st.integers(0, MICROS_MAX),
    st.sampled_from(["", "0" * 70, "trace"]),
)
def test_body_and_digest_are_those_of_two_encodings(
    kind: type[StartTurn | ResumeTurn], texts: list[str], at: int, traceparent: str
) -> None:
    names = ("tenant", "thread_id", "turn_id", "idempotency_key", "actor", "config", "metadata")
    answers = {"answers": "{}"} if kind is ResumeTurn else {}
    fields: Any = dict(zip(names, texts, strict=True)) | answers
    command = kind(**fields, at=at, traceparent=traceparent)
    asked = msgspec.structs.replace(command, at=0, traceparent="")
    expected = CODEC.encode(command), hashlib.sha256(CODEC.encode(asked)).digest()
    assert body_of(command, CODEC) == expected
