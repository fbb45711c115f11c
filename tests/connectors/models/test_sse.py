"""The reader of chat-completions streams: pure, so every cut of the bytes can be tried."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.models.sse import EVENT_BYTES_MAX, DeltaParser
from turnstream.schemas.chat import Delta
from turnstream.schemas.errors import ModelBadResponseError
from turnstream.schemas.events import Usage


def sse(*chunks: object, end: str = "\n\n") -> bytes:
    return b"".join(f"data: {json.dumps(c, ensure_ascii=False)}{end}".encode() for c in chunks)


def delta(**fields: object) -> dict[str, object]:
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def feed(data: bytes, sizes: list[int] | None = None) -> tuple[list[Delta], DeltaParser]:
    parser, deltas, position = DeltaParser(), [], 0
    for size in sizes or []:
        deltas += parser.feed(data[position : position + size])
        position += size
    return deltas + parser.feed(data[position:]), parser


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
    assert len(whole) == sum(bool(_said(chunk)) for chunk in chunks)


def _said(chunk: dict[str, object]) -> bool:
    choices = chunk["choices"]
    return bool(choices) and any(
        value not in ("", "assistant") for value in choices[0]["delta"].values()
    )  # type: ignore[index]


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
        Delta("tool_args", "", 1, "c", "f"),
        Delta("tool_args", '{"a":', 1),
        Delta("tool_args", '{"a":1}', 2, "", "g"),
    ]


def test_a_lone_surrogate_becomes_a_replacement_character():
    deltas, _ = feed(b'data: {"choices":[{"delta":{"content":"a\\ud83cb"}}]}\n\n')
    assert deltas == [Delta("text", "a\ufffdb")]


def test_an_error_object_ends_the_reading():
    deltas, parser = feed(
        sse(delta(content="a"), {"error": {"message": "no", "code": 500}}, delta(content="b"))
    )
    assert deltas == [Delta("text", "a")]
    assert parser.error == {"message": "no", "code": 500}


@pytest.mark.parametrize(
    "data",
    [
        b"data: {bad\n\n",
        b'data: "text"\n\n',
        b'data: {"choices":5}\n\n',
        b'data: {"choices":[{"delta":{"content":{"a":1}}}]}\n\n',
        b"data: \xff\xfe\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"x" * (EVENT_BYTES_MAX + 1),
        b"data: x\n" * EVENT_BYTES_MAX,
    ],
)
def test_what_is_no_chunk_is_refused(data):
    with pytest.raises(ModelBadResponseError):
        feed(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    with contextlib.suppress(ModelBadResponseError):
        feed(b"data: " + data + b"\n\n")
