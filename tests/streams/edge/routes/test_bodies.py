"""What a body may hold, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from turnstream.schemas.errors import InvalidRequestError
from turnstream.schemas.limits import DEPTH_MAX
from turnstream.streams.edge.ask.run_request import refuse
from turnstream.streams.edge.routes.bodies import RunBody, ThreadBody
from turnstream.streams.edge.routes.following import names
from turnstream.streams.edge.routes.present import selected
from turnstream.streams.edge.routes.starting import modes_of


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["a\x00", {"a": ["\ud800"]}, {"a\x00": 1}, 1 << 63, nested(DEPTH_MAX + 1), float("nan")],
)
def test_what_no_store_could_hold(value: Any) -> None:
    with pytest.raises(ValidationError):
        RunBody(assistant_id="agent", input=value)


def test_nulls_and_unknown_fields_are_as_if_left_out() -> None:
    body = RunBody.model_validate(
        {"assistant_id": "agent", "input": None, "command": None, "feedback_keys": ["a"], "x": 1}
    )
    assert body.command is None
    assert ThreadBody.model_validate({"metadata": None}).metadata is None


def test_the_first_field_that_asks_for_something_is_named() -> None:
    refuse(a=None, b=[], c=0)
    with pytest.raises(InvalidRequestError) as refused:
        refuse(a=None, webhook="http://x")
    assert (refused.value.code, refused.value.field) == ("unsupported", "webhook")


def test_modes() -> None:
    default = frozenset({"values"})
    assert modes_of(None, default) == default
    assert modes_of("updates", default) == {"updates"}
    assert modes_of(["updates", "debug"], default) == {"updates", "debug"}
    with pytest.raises(InvalidRequestError, match="'events'"):
        modes_of(["updates", "events"], default)


def test_names_in_a_query() -> None:
    assert names(["a", "b"]) == ["a", "b"]
    assert names(['["a","b"]']) == ["a", "b"]
    assert names(['"a"']) == ["a"]
    assert names(["[oops"]) == ["[oops"]
    assert not names([""])
    assert not names(None)


def test_selected_fields() -> None:
    state = {"values": {"a": 1, "b": 2}, "next": []}
    assert selected(state, None) == state
    assert selected(state, ["next"]) == {"next": []}
    assert selected(state, ["values.a", "values.c"]) == {"values": {"a": 1}}
    with pytest.raises(InvalidRequestError):
        selected(state, ["secrets"])
    with pytest.raises(InvalidRequestError):
        selected(state, ["next.a"])
