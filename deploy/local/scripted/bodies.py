"""The bytes of a scripted answer in the form of the chat completions API; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from turnstream.deploy.local.scripted.answer import Answer, Piece
    from turnstream.deploy.local.scripted.script import Script

STAMP = b"@stamp@"
"""Stands in a frame for the time at which it is written."""
_encode = msgspec.json.encode


def usage_of(answer: Answer) -> dict[str, Any]:
    """Return the usage object of an answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": len(answer.pieces),
        "total_tokens": answer.prompt_tokens + len(answer.pieces),
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
    }


def delta_of(piece: Piece, script: Script) -> dict[str, Any]:
    """Return the delta object of a token."""
    if piece.kind == "text":
        return {"content": piece.text}
    if piece.kind == "reasoning":
        return {script.reasoning_field: piece.text}
    call: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.text}}
    if piece.tool_call_id:
        call |= {"id": piece.tool_call_id, "type": "function"}
        call["function"]["name"] = piece.tool_name
    return {"tool_calls": [call]}


def frames_of(
    answer: Answer, script: Script, head: dict[str, Any], *, usage: bool
) -> tuple[bytes, list[bytes], bytes]:
    """Return what comes with the first token, one frame a token, and what comes after the last.

    Frames are server-sent events, not yet in HTTP chunks. `head` holds id, created and model.
    """
    event = b"data: %b\n\n"
    base = _encode({"object": "chat.completion.chunk", **head})[:-1]

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event % (base + b',"choices":[' + _encode(choice) + b"]}")

    before, after = chunk({"content": STAMP.decode()}).split(STAMP)
    frames = []
    for piece in answer.pieces:
        if piece.kind == "text":
            text = STAMP if script.stamp else _encode(piece.text)[1:-1]
            frames.append(before + text + after)
        else:
            frames.append(chunk(delta_of(piece, script)))
    last = chunk({}, answer.finish_reason)
    if usage and script.usage:
        tail = b',"choices":[],"usage":' + _encode(usage_of(answer)) + b"}"
        last += event % (base + tail)
    return chunk({"role": "assistant", "content": ""}), frames, last + b"data: [DONE]\n\n"


def whole_body(head: dict[str, Any], answer: Answer, script: Script) -> bytes:
    """Return the body of an answer that is not streamed."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in answer.pieces:
        if piece.kind == "tool_args":
            call = calls.setdefault(
                piece.index,
                {
                    "id": piece.tool_call_id,
                    "type": "function",
                    "function": {"name": piece.tool_name, "arguments": ""},
                },
            )
            call["function"]["arguments"] += piece.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(piece.text for piece in answer.pieces if piece.kind == "text"),
    }
    if answer.reasoning_tokens:
        message[script.reasoning_field] = "".join(
            piece.text for piece in answer.pieces if piece.kind == "reasoning"
        )
    if calls:
        message["tool_calls"] = list(calls.values())
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    body = {"object": "chat.completion", **head, "choices": [choice]}
    if script.usage:
        body["usage"] = usage_of(answer)
    return _encode(body)
