"""The chunks of an answer, and a fast reader of their usual form; pure.

`patient.py` reads all other forms into the same types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from turnstream.schemas.records.events import Usage

MODEL_CHARS_MAX = 256
_TOKENS_MAX = 1 << 53
"""Of a count; a larger one, or one below 0, counts as 0."""


class Function(msgspec.Struct, gc=False):
    """What a piece of a tool call says; old llama.cpp has the call's id in here."""

    name: str | None = None
    arguments: str | dict[str, object] | None = None
    id: str | None = None


class ToolCallPiece(Function, gc=False):
    """A piece of a tool call; without `function` it has name and arguments itself."""

    index: int | None = None
    function: Function | None = None


class ChunkDelta(msgspec.Struct, gc=False):
    """What a chunk adds to the answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    function_call: Function | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers of a request; only one is read. `completes`: its delta is all of it."""

    index: int | None = None
    delta: ChunkDelta | None = None
    finish_reason: str | None = None
    usage: object = None
    error: object = None
    completes: bool = False


class Chunk(msgspec.Struct, gc=False):
    """One event of an answer."""

    choices: Sequence[Choice] | None = None
    usage: object = None
    model: str | None = None
    error: object = None


# The usual form: where a field that is None here holds anything, the fast reader refuses the event.


class _UsualDelta(ChunkDelta, gc=False):
    refusal: Literal[""] | None = None
    function_call: None = None


class _UsualChoice(Choice, gc=False):
    delta: _UsualDelta | None = None
    usage: None = None
    error: None = None
    completes: None = None  # type: ignore[assignment]


class _UsualChunk(Chunk, gc=False):
    choices: list[_UsualChoice] | None = None
    error: None = None


decode_chunk = msgspec.json.Decoder(_UsualChunk).decode
"""Reads the usual form; raises `msgspec.DecodeError` or `RecursionError` for any other."""


def read_usage(value: object, model: str) -> Usage | None:
    """Return the usage in a chunk's field; None where it counts nothing that can be read."""
    if not isinstance(value, dict):
        return None
    spent = _count(value, "prompt_tokens", "input_tokens")
    made = _count(value, "completion_tokens", "output_tokens")
    if spent is None and made is None:
        return None
    return Usage(
        model=model,
        input_tokens=spent or 0,
        output_tokens=made or 0,
        reasoning_tokens=_count(value.get("completion_tokens_details"), "reasoning_tokens") or 0,
        cached_tokens=_count(value.get("prompt_tokens_details"), "cached_tokens") or 0,
    )


def _count(value: object, *names: str) -> int | None:
    if not isinstance(value, dict):
        return None
    for name in names:
        count = value.get(name)
        if isinstance(count, str):
            count = int(count) if count.isdecimal() and len(count) < 16 else None  # noqa: PLR2004
        if isinstance(count, (int, float)) and not isinstance(count, bool):
            return int(count) if math.isfinite(count) and 0 <= count <= _TOKENS_MAX else 0
    return None
