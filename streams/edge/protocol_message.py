"""One message that streams, in the Agent Streaming Protocol: its blocks and their bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.streams.edge.frames import embed, json_bytes

if TYPE_CHECKING:
    from turnstream.schemas.events import TokensEmitted, Usage

Draft = tuple[str, str, tuple[str, ...], bytes | None]  # method, channel, namespace, data

_DELTAS = {
    "text": b'{"type":"text-delta","text":',
    "reasoning": b'{"type":"reasoning-delta","reasoning":',
    "tool_args": b'{"type":"tool-call-delta","args":',
}


@dataclass(slots=True)
class _Block:
    kind: str
    tool_call_id: str = ""
    tool_name: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(slots=True)
class OpenMessage:
    """A message that has begun; `public_id` is what clients know it by, `encoded_id` its JSON."""

    public_id: str
    encoded_id: bytes
    namespace: tuple[str, ...]
    blocks: dict[int, _Block] = field(default_factory=dict)


def delta(message: OpenMessage, record: TokensEmitted) -> list[Draft]:
    """Return a piece of the message, behind its block's start where that is new."""
    drafts: list[Draft] = []
    block = message.blocks.get(record.block)
    if block is None:
        block = message.blocks[record.block] = _Block(
            record.kind, record.tool_call_id, record.tool_name
        )
        drafts.append(_of_block(message, b"content-block-start", record.block, _empty(block)))
    if record.text:
        block.parts.append(record.text)
        data = b'{"event":"content-block-delta","id":%b,"index":%d,"delta":%b%b}}' % (
            message.encoded_id,
            record.block,
            _DELTAS[record.kind],
            json_bytes(record.text),
        )
        drafts.append(("messages", "messages", message.namespace, data))
    return drafts


def _of_block(message: OpenMessage, event: bytes, index: int, content: bytes) -> Draft:
    data = b'{"event":"%b","id":%b,"index":%d,"content":%b}' % (
        event,
        message.encoded_id,
        index,
        content,
    )
    return ("messages", "messages", message.namespace, data)


def _empty(block: _Block) -> bytes:
    if block.kind == "text":
        return b'{"type":"text","text":""}'
    if block.kind == "reasoning":
        return b'{"type":"reasoning","reasoning":""}'
    call = {"type": "tool_call_chunk", "id": block.tool_call_id, "name": block.tool_name}
    return json_bytes({**call, "args": ""})


def _whole(block: _Block) -> bytes:
    if block.kind in {"text", "reasoning"}:
        return json_bytes({"type": block.kind, block.kind: block.text})
    args = embed(block.text or "{}")
    call = b'"id":%b,"name":%b' % (json_bytes(block.tool_call_id), json_bytes(block.tool_name))
    if args[:1] == b"{":
        return b'{"type":"tool_call",%b,"args":%b}' % (call, args)
    return b'{"type":"invalid_tool_call",%b,"args":%b,"error":"not a JSON object"}' % (call, args)


def finish(message: OpenMessage, usage: Usage | None) -> list[Draft]:
    """Return the ends of the blocks and of the message."""
    drafts = [
        _of_block(message, b"content-block-finish", index, _whole(block))
        for index, block in sorted(message.blocks.items())
    ]
    data: dict[str, object] = {"event": "message-finish", "id": message.public_id}
    if usage is not None:
        data["usage"] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "input_token_details": {"cache_read": usage.cached_tokens},
            "output_token_details": {"reasoning": usage.reasoning_tokens},
        }
    return [*drafts, ("messages", "messages", message.namespace, json_bytes(data))]


def failed(message: OpenMessage, why: str, code: str) -> Draft:
    """Return the end of a message that did not become whole."""
    data = {"event": "error", "id": message.public_id, "message": why, "code": code}
    return ("messages", "messages", message.namespace, json_bytes(data))
