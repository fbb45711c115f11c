"""Messages in the JSON form of LangChain. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.fold.messages import usage_metadata
from turnstream.schemas.records.events import ToolFailed

if TYPE_CHECKING:
    from turnstream.schemas.fold.messages import Block, Message
    from turnstream.schemas.records.events import TokensEmitted, ToolFinished

TYPES = {"assistant": "ai", "user": "human", "system": "system", "tool": "tool"}


def chunk(message: Message, block: Block, record: TokensEmitted) -> dict[str, object]:
    """Return the tokens of a record, the block's last ones, as an `AIMessageChunk`."""
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


def last_chunk(message: Message) -> dict[str, object]:
    """Return the chunk that ends a message: no text, the finish reason and the usage."""
    return {
        **_chunk(message),
        "response_metadata": _response_metadata(message),
        "usage_metadata": usage_metadata(message.usage),
        **_extra(message),
        "chunk_position": "last",
    }


def whole(message: Message) -> dict[str, object]:
    """Return a message as far as it has come."""
    extra = _extra(message)
    kwargs: dict[str, object] = {}
    if message.role == "assistant" and (reasoning := message.reasoning):
        kwargs["reasoning_content"] = reasoning
    if isinstance(more := extra.get("additional_kwargs"), dict):
        kwargs |= more
    shown: dict[str, object] = {
        "content": message.text,
        "additional_kwargs": kwargs,
        "response_metadata": _response_metadata(message),
        "type": TYPES[message.role],
        "name": message.name or None,
        "id": message.message_id,
    }
    if message.role == "assistant":
        calls, invalid = _tool_calls(message)
        shown |= {
            "tool_calls": calls,
            "invalid_tool_calls": invalid,
            "usage_metadata": usage_metadata(message.usage),
        }
    elif message.role == "tool":
        shown |= {"tool_call_id": message.tool_call_id, "artifact": None, "status": "success"}
    shown |= {**extra, "additional_kwargs": kwargs}
    if message.listed:
        more = extra.get("content")
        shown["content"] = [*_listed(message), *(more if isinstance(more, list) else ())]
    return shown


def _listed(message: Message) -> list[dict[str, object]]:
    return [
        {"type": block.kind, block.kind: block.text, "index": number}
        for number, block in sorted(message.blocks.items())
        if block.kind != "tool_args"
    ]


def _extra(message: Message) -> dict[str, object]:
    return msgspec.json.decode(message.extra, type=dict[str, object]) if message.extra else {}


def _chunk(message: Message) -> dict[str, object]:
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


def _response_metadata(message: Message) -> dict[str, object]:
    metadata: dict[str, object] = {}
    if message.finish_reason:
        metadata["finish_reason"] = message.finish_reason
    if message.usage is not None:
        metadata["model_name"] = message.usage.model
    return metadata


def _tool_calls(message: Message) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    calls: list[dict[str, object]] = []
    invalid: list[dict[str, object]] = []
    for block in sorted(message.calls, key=attrgetter("index")):
        about = {"name": block.tool_name, "id": block.tool_call_id}
        try:
            args = msgspec.json.decode(block.text or "{}", type=dict[str, object])
        except msgspec.MsgspecError as error:
            invalid.append(
                {**about, "args": block.text, "error": str(error), "type": "invalid_tool_call"}
            )
        else:
            calls.append({**about, "args": args, "type": "tool_call"})
    return calls, invalid


def tool_message(record: ToolFinished | ToolFailed) -> dict[str, object]:
    """Return a tool's answer as a `ToolMessage`."""
    failed = isinstance(record, ToolFailed)
    return {
        "content": record.message if isinstance(record, ToolFailed) else record.output,
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
    """Return the id of a tool's message; records of an earlier version do not carry it."""
    return record.message_id or f"tool-{record.tool_call_id}"


def remove_message(message_id: str) -> dict[str, object]:
    """Return LangChain's `RemoveMessage`, which takes a message back."""
    return {
        "content": "",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "remove",
        "name": None,
        "id": message_id,
    }
