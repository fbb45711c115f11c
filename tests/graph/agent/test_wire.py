"""Histories for model calls, answers as they come."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.models.openai.request import request_body
from turnstream.deploy.local.scripted.answer import fault_in_history
from turnstream.graph.agent.answer import Answer
from turnstream.graph.agent.history import NO_RESULT, chat_messages
from turnstream.schemas.chat import (
    AssistantMessage,
    CallResult,
    ChatAnswer,
    ChatRequest,
    Delta,
    ImagePart,
    Instruction,
    OtherPart,
    RequestedCall,
    TextPart,
    UserMessage,
)
from turnstream.schemas.fold.fold import ThreadFold
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import MessageFinished, TokensEmitted, Usage

MESSAGE = str(uuid.UUID(int=7))
WHOLE = ChatAnswer(finish_reason="stop", model="m", request_sha256="0" * 64)


def call(call_id: str) -> AIMessage:
    return AIMessage("", tool_calls=[tool_call(name="f", args={"a": 1}, id=call_id)])


def test_messages_of_every_kind():
    messages = [
        SystemMessage("be nice"),
        HumanMessage([{"type": "text", "text": "look"}, "here"]),
        call("c1"),
        ToolMessage("done", tool_call_id="c1"),
        AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ]
    assert chat_messages(messages, "prompt") == (
        Instruction("prompt"),
        Instruction("be nice"),
        UserMessage((TextPart("look"), TextPart("here"))),
        AssistantMessage("", (RequestedCall("c1", "f", {"a": 1}),)),
        CallResult("c1", "done"),
        AssistantMessage("ab"),
    )


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "image_url", "image_url": {"url": "u"}}, ImagePart("u")),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "low"}}, ImagePart("u", "low")),
        *(
            (block, OtherPart(block))
            for block in (
                {"type": "image_url", "image_url": {"url": "u", "more": 1}},
                {"type": "image_url", "image_url": {"url": "u"}, "more": 1},
                {"type": "image_url", "image_url": "u"},
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": None},
                {"type": "input_audio", "input_audio": {"data": "aa", "format": "wav"}},
                {"file": {}},
                {},
            )
        ),
    ],
)
def test_parts_of_a_message_lose_nothing(block, part):
    request = ChatRequest(messages=chat_messages([HumanMessage([block])], ""))
    assert request.messages == (UserMessage((part,)),)
    sent = msgspec.json.decode(request_body(request, "m"))["messages"]
    assert sent == [{"role": "user", "content": [block]}]


def test_arguments_that_were_no_json_are_quoted():
    bad = invalid_tool_call(name="f", args="{bad", id="c", error="no")
    assert chat_messages([AIMessage("", invalid_tool_calls=[bad])], "") == (
        AssistantMessage("", (RequestedCall("c", "f", {"not_json": "{bad"}),)),
        CallResult("c", NO_RESULT),
    )


ids = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.just(HumanMessage("x")),
    st.just(AIMessage("y")),
    ids.map(call),
    ids.map(lambda call_id: ToolMessage("r", tool_call_id=call_id)),
)


@given(st.lists(steps, max_size=8))
def test_any_history_becomes_one_that_servers_take(messages):
    request = ChatRequest(messages=chat_messages(messages, "prompt"))
    assert not fault_in_history(msgspec.json.decode(request_body(request, "m"))["messages"])


def said(
    *deltas: Delta, taken: set[str] | None = None, at_limit: bool = False
) -> tuple[AIMessage, MemoryEmitter]:
    emitter = MemoryEmitter.started()
    answer = Answer(emitter, "task", MESSAGE, taken or set())
    for delta in deltas:
        answer.push([delta])
    whole = msgspec.structs.replace(WHOLE, at_limit=at_limit)
    return answer.finish(whole, {}), emitter


def test_blocks_are_numbered_as_they_begin():
    message, emitter = said(
        Delta("reasoning", "r"),
        Delta("text", "a"),
        Delta("text", "b"),
        Delta("reasoning", "s"),
        Delta("text", "c"),
        Delta("tool_args", "", 0, "x", "f"),
        Delta("tool_args", "", 1, "y", "g"),
        Delta("tool_args", "{}", 0),
        Delta("tool_args", '{"a":1}', 1),
    )
    tokens = [event for event in emitter.events if isinstance(event, TokensEmitted)]
    assert [event.block for event in tokens] == [0, 1, 1, 2, 3, 4, 5, 4, 5]
    assert [event.tool_name for event in tokens[5:]] == ["f", "g", "", ""]
    assert message.content == "abc"
    assert message.additional_kwargs == {"reasoning_content": "rs"}
    assert [(c["id"], c["name"], c["args"]) for c in message.tool_calls] == [
        ("x", "f", {}),
        ("y", "g", {"a": 1}),
    ]


def test_a_server_that_repeats_the_id_with_every_piece():
    message, _ = said(
        Delta("tool_args", '{"a"', 0, "x", "f"), Delta("tool_args", ":1}", 0, "x", "f")
    )
    assert [c["args"] for c in message.tool_calls] == [{"a": 1}]


def test_missing_and_used_ids_are_made_anew_and_always_the_same():
    deltas = (Delta("tool_args", "{}", 0, "", "f"), Delta("tool_args", "{}", 1, "old", "f"))
    first, _ = said(*deltas, taken={"old"})
    again, _ = said(*deltas, taken={"old"})
    made = [c["id"] for c in first.tool_calls]
    assert made == [c["id"] for c in again.tool_calls]
    assert len({*made, "", "old"}) == 4


@pytest.mark.parametrize(
    "raw", ["{bad", "[1]", "5", '"x"', "\ud800", '"\\ud800"', '{"a":' + "[" * 100_000]
)
def test_arguments_that_are_no_object_are_kept_apart(raw):
    message, _ = said(Delta("tool_args", raw, 0, "x", "f"))
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["error"].startswith("no JSON object")


def test_halves_of_characters_in_arguments_are_replaced():
    message, _ = said(Delta("tool_args", r'{"a":"\ud83d","b":"\ud83d\ude00"}', 0, "x", "f"))
    assert [c["args"] for c in message.tool_calls] == [{"a": "\ufffd", "b": "😀"}]


def test_a_call_that_the_limit_cut_before_its_arguments_is_not_made():
    cut = [Delta("tool_args", "{}", 0, "x", "f"), Delta("tool_args", "", 1, "y", "f")]
    message, _ = said(*cut, at_limit=True)
    assert [c["id"] for c in message.tool_calls] == ["x"]
    assert [c["id"] for c in message.invalid_tool_calls] == ["y"]
    assert len(said(*cut)[0].tool_calls) == 2


def test_an_empty_answer_is_a_message_too():
    message, emitter = said()
    assert message.content == ""
    assert [type(event).__name__ for event in emitter.events[1:]] == [
        "MessageStarted",
        "MessageFinished",
    ]


def test_nul_in_arguments_is_replaced_as_well():
    message, emitter = said(Delta("tool_args", "a\x00b", 0, "x", "f"))
    (token,) = (event for event in emitter.events if isinstance(event, TokensEmitted))
    assert message.invalid_tool_calls[0]["args"] == token.text == "a\ufffdb"


def test_nul_is_said_and_kept_as_a_replacement_character():
    message, emitter = said(Delta("text", "a\x00b"))
    (token,) = (event for event in emitter.events if isinstance(event, TokensEmitted))
    assert message.content == token.text == "a\ufffdb"


def test_usage_in_langchains_form():
    answer = Answer(MemoryEmitter.started(), "task", MESSAGE, set())
    usage = Usage(model="m", input_tokens=9, output_tokens=4, reasoning_tokens=3, cached_tokens=5)
    message = answer.finish(msgspec.structs.replace(WHOLE, usage=usage), {"seed": 1})
    assert message.usage_metadata == {
        "input_tokens": 9,
        "output_tokens": 4,
        "total_tokens": 13,
        "input_token_details": {"cache_read": 5},
        "output_token_details": {"reasoning": 3},
    }


any_text = st.text(st.characters(codec=None), min_size=1, max_size=5)  # lone surrogates too


@given(st.lists(st.tuples(st.sampled_from(["text", "reasoning"]), any_text), max_size=12))
def test_what_readers_fold_is_what_the_state_keeps(parts):
    message, emitter = said(*(Delta(kind, text) for kind, text in parts))
    fold = ThreadFold()
    for event in emitter.events:
        fold.apply(event)
    (view,) = fold.turns.values()
    (shown,) = transcript(view).messages
    finished = emitter.events[-1]
    assert isinstance(finished, MessageFinished)
    assert shown.intact
    assert shown.finished
    message.content.encode()
