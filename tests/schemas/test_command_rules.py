"""What a command may be, for workers and edges alike."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from turnstream.schemas.errors import InvalidRequestError, TooLargeError
from turnstream.schemas.limits import DEPTH_MAX
from turnstream.schemas.records.command_rules import CommandLimits, checked
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn, StartTurn

LIMITS = CommandLimits(text_chars_max=1000, metadata_bytes_max=1000, locked=frozenset({"model"}))


def start(**fields: Any) -> StartTurn:
    return StartTurn(**{"tenant": "acme", "thread_id": "t", "text": "x", **fields})


def given_input(value: Any) -> StartTurn:
    return start(text="", input=value if isinstance(value, str) else json.dumps(value))


def resume(answers: str, **fields: Any) -> ResumeTurn:
    return ResumeTurn(tenant="acme", thread_id="t", answers=answers, **fields)


@pytest.mark.parametrize("field", ["at", "expires_at"])
@pytest.mark.parametrize(
    "micros", [-1, -(2**63), 253_402_300_800_000_000, 2**63, 2**64 - 1, 10**30]
)
def test_a_time_is_one_that_a_calendar_has(field: str, micros: int) -> None:
    for command in (start, lambda **given: resume('{"a": 1}', **given)):
        with pytest.raises(InvalidRequestError) as refused:
            checked(command(**{field: micros}), LIMITS)
        assert (refused.value.code, refused.value.field) == (f"invalid_{field}", field)


@pytest.mark.parametrize("priority", [2**63, -(2**63) - 1, 10**40])
def test_a_priority_has_64_bits(priority: int) -> None:
    with pytest.raises(InvalidRequestError, match="64 bits"):
        checked(start(priority=priority), LIMITS)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (start(thread_id=""), "invalid_thread_id"),
        (start(thread_id="a\nb"), "invalid_thread_id"),
        (start(thread_id="a\ufffd"), "invalid_thread_id"),
        (start(tenant="a/b"), "invalid_tenant"),
        (start(turn_id="1"), "invalid_turn_id"),
        (start(actor="x" * 501), "invalid_actor"),
        (start(actor="\ud800"), "invalid_actor"),
        (start(correlation_id="\x00"), "invalid_correlation_id"),
        (start(traceparent="x" * 501), "invalid_traceparent"),
        (start(graph="\x00"), "invalid_graph"),
        (start(idempotency_key="a\ufffd"), "invalid_idempotency_key"),
        (start(idempotency_key="\ud83d"), "invalid_idempotency_key"),
        (start(on_busy="explode"), "invalid_on_busy"),
        (start(text=""), "invalid_input"),
        (given_input("null"), "invalid_input"),
        (given_input("{"), "invalid_input"),
        (start(input="{}"), "invalid_input"),
        (start(config="[]"), "invalid_config"),
        (start(config='{"configurable": []}'), "invalid_config"),
        (start(config='{"configurable": {"model": "big"}}'), "configurable_locked"),
        (start(config='{"context": {"model": "big"}}'), "configurable_locked"),
        (start(config='{"context": 7}'), "invalid_config"),
        (start(metadata="7"), "invalid_metadata"),
        (resume(""), "invalid_answers"),
        (resume("null"), "invalid_answers"),
        (resume("{}"), "invalid_answers"),
        (resume("[1]"), "invalid_answers"),
        (CancelTurn(tenant="acme", thread_id=" t"), "invalid_thread_id"),
    ],
)
def test_what_cannot_be_right_is_named(command: Any, code: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        checked(command, LIMITS)
    assert refused.value.code == code


@pytest.mark.parametrize("field", ["input", "config", "metadata", "answers"])
def test_each_json_field_has_one_depth_limit(field: str) -> None:
    def command(levels: int) -> Any:
        text = '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"
        if field == "answers":
            return resume(text)
        return start(**({"text": "", "input": text} if field == "input" else {field: text}))

    assert checked(command(DEPTH_MAX), LIMITS)
    for levels in (DEPTH_MAX + 1, 600, 100_000):
        with pytest.raises(InvalidRequestError) as refused:
            checked(command(levels), LIMITS)
        assert (refused.value.code, refused.value.field) == ("too_deep", field)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_one_measure_for_text_and_json_however_it_is_written(ascii_only: bool) -> None:
    def written(length: int) -> str:
        value = {"messages": [{"role": "user", "content": "é" * length}]}
        return json.dumps(value, ensure_ascii=ascii_only, indent=2)

    around = len('{"messages":[{"role":"user","content":""}]}')
    assert checked(start(text="é" * 1000), LIMITS)
    assert checked(given_input(written(1000 - around)), LIMITS)
    with pytest.raises(TooLargeError) as refused:
        checked(start(text="é" * 1001), LIMITS)
    assert (refused.value.code, refused.value.field, refused.value.status) == (
        "text_too_long",
        "text",
        413,
    )
    with pytest.raises(TooLargeError) as refused:
        checked(given_input(written(1001 - around)), LIMITS)
    assert (refused.value.code, refused.value.field) == ("text_too_long", "input")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (resume(json.dumps({"a": "x" * 1000})), "answers_too_long"),
        (start(config=json.dumps({"tags": ["x" * 1000]})), "config_too_long"),
        (start(metadata=json.dumps({"a": "é" * 500}, ensure_ascii=False)), "metadata_too_large"),
    ],
)
def test_the_other_fields_are_bounded_too(command: Any, code: str) -> None:
    with pytest.raises(TooLargeError) as refused:
        checked(command, LIMITS)
    assert refused.value.code == code


def test_odd_characters_are_cleaned_and_the_rest_stays_as_it_was() -> None:
    command = checked(start(text="a\ud83d\x00b", config='{ "tags": ["\\ud83d", "é"] }'), LIMITS)
    assert command.text == "a\ufffd\ufffdb"
    assert json.loads(command.config) == {"tags": ["\ufffd", "é"]}
    plain = start(config='{ "tags": [ 1.0 ] }', metadata='{"a" :1}')
    assert checked(plain, LIMITS) == plain
    assert checked(start(text="x", input="null"), LIMITS) == start(text="x")
    assert msgspec.structs.asdict(checked(start(), CommandLimits())) == msgspec.structs.asdict(
        start()
    )
