"""Messages as LangChain's JSON has them. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.fold.messages import usage_metadata

if TYPE_CHECKING:
    from turnstream.schemas.fold.messages import Block, Message
    from turnstream.schemas.records.events import TokensEmitted, ToolFailed, ToolFinished

TYPES = {"assistant": "ai", "user": "human", "system": "system", "tool": "tool"}


def chunk(message: Message, block: Block, record: TokensEmitted) -> dict[str, Any]:
    """Return these tokens, the last ones of the block, as an `AIMessageChunk`."""
    shown = _chunk(message)
    if message.listed and record.kind != "tool_args":
        about = {"type": record.kind, "index": record.block}
        shown["content"] = [{**about, record.kind: record.text}]
    elif record.kind == "text":
        shown["content"] = record.text
    elif record.kind == "reasoning":
        shown["additional_kwargs"] = {"reasoning_content": record.text}
    else:
        shown["tool_call_chunks"] = [
            {
                "name": record.tool_name or None,
                "args": record.text,
                "id": record.tool_call_id or None,
                "index": block.call,
                "type": "tool_call_chunk",
            }
        ]
    return shown


def last_chunk(message: Message) -> dict[str, Any]:
    """Return the chunk that ends a message: no text, the finish reason and the usage."""
    return {
        **_chunk(message),
        "response_metadata": _response_metadata(message),
        "usage_metadata": usage_metadata(message.usage),
        **_extra(message),
        "chunk_position": "last",
    }


def whole(message: Message) -> dict[str, Any]:
    """Return a message as far as it was said."""
    shown: dict[str, Any] = {
        "content": message.text,
        "additional_kwargs": {},
        "response_metadata": _response_metadata(message),
        "type": TYPES[message.role],
        "name": message.name or None,
        "id": message.message_id,
    }
    if message.role == "assistant":
        if reasoning := message.reasoning:
            shown["additional_kwargs"] = {"reasoning_content": reasoning}
        calls, invalid = _tool_calls(message)
        shown |= {
            "tool_calls": calls,
            "invalid_tool_calls": invalid,
            "usage_metadata": usage_metadata(message.usage),
        }
    elif message.role == "tool":
        about = {"tool_call_id": message.tool_call_id, "artifact": None, "status": "success"}
        shown |= about
    extra = _extra(message)
    kwargs = shown["additional_kwargs"] | extra.get("additional_kwargs", {})
    shown |= {**extra, "additional_kwargs": kwargs}
    if message.listed:
        shown["content"] = _listed(message) + extra.get("content", [])
    return shown


def _listed(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": block.kind, block.kind: block.text, "index": number}
        for number, block in sorted(message.blocks.items())
        if block.kind != "tool_args"
    ]


def _extra(message: Message) -> dict[str, Any]:
    return msgspec.json.decode(message.extra) if message.extra else {}


def _chunk(message: Message) -> dict[str, Any]:
    return {
        "content": "",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "AIMessageChunk",
        "name": message.name or None,
        "id": message.message_id,
        "tool_calls": [],
        "invalid_tool_calls": [],
        "usage_metadata": None,
        "tool_call_chunks": [],
    }


def _response_metadata(message: Message) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if message.finish_reason:
        metadata["finish_reason"] = message.finish_reason
    if message.usage is not None:
        metadata["model_name"] = message.usage.model
    return metadata


def _tool_calls(message: Message) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []
    invalid: list[dict[str, Any]] = []
    for block in sorted(message.calls, key=attrgetter("index")):
        about = {"name": block.tool_name, "id": block.tool_call_id}
        try:
            args = msgspec.json.decode(block.text or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            invalid.append(
                {**about, "args": block.text, "error": str(error), "type": "invalid_tool_call"}
            )
        else:
            calls.append({**about, "args": args, "type": "tool_call"})
    return calls, invalid


def tool_message(record: ToolFinished | ToolFailed) -> dict[str, Any]:
    """Return a tool's answer as a `ToolMessage`."""
    failed = hasattr(record, "message")
    return {
        "content": record.message if failed else record.output,  # type: ignore[union-attr]
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "tool",
        "name": record.name,
        "id": tool_message_id(record),
        "tool_call_id": record.tool_call_id,
        "artifact": None,
        "status": "error" if failed else "success",
    }


def tool_message_id(record: ToolFinished | ToolFailed) -> str:
    """Return the id of a tool's message; writers of an earlier version did not tell it."""
    return record.message_id or f"tool-{record.tool_call_id}"


def remove_message(message_id: str) -> dict[str, Any]:
    """Return a `RemoveMessage`: LangChain's word for a message that is taken back."""
    return {
        "content": "",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "remove",
        "name": None,
        "id": message_id,
    }
