from __future__ import annotations

import json
import time

import pytest

from turnstream.graph.run.questions import MESSAGE_CHARS_MAX, asked_fields, wrong_answer
from turnstream.schemas.errors import GraphError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "trips": {"type": "array", "items": {"$ref": "#/$defs/trip"}},
    },
    "required": ["name"],
    "$defs": {"trip": {"type": "object", "required": ["to"]}},
}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"name": "kim", "trips": [{"to": "Busan"}]}, None),
        ({}, "name"),
        ({"name": 7}, "name"),
        ({"name": "kim", "trips": [{"to": "Busan"}, {}]}, "trips.1.to"),
        ("kim", ""),
        (None, ""),
    ],
)
def test_the_message_begins_with_the_field(answer, field):
    found = wrong_answer({"x": 1, "i": answer}, {"i": json.dumps(PERSON)})
    if field is None:
        assert found == ""
    else:
        place = ".".join(filter(None, ["answers.i", field]))
        assert found.startswith(f"{place}: ")
        assert found.partition(": ")[2]


def test_a_message_is_bounded_and_clean():
    found = wrong_answer({"i": "x\ud800" * 10_000}, {"i": '{"type": "integer"}'})
    assert len(found) == MESSAGE_CHARS_MAX
    found.encode()


@pytest.mark.parametrize("answer", [10**400, float("nan"), -(10**400), {"a": float("inf")}])
def test_numbers_that_are_none_of_json_end_nothing_but_the_answer(answer):
    assert wrong_answer({"i": answer}, {"i": '{"type": "string"}'}).startswith("answers.i: ")


def test_an_answer_without_a_schema_is_free():
    assert wrong_answer({"i": object()}, {}) == ""


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:9/x"}])
def test_a_schema_that_is_none_fails_when_it_is_asked(schema):
    with pytest.raises(GraphError) as caught:
        asked_fields("?", schema)
    assert caught.value.code == "response_schema"
    # and should one have come to be stored, nobody waits for ever
    assert wrong_answer({"i": 1}, {"i": json.dumps(schema)}).startswith("answers.i: ")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ({"expires_in_s": 5}, 5),
        ({"expires_in_s": 0.5}, 0.5),
        ({"expires_in_s": 0}, None),
        ({"expires_in_s": -1}, None),
        ({"expires_in_s": 1e300}, None),
        ({"expires_in_s": "soon"}, None),
        ("expires_in_s", None),
        ({}, None),
    ],
)
def test_the_time_to_answer(value, seconds):
    before = time.time_ns() // 1000
    expires_at = asked_fields(value, None)["expires_at"]
    after = time.time_ns() // 1000
    if seconds is None:
        assert expires_at == 0
    else:
        assert before <= expires_at - seconds * 1_000_000 <= after
