"""An open message in the Agent Streaming Protocol: its blocks as bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.schemas.fold.messages import usage_metadata
from turnstream.streams.edge.deliver.frames import embed, json_bytes

if TYPE_CHECKING:
    from turnstream.schemas.fold.messages import Block, Message
    from turnstream.schemas.records.events import TokensEmitted, Usage

Draft = tuple[str, str, tuple[str, ...], bytes | None]
"""Method, channel, namespace, data."""

_DELTAS = {
    "text": b'{"type":"text-delta","text":',
    "reasoning": b'{"type":"reasoning-delta","reasoning":',
    "tool_args": b'{"type":"tool-call-delta","args":',
}


@dataclass(slots=True)
class OpenMessage:
    """A message that has begun; clients know it by `public_id` (`encoded_id`: as JSON)."""

    message: Message
    public_id: str
    encoded_id: bytes
    namespace: tuple[str, ...]


def delta(opened: OpenMessage, record: TokensEmitted) -> list[Draft]:
    """Return a piece of the message, after its block's start if that is new."""
    drafts: list[Draft] = []
    block = opened.message.blocks.get(record.block)
    if block is None:
        block = opened.message.take(record)
        drafts.append(_of_block(opened, b"content-block-start", record.block, _empty(block)))
    elif record.text:
        block.parts.append(record.text)
    if record.text:
        data = b'{"event":"content-block-delta","id":%b,"index":%d,"delta":%b%b}}' % (
            opened.encoded_id,
            record.block,
            _DELTAS[record.kind],
            json_bytes(record.text),
        )
        drafts.append(("messages", "messages", opened.namespace, data))
    return drafts


def _of_block(opened: OpenMessage, event: bytes, index: int, content: bytes) -> Draft:
    data = b'{"event":"%b","id":%b,"index":%d,"content":%b}' % (
        event,
        opened.encoded_id,
        index,
        content,
    )
    return ("messages", "messages", opened.namespace, data)


def _empty(block: Block) -> bytes:
    if block.kind == "text":
        return b'{"type":"text","text":""}'
    if block.kind == "reasoning":
        return b'{"type":"reasoning","reasoning":""}'
    call = {"type": "tool_call_chunk", "id": block.tool_call_id, "name": block.tool_name}
    return json_bytes({**call, "args": ""})


def _whole(block: Block) -> bytes:
    if block.kind in {"text", "reasoning"}:
        return json_bytes({"type": block.kind, block.kind: block.text})
    args = embed(block.text or "{}")
    call = b'"id":%b,"name":%b' % (json_bytes(block.tool_call_id), json_bytes(block.tool_name))
    if args[:1] == b"{":
        return b'{"type":"tool_call",%b,"args":%b}' % (call, args)
    return b'{"type":"invalid_tool_call",%b,"args":%b,"error":"not a JSON object"}' % (call, args)


def finish(opened: OpenMessage, usage: Usage | None) -> list[Draft]:
    """Return the ends of the blocks and of the message."""
    drafts = [
        _of_block(opened, b"content-block-finish", index, _whole(block))
        for index, block in sorted(opened.message.blocks.items())
    ]
    data: dict[str, object] = {"event": "message-finish", "id": opened.public_id}
    if usage is not None:
        data["usage"] = usage_metadata(usage)
    return [*drafts, ("messages", "messages", opened.namespace, json_bytes(data))]


def failed(opened: OpenMessage, why: str, code: str) -> Draft:
    """Return the end of a message that is not whole."""
    data = {"event": "error", "id": opened.public_id, "message": why, "code": code}
    return ("messages", "messages", opened.namespace, json_bytes(data))
