"""Commands as JSON: what is taken, and what is refused with which code."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.records.command_json import command_of_json, is_json
from turnstream.schemas.records.commands import CancelTurn, ResumeTurn, StartTurn
from turnstream.schemas.text import clean_json


@given(
    st.builds(
        StartTurn,
        thread_id=st.text(),
        text=st.text(),
        actor=st.text(),
        graph=st.text(),
        priority=st.integers(-(2**63), 2**63 - 1),
        on_busy=st.sampled_from(["enqueue", "reject"]),
    )
)
def test_a_command_written_as_json_is_the_command(command: StartTurn) -> None:
    assert command_of_json(msgspec.json.encode(command)) == command


def test_json_values_may_stand_where_json_text_does() -> None:
    value = {"messages": [{"role": "user", "content": "hi"}]}
    as_value = command_of_json(json.dumps({"thread_id": "t", "input": value}).encode())
    as_text = command_of_json(json.dumps({"thread_id": "t", "input": json.dumps(value)}).encode())
    assert isinstance(as_value, StartTurn)
    assert isinstance(as_text, StartTurn)
    assert json.loads(as_value.input) == json.loads(as_text.input) == value


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"thread_id": "t", "text": "x"}', StartTurn),
        (b'{"type": "StartTurn", "thread_id": "t", "text": "x"}', StartTurn),
        (b'{"type": "ResumeTurn", "thread_id": "t", "answers": {"a": 1}}', ResumeTurn),
        (b'{"type": "CancelTurn", "thread_id": "t", "turn_id": "u"}', CancelTurn),
    ],
)
def test_the_type_names_the_command(line: bytes, kind: type) -> None:
    assert type(command_of_json(line)) is kind


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "not_json"),
        (b"[]", "not_an_object"),
        (b'{"type": 7}', "unknown_type"),
        (b'{"type": "StartTurn ", "thread_id": "t"}', "unknown_type"),
        (b'{"thread_id": "t", "Text": "x"}', "unknown_field"),
        (b'{"text": "x"}', "missing_field"),
        (b'{"thread_id": 7}', "wrong_type"),
        (b'{"thread_id": "t", "expires_at": 1.5}', "wrong_type"),
        (b'{"thread_id": null}', "wrong_type"),
        (b'{"thread_id": "t"} {}', "not_json"),
        (b'{"thread_id": "\\ud800', "not_json"),
        (b'{"thread_id": "t", "expires_at": true}', "wrong_type"),
        (b'{"thread_id": "t", "at": "5"}', "wrong_type"),
        (b'{"thread_id": "t", "Text": null}', "unknown_field"),
        (b'{"type": {}}', "unknown_type"),
    ],
)
def test_each_mistake_has_its_code(line: bytes, code: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        command_of_json(line)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "line",
    [
        b'\xef\xbb\xbf{"thread_id": "t", "text": "x"}',
        b" " * 99 + b'\r\n\t{"thread_id": "t", "text": "x"}\r\n',
        b'\n\xef\xbb\xbf\n{"thread_id": "t", "text": "x"}',
        (
            b'{"thread_id": "t", "text": "x", "type": null, "turn_id": null, "actor": null,'
            b' "config": null, "input": null, "expires_at": null, "on_busy": null,'
            b' "answers": null, "reason": null, "rollback": null}'
        ),
        b'{"thread_id": "t", "text": "x", "priority": 0.0, "expires_at": 0e5}',
    ],
)
def test_what_serialisers_of_other_languages_add_changes_nothing(line: bytes) -> None:
    assert is_json(line)
    assert command_of_json(line) == StartTurn(thread_id="t", text="x")


def test_a_whole_number_may_have_a_fraction_of_zero() -> None:
    line = b'{"thread_id": "t", "text": "x", "expires_at": 1.7e15, "priority": -5.0}'
    command = command_of_json(line)
    assert isinstance(command, StartTurn)
    assert (command.expires_at, command.priority) == (1_700_000_000_000_000, -5)


@pytest.mark.parametrize(
    "data", [b"", b"\xc3\x01{", b"\0\0\0\0{", b"start", b"\xef\xbb", b" " * 99]
)
def test_what_is_not_meant_as_json(data: bytes) -> None:
    assert not is_json(data)


def test_lone_surrogates_and_nul_become_u_fffd() -> None:
    command = command_of_json(b'{"thread_id": "t", "text": "a\\ud800b", "actor": "\\ud83d\\ude00"}')
    assert isinstance(command, StartTurn)
    assert command.text == "a\ufffdb"
    assert command.actor == "\U0001f600"
    assert clean_json({"a\x00": ["\ud800", 1, None]}) == {"a\ufffd": ["\ufffd", 1, None]}
