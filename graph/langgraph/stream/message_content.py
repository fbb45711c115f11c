"""What LangChain messages hold beside tool calls: texts and reasoning, in blocks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import AIMessageChunk, BaseMessage

REASONING = ("reasoning", "thinking")
"""Types of blocks that hold reasoning."""


def contents(message: BaseMessage) -> Iterator[tuple[str, int | str, str]]:
    """Yield (kind, index, text) of a message's content, tool calls left out."""
    reasoning = message.additional_kwargs.get("reasoning_content")
    if reasoning:
        yield "reasoning", 0, reasoning
    if isinstance(message.content, str):
        if message.content:
            yield "text", 0, message.content
        return
    for place, block in enumerate(message.content):
        if isinstance(block, str):
            yield "text", place, block
            continue
        index = block.get("index")
        if not isinstance(index, (int, str)):
            index = place
        if isinstance(text := block.get("text"), str):
            yield "text", index, text
        elif block.get("type") in REASONING:
            text = block.get("reasoning") or block.get("thinking") or ""
            if isinstance(text, str) and text:
                yield "reasoning", index, text


def says_anything(chunk: AIMessageChunk) -> bool:
    """Return whether a piece is more than the empty one that ends a stream."""
    return bool(
        chunk.content
        or chunk.tool_call_chunks
        or chunk.additional_kwargs
        or chunk.usage_metadata
        or getattr(chunk, "chunk_position", None) != "last"
    )
