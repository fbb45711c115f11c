"""What a scripted model answers: from a request and its script to pieces of an answer; pure."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from turnstream.deploy.local.scripted.script import Script, read_script

_TEXT = (
    "the a stream of events runs from here to there and every reader sees same order while "
    "nothing is lost or said twice because log keeps what was written 흐름 사건 기록 순서 그리고 "
    "답 é ß 東京 → 🌊 it now then we you they can may will if so but on in at by for with"
)
WORDS = _TEXT.split()
_PIECES = re.compile(r"\s*\S+|\s+$")


class Request(msgspec.Struct):
    """The body of `POST /v1/chat/completions`, as far as it matters here."""

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: object = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One token: what it is, its text, and for a tool call's first one id and name."""

    kind: Literal["text", "reasoning", "tool_args"]
    text: str
    index: int = 0
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The pieces in order, and why they end."""

    pieces: list[Piece]
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text, whether it is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def script_of(request: Request) -> Script:
    """Return the script in the last user message, over that in the model's name."""
    users = [message for message in request.messages if message.get("role") == "user"]
    return read_script(text_of(users[-1]) if users else "", read_script(request.model))


def fault_in_history(messages: list[dict[str, Any]]) -> str:
    """Return what vLLM or OpenAI would refuse in these messages; "" where nothing is wrong."""
    open_calls: set[str] = set()
    for message in messages:
        role = message.get("role")
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                return "a tool message must follow the assistant message that has its tool_call_id"
            open_calls.discard(str(message.get("tool_call_id")))
            continue
        if open_calls:
            return f"tool_calls without an answer: {sorted(open_calls)}"
        if role not in {"system", "developer", "user", "assistant"}:
            return f"unknown role {role!r}"
        for call in message.get("tool_calls") or ():
            open_calls.add(str(call.get("id")))
            try:
                msgspec.json.decode(call["function"]["arguments"], type=dict)
            except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError):
                return f"arguments of tool call {call.get('id')} are no JSON object"
    return f"tool_calls without an answer: {sorted(open_calls)}" if open_calls else ""


def answer_of(request: Request, script: Script, serial: int) -> Answer:
    """Return the answer; `serial` makes the ids of its tool calls unique."""
    last_user = max(
        (i for i, message in enumerate(request.messages) if message.get("role") == "user"),
        default=-1,
    )
    since = request.messages[last_user + 1 :]
    asked = sum(bool(message.get("tool_calls")) for message in since)
    offered = bool(request.tools) and request.tool_choice != "none"
    words = random.Random(script.seed)  # noqa: S311  text, not a secret
    pieces = [Piece("reasoning", " " + words.choice(WORDS)) for _ in range(script.reasoning)]
    finish = "stop"
    if script.tool and asked < script.rounds and (offered or script.insist):
        finish = "tool_calls"
        for index, (name, arguments) in enumerate(script.tool):
            pieces.append(Piece("tool_args", "", index, f"call_{serial}_{index}", name))
            pieces += [
                Piece("tool_args", arguments[i : i + 8], index) for i in range(0, len(arguments), 8)
            ]
    elif script.text:
        pieces += _split(script.text)
    elif script.tokens >= 0:
        pieces += [Piece("text", " " + word) for word in words.choices(WORDS, k=script.tokens)]
    else:
        results = [text_of(message) for message in since if message.get("role") == "tool"]
        echoed = text_of(request.messages[last_user]) if last_user >= 0 else ""
        pieces += _split("The tools say: " + "; ".join(results) if results else echoed)
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
    return Answer(
        pieces,
        script.finish or finish,
        sum(len(text_of(message)) // 4 + 4 for message in request.messages),
        min(script.reasoning, len(pieces)),
    )


def _split(text: str) -> list[Piece]:
    return [Piece("text", part) for part in _PIECES.findall(text)]
