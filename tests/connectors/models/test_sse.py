"""The reader of chat-completions streams: pure, so every cut of the bytes can be tried."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.models.openai.deltas import EVENT_BYTES_MAX, DeltaParser
from turnstream.schemas.chat import Delta
from turnstream.schemas.errors import ModelBadResponseError
from turnstream.schemas.records.events import Usage


def sse(*chunks: object, end: str = "\n\n") -> bytes:
    return b"".join(f"data: {json.dumps(c, ensure_ascii=False)}{end}".encode() for c in chunks)


def delta(**fields: object) -> dict[str, object]:
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def feed(data: bytes, sizes: list[int] | None = None) -> tuple[list[Delta], DeltaParser]:
    parser, deltas, position = DeltaParser(), [], 0
    for size in sizes or []:
        deltas += parser.feed(data[position : position + size])
        position += size
    deltas += parser.feed(data[position:])
    return deltas + parser.end(), parser


texts = st.text(min_size=1, max_size=8)  # without surrogates: they are no JSON
events = st.one_of(
    texts.map(lambda text: delta(content=text)),
    texts.map(lambda text: delta(reasoning_content=text)),
    texts.map(lambda text: delta(reasoning=text)),
    st.tuples(st.integers(0, 3), texts).map(
        lambda it: delta(tool_calls=[{"index": it[0], "function": {"arguments": it[1]}}])
    ),
    st.just({"choices": []}),
    st.just(delta(role="assistant", content="")),
)


@given(
    chunks=st.lists(events, max_size=8),
    end=st.sampled_from(["\n\n", "\r\n\r\n"]),
    sizes=st.lists(st.integers(1, 40), max_size=60),
)
def test_any_cut_of_the_bytes_gives_the_same_deltas(chunks, end, sizes):
    data = b": hello\n\n" + sse(*chunks, end=end) + b"data: [DONE]" + end.encode()
    whole, parser = feed(data)
    cut, other = feed(data, sizes)
    assert cut == whole
    assert parser.done
    assert other.done
    assert parser.seen == other.seen == len(chunks)
    said = "".join(_said(chunk) for chunk in chunks)
    assert sorted("".join(delta.text for delta in whole)) == sorted(said)


def _said(chunk: dict[str, object]) -> str:
    """Return what a chunk of `events` says, whatever of."""
    (delta,) = [choice["delta"] for choice in chunk["choices"]] or [{}]  # type: ignore[attr-defined]
    fields = dict(delta)
    fields.pop("role", None)
    calls = fields.pop("tool_calls", [])
    return "".join([*fields.values(), *(call["function"]["arguments"] for call in calls)])


def test_a_character_cut_in_two_reads_stays_whole():
    data = sse(delta(content="흐름🌊"))
    for cut in range(1, len(data)):
        deltas, _ = feed(data, [cut])
        assert deltas == [Delta("text", "흐름🌊")]


def test_what_comes_beside_the_text():
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    end = {"model": "m", "choices": [{"delta": {}, "finish_reason": "length"}]}
    deltas, parser = feed(
        sse(delta(content="a"), end, {"model": "m", "choices": [], "usage": usage})
    )
    assert deltas == [Delta("text", "a")]
    assert parser.finish_reason == "length"
    assert parser.usage == Usage(
        model="m", input_tokens=10, output_tokens=4, reasoning_tokens=3, cached_tokens=8
    )
    assert not parser.done


def test_tool_calls_with_names_ids_and_objects_as_arguments():
    deltas, _ = feed(
        sse(
            delta(tool_calls=[{"index": 1, "id": "c", "function": {"name": "f", "arguments": ""}}]),
            delta(tool_calls=[{"index": 1, "function": {"arguments": '{"a":'}}]),
            delta(tool_calls=[{"index": 2, "function": {"name": "g", "arguments": {"a": 1}}}]),
            delta(tool_calls=[{"index": 3}]),
        )
    )
    assert deltas == [
        Delta("tool_args", '{"a":', 0, "c", "f"),
        Delta("tool_args", '{"a":1}', 1, "", "g"),
    ]


def finished(*chunks: object, reason: str = "stop") -> tuple[list[Delta], DeltaParser]:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return feed(b"".join(map(_escaped, (*chunks, end))) + b"data: [DONE]\n\n")


def _escaped(chunk: object) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def said(deltas: list[Delta], kind: str = "text") -> str:
    return "".join(delta.text for delta in deltas if delta.kind == kind)


def calls(*lists: list[dict[str, object]], names: tuple[str, ...] = ()) -> list[list[str]]:
    """Return name, arguments and id of each call that these lists of pieces make."""
    parser, deltas = DeltaParser(names), []
    for pieces in lists:
        deltas += parser.feed(_escaped(delta(tool_calls=pieces)))
    found: list[list[str]] = []
    for one in deltas + parser.end():
        if one.index == len(found):
            found.append([one.tool_name, "", one.tool_call_id])
        found[one.index][1] += one.text
    return found


def piece(name: str | None = None, arguments: object = "", **fields: object) -> dict[str, object]:
    return {"function": {"name": name, "arguments": arguments}, **fields}


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        # two calls
        ([[piece("a", "{}"), piece("b", "{}")]], [("a", "{}"), ("b", "{}")]),
        ([[piece("a", "{}"), piece("a", "{}")]], [("a", "{}"), ("a", "{}")]),
        ([[piece("a", "{}")], [piece("a", "{}")]], [("a", "{}"), ("a", "{}")]),
        ([[piece("a", "{}", index=0)], [piece("b", "{}", index=0)]], [("a", "{}"), ("b", "{}")]),
        (
            [[piece("a", "{}", index=0, id="x")], [piece("b", "{}", index=1, id="x")]],
            [("a", "{}"), ("b", "{}")],
        ),
        ([[piece("a"), piece("b")]], [("a", ""), ("b", "")]),
        ([[piece("a")], [piece("b")]], [("a", ""), ("b", "")]),
        (
            [[piece("a"), piece("b")], [piece(arguments="{1"), piece(arguments="{2")]],
            [("a", "{1"), ("b", "{2")],
        ),
        (
            [
                [piece("a", id="x"), piece("b", id="y")],
                [piece(arguments="{}", id="y")],
                [piece(arguments="{}", id="x")],
            ],
            [("a", "{}"), ("b", "{}")],
        ),
        (
            [[piece("a", '{"x":"}"', index=0)], [piece(arguments="}", index=0)],
             [piece("a", "{}", index=0)]],
            [("a", '{"x":"}"}'), ("a", "{}")],
        ),
        # one call
        ([[piece("a", index=0)], [piece("a", "{", index=0)], [piece("a", "}", index=0)]],
         [("a", "{}")]),
        ([[piece("a", index=0, id="1")], [piece("a", "{", index=0, id="2")],
          [piece("a", "}", index=0, id="3")]][1:], [("a", "{}")]),
        ([[piece("calcu", index=0)], [piece("late", index=0)], [piece(None, "{}", index=0)]],
         [("calculate", "{}")]),
        ([[piece("calcu")], [piece("late", "{")], [piece("", "}")]], [("calculate", "{}")]),
        ([[piece("calcu", index=0)], [piece("calculate", "{}", index=0)]], [("calculate", "{}")]),
        ([[piece("a")], [piece(arguments="{}", index=0)]], [("a", "{}")]),
        ([[piece("a", None)], [piece(None, None)], [{"function": None}], [{"index": 0}]],
         [("a", "")]),
        ([[piece("a", {})]], [("a", "{}")]),
        ([[piece(" a\n", "{}")]], [("a", "{}")]),
        ([[piece("a", [1])]], [("a", "[1]")]),
        ([[piece("a", "{}", index=1.0)], [piece("", " ", index="1")]], [("a", "{} ")]),
        ([[None, piece("a", "{}")]], [("a", "{}")]),
        ([[{"name": "a", "arguments": "{}"}]], [("a", "{}")]),
    ],
)  # fmt: skip
def test_pieces_of_tool_calls(lists, expected):
    assert [tuple(call[:2]) for call in calls(*lists, names=("a", "b", "calculate"))] == expected


def test_ids_of_tool_calls():
    assert calls([piece("a", "{}", id=5)], [piece("b", "{}", id="x", index=1)]) == [
        ["a", "{}", "5"],
        ["b", "{}", "x"],
    ]
    late = calls([piece("a", index=0)], [piece(index=0, id="x", arguments="{}")])
    assert late == [["a", "{}", "x"]]
    assert calls([piece("a\ud800", "{}", id="\x00")]) == [["a\ufffd", "{}", "\ufffd"]]


def test_text_behind_a_call_comes_behind_it():
    deltas, _ = feed(sse(delta(tool_calls=[piece("a", index=0)]), delta(content="x")))
    assert [one.kind for one in deltas] == ["tool_args", "text"]


def test_arguments_are_read_once_however_often_a_name_is_repeated():
    parser = DeltaParser()
    begun = time.process_time()
    for _ in range(20_000):
        parser.feed(_escaped(delta(tool_calls=[piece("a", '{"a":[}' + "}" * 20, index=0)])))
    assert time.process_time() - begun < 60


@pytest.mark.parametrize(
    ("pieces", "reasoning", "text"),
    [
        (["<think>a</think>b"], "a", "b"),
        (["<", "thi", "nk", ">a<", "/think", ">", "\n", "\nb"], "a", "b"),
        (["\n<think>\n a < b </th", " c</think>b"], "a < b </th c", "b"),
        (["<think>a"], "a", ""),
        (["<think>a</thin"], "a</thin", ""),
        (["[THINK]a[/THINK]b"], "a", "b"),
        (["<thinking>a</thinking>b<think>c"], "a", "b<think>c"),
        (["a <think>b</think>"], "", "a <think>b</think>"),
        (["<thick"], "", "<thick"),
        (["<", "b>"], "", "<b>"),
        ([" ", "\n", "x "], "", " \nx "),
        (["  "], "", "  "),
        (["<think></think>", "b"], "", "b"),
    ],
)
def test_reasoning_in_the_text(pieces, reasoning, text):
    deltas, parser = finished(*(delta(content=one) for one in pieces))
    assert (said(deltas, "reasoning"), said(deltas)) == (reasoning, text)
    assert parser.whole


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["\ud83d", "\ude00"], "😀"),
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["\ud83d\ude00"], "😀"),
        (["\ud83d", "b"], "\ufffdb"),
        (["\ude00", "\ud83d"], "\ufffd\ufffd"),
        (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
        (["\ud83d"], "\ufffd"),
    ],
)
@pytest.mark.parametrize("before", ["", "x"])
def test_halves_of_characters(pieces, text, before):
    chunks = [delta(content=one) for one in (before, *pieces)]
    assert said(finished(*chunks)[0]) == before + text
    chunks = [delta(reasoning=one) for one in (before, *pieces)]
    assert said(finished(*chunks)[0], "reasoning") == before + text
    lists = [[piece("a", one, index=0)] for one in (before, *pieces)]
    assert calls(*lists) == [["a", before + text, ""]]


def test_half_a_character_of_another_kind_is_none():
    deltas, _ = finished(delta(content="a\ud83d"), delta(reasoning="\ude00"), delta(content="b"))
    assert said(deltas) == "a\ufffdb"
    assert said(deltas, "reasoning") == "\ufffd"


@pytest.mark.parametrize(
    ("reason", "whole"),
    [
        ("stop", True), ("length", True), ("STOP", True), ("eos", True),
        ("max_tokens", True), ("end_turn", True), ("another", True), ("", False), ("null", False),
        ("error", False), ("abort", False), ("cancelled", False), ("content_filter", False),
        ("safety", False), ("malformed_function_call", False), ("network_error", False),
        ("timeout", False), ("insufficient_system_resource", False),
    ],
)  # fmt: skip
def test_reasons(reason, whole):
    assert finished(delta(content="a"), reason=reason)[1].whole is whole


@pytest.mark.parametrize("reason", [5, True, [], {"type": "abort"}, ["stop"]])
def test_a_reason_that_is_no_text_is_none(reason):
    _, parser = finished(delta(content="a"), reason=reason)
    assert not parser.whole


def test_a_reason_that_promises_calls_needs_one():
    assert not finished(delta(content="a"), reason="tool_calls")[1].whole
    assert finished(delta(tool_calls=[piece("a")]), reason="tool_calls")[1].whole


def test_text_behind_the_reason_needs_a_mark_of_the_end():
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    late = sse(delta(content="a"), end, delta(content="b"))
    assert not feed(late)[1].whole
    assert feed(late + b"data: [DONE]\n\n")[1].whole
    assert feed(late + sse(end))[1].whole


def test_a_message_behind_its_deltas_says_nothing_twice():
    message = {"role": "assistant", "content": "ab"}
    last = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    deltas, parser = feed(sse(delta(content="a"), delta(content="b"), last))
    assert (said(deltas), parser.whole) == ("ab", True)
    assert said(feed(sse(last))[0]) == "ab"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5.0, "completion_tokens": 2.9}, (5, 2)),
        ({"prompt_tokens": None, "completion_tokens": 2}, (0, 2)),
        ({"prompt_tokens": -5, "completion_tokens": "2"}, (0, 2)),
        ({"prompt_tokens": True, "completion_tokens": 2}, (0, 2)),
        ({"prompt_tokens": 10**30, "completion_tokens": 2}, (0, 2)),
        ({"prompt_tokens": 1e999, "completion_tokens": 2}, (0, 2)),
        ({"input_tokens": 5, "output_tokens": 2}, (5, 2)),
        ({}, None),
        ({"prompt_tokens": "many"}, None),
        ([5], None),
        ("5", None),
    ],
)
def test_usage_of_any_kind_costs_no_answer(usage, expected):
    deltas, parser = finished(delta(content="a"), {"choices": [], "usage": usage})
    found = parser.usage and (parser.usage.input_tokens, parser.usage.output_tokens)
    assert (said(deltas), parser.whole, found) == ("a", True, expected)


def test_a_lone_surrogate_becomes_a_replacement_character():
    deltas, _ = feed(b'data: {"choices":[{"delta":{"content":"a\\ud83cb"}}]}\n\n')
    assert deltas == [Delta("text", "a\ufffdb")]


def test_an_error_object_ends_the_reading():
    deltas, parser = feed(
        sse(delta(content="a"), {"error": {"message": "no", "code": 500}}, delta(content="b"))
    )
    assert deltas == [Delta("text", "a")]
    assert parser.error == {"error": {"message": "no", "code": 500}}


@pytest.mark.parametrize(
    "data",
    [
        b"data: {bad\n\n",
        b'data: "text"\n\n',
        b'data: {"choices":5}\n\n',
        b'data: {"choices":[{"delta":{"content":{"a":1}}}]}\n\n',
        b"data: \xff\xfe\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"choices":[{"delta":{"content":"a"}}],"x":' + b"[" * 100_000 + b"\n\n",
        b'data: {"choices":[5]}\n\n',
        b'data: {"choices":[{"delta":"a"}]}\n\n',
        b'data: {"choices":[{"delta":{"content":[5]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":[{"type":{},"text":5}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":' + b"[" * 80 + b"]" * 80 + b"}}]}\n\n",
        b'data: {"choices":[{"delta":{"tool_calls":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[5]}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":5}}]}}]}\n\n',
        b"x" * (EVENT_BYTES_MAX + 1),
        b"data: x\n" * EVENT_BYTES_MAX,
        b"data:\n" * EVENT_BYTES_MAX,
        b"{\n" + b"x\n" * EVENT_BYTES_MAX,
    ],
)
def test_what_is_no_chunk_is_refused(data):
    with pytest.raises(ModelBadResponseError):
        feed(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    with contextlib.suppress(ModelBadResponseError):
        feed(b"data: " + data + b"\n\n")
