"""Whatever a record holds, it is admitted or refused with a code, and nothing else happens."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from turnstream.connectors.avro import Codec
from turnstream.connectors.postgres.ledger.rows import Admission
from turnstream.schemas.errors import InvalidRequestError, UndecodableError
from turnstream.schemas.ids import turn_id_of_record
from turnstream.schemas.limits import DEPTH_MAX, INT_MAX, INT_MIN
from turnstream.schemas.records.command_rules import CommandLimits
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn, StartTurn
from turnstream.streams.worker.admission import Rules, admission_of, letter_of

CODEC = Codec()
RULES = Rules(
    wire=CODEC, store=CODEC, graphs=frozenset({"agent"}), partitions=24, limits=CommandLimits()
)
LETTER = "0d9a1f5e-53a5-4f4e-9a0e-b3a0a4f3a111"


@dataclass
class Record:
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, Any]] = field(default_factory=list)
    topic: str = "turns.default"
    partition: int = 3
    offset: int = 7


def admitted(value: bytes | None, **record: Any) -> Admission:
    return admission_of(Record(value, **record), "default", "topic", RULES)


def refused(value: bytes) -> str:
    with pytest.raises((UndecodableError, InvalidRequestError)) as caught:
        admitted(value)
    return caught.value.code


@pytest.mark.parametrize("kind", ["StartTurn", "ResumeTurn"])
def test_a_priority_is_accepted_and_changes_nothing_but_the_command_itself(kind: str) -> None:
    asked = '"text": "x"' if kind == "StartTurn" else '"answers": {"i": 1}'
    plain, first, last = (
        admitted(f'{{"type": "{kind}", "thread_id": "p", {asked}{priority}}}'.encode())
        for priority in ("", f', "priority": {2**63 - 1}', f', "priority": {-(2**63)}')
    )
    for one in (first, last):
        assert replace(one, body=plain.body, body_sha=plain.body_sha) == plain
        assert one.body_sha != plain.body_sha, "the same turn id would be another command"


NUMBERS = [
    "18446744073709551615",
    "-1",
    "9223372036854775808",
    "1e300",
    "-9223372036854775809",
    "1.5",
    "NaN",
    "1" * 5000,
    "true",
    '"1"',
    "[]",
    "253402300800000000",
    "-0.5",
    "1e999",
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["at", "expires_at", "priority"])
def test_a_number_that_postgres_or_a_calendar_lacks_is_refused(name: str, number: str) -> None:
    line = f'{{"thread_id": "p", "text": "x", "{name}": {number}}}'.encode()
    if name == "priority" and number in {"-1", "253402300800000000"}:
        assert admitted(line).kind == "start"
    else:
        assert refused(line)


@pytest.mark.parametrize("micros", [INT_MIN, -1, 253_402_300_800_000_000, INT_MAX])
def test_the_same_numbers_in_avro(micros: int) -> None:
    for command in (
        StartTurn(thread_id="p", text="x", expires_at=micros),
        StartTurn(thread_id="p", text="x", at=micros),
        ResumeTurn(thread_id="p", answers='{"a": 1}', expires_at=micros),
    ):
        assert refused(CODEC.encode(command)) in {"invalid_at", "invalid_expires_at"}
    assert admitted(CODEC.encode(StartTurn(thread_id="p", text="x", priority=micros)))


def test_deep_json_is_refused_in_every_form() -> None:
    deep = "[" * 600 + "]" * 600
    lines = [
        f'{{"thread_id": "p", "input": {deep}}}'.encode(),
        f'{{"thread_id": "p", "text": "x", "metadata": {{"a": {deep}}}}}'.encode(),
        f'{{"type": "ResumeTurn", "thread_id": "p", "answers": {{"a": {deep}}}}}'.encode(),
        json.dumps({"thread_id": "p", "input": deep}).encode(),
        json.dumps({"thread_id": "p", "input": '{"\\u0041":' + deep + "}"}).encode(),
        CODEC.encode(StartTurn(thread_id="p", input=deep)),
        CODEC.encode(StartTurn(thread_id="p", text="x", config='{"a":' + deep + "}")),
        CODEC.encode(ResumeTurn(thread_id="p", answers='{"a":' + deep + "}")),
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
    ]
    assert {refused(line) for line in lines} == {"too_deep"}
    whole = "[" * DEPTH_MAX + "]" * DEPTH_MAX
    assert admitted(CODEC.encode(StartTurn(thread_id="p", input=whole)))
    assert admitted(f'{{"thread_id": "p", "input": {whole}}}'.encode())


@pytest.mark.parametrize(
    "headers",
    [
        [("letter", None), ("requeues", b"1")],
        [("letter", LETTER.encode()), ("requeues", None)],
        [("letter", LETTER.encode())],
        [("requeues", b"1")],
        [("letter", b"\xff\xfe"), ("requeues", b"1")],
        [("letter", b""), ("requeues", b"1")],
        [("letter", LETTER.encode()), ("requeues", b"-1")],
        [("letter", LETTER.encode()), ("requeues", b"9" * 5000)],
        [("letter", LETTER.encode()), ("requeues", "²".encode())],
        [("letter", LETTER.encode()), ("requeues", b"1"), ("letter", None)],
        [("letter", LETTER.encode()), ("requeues", b"1"), ("requeues", b"\xff")],
    ],
)
def test_headers_that_are_none_of_ours_are_no_headers(headers: list[tuple[str, Any]]) -> None:
    record = Record(b'{"thread_id": "p", "text": "x"}', headers=headers)
    assert letter_of(record, "topic") == (turn_id_of_record("topic", 3, 7), 0)
    assert admission_of(record, "default", "topic", RULES).turn_id == turn_id_of_record(
        "topic", 3, 7
    )


def test_of_several_headers_the_last_counts() -> None:
    headers = [
        ("letter", None),
        ("requeues", b"x"),
        ("requeues", b"3"),
        ("letter", LETTER.encode()),
    ]
    assert letter_of(Record(b"", headers=headers), "topic") == (
        msgspec.convert(LETTER, type(turn_id_of_record("t", 0, 0))),
        3,
    )


# -- any record ----------------------------------------------------------------------------------

STRINGS = [
    "",
    "p",
    "\ud83d",
    "\x00",
    "\ufffd",
    "a/b",
    " a",
    "x" * 501,
    "é" * 200_001,
    LETTER,
    "{}",
    "null",
    "[" * 300,
    "\u202e",
    "agent",
    "enqueue",
    "default",
    '{"a": 1e999}',
    '{"\\ud83d": "\\u0000"}',
    '{"configurable": 7}',
]
VALUES: list[Any] = [
    *STRINGS,
    None,
    True,
    0,
    -1,
    2**63,
    2**64,
    -(2**70),
    10**400,
    1.5,
    5.0,
    1e300,
    float("nan"),
    [],
    {},
    [[[]]],
    {"a": "\ud83d"},
    {"messages": [{"content": "x"}]},
]
HEADERS: list[Any] = [None, b"", b"1", b"\xff", LETTER.encode(), b"9" * 30]


def some_value(rng: random.Random) -> Any:
    value = rng.choice(VALUES)
    for _ in range(rng.choice([0, 0, 0, 1, 30, 70, 500])):
        value = {"a": value} if rng.random() < 0.5 else [value]
    return value


def some_json(rng: random.Random) -> bytes:
    names = ["type", *StartTurn.__struct_fields__, "answers", "reason", "rollback", "Foo"]
    fields = {"thread_id": "p", "text": "x"} if rng.random() < 0.7 else {}
    fields |= {rng.choice(names): some_value(rng) for _ in range(rng.randrange(4))}
    if rng.random() < 0.3:
        fields["type"] = rng.choice(["StartTurn", "ResumeTurn", "CancelTurn"])
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.5)
    return rng.choice([b"", b"", b"\xef\xbb\xbf", b" \n"]) + text.encode("utf-8", "surrogatepass")


def some_avro(rng: random.Random) -> bytes:
    command = rng.choice([StartTurn, ResumeTurn, CancelTurn])
    fields: dict[str, Any] = {"thread_id": "p", "answers": "{}", "text": "x"}
    for name in command.__struct_fields__:
        if rng.random() < 0.2:
            fields[name] = (
                rng.choice([0, -1, INT_MAX, INT_MIN, rng.randrange(INT_MIN, INT_MAX)])
                if name in {"at", "expires_at", "priority"}
                else rng.choice(STRINGS).encode("utf-8", "replace").decode()
            )
    fields = {name: value for name, value in fields.items() if name in command.__struct_fields__}
    fields["rollback" if command is CancelTurn else "thread_id"] = (
        fields.get("thread_id") if command is not CancelTurn else rng.random() < 0.5
    )
    return CODEC.encode(command(**fields))


def mangled(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + rng.randbytes(rng.randrange(6)) + data[at:]
            case 2:
                data = data[:at] + rng.randbytes(1) + data[at + 1 :]
            case _:
                data = data[:at] + data[at + rng.randrange(4) :]
    return data


def some_record(rng: random.Random) -> Record:
    value = rng.choice([some_json, some_json, some_avro])(rng)
    if rng.random() < 0.5:
        value = mangled(rng, value)
    if rng.random() < 0.02:
        value = rng.choice([None, b"", rng.randbytes(40)])
    names = ["letter", "requeues", "traceparent"]
    return Record(
        value,
        key=rng.choice([None, b"", b"p", b"default/p", b"\xff"]),
        headers=[(rng.choice(names), rng.choice(HEADERS)) for _ in range(rng.randrange(4))],
    )


def fuzz(seed: int, seconds: float, records_max: int) -> tuple[int, int]:
    """Return how many records were tried and how many of them were admitted."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    tried = taken = 0
    while tried < records_max and time.monotonic() < until:
        record = some_record(rng)
        tried += 1
        try:
            admission = admission_of(record, rng.choice([None, "default"]), "topic", RULES)
        except (UndecodableError, InvalidRequestError) as error:
            assert error.code
            str(error).encode()
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, record {tried}: {record}") from error
        taken += 1
        assert admission.thread_id
        if admission.body:
            assert CODEC.decode(admission.body)
            assert all(isinstance(one, str) and "\x00" not in one for one in admission.answers)
    return tried, taken


def test_any_record_is_admitted_or_refused_with_a_code() -> None:
    tried, taken = fuzz(seed=11, seconds=10.0, records_max=2500)
    assert tried > 100
    assert 0 < taken < tried
