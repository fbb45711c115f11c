"""JSON of what a message holds beside its blocks, within bounds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import merge_content

from turnstream.graph.langgraph.stream.message_content import REASONING
from turnstream.graph.values import is_small, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.messages import BaseMessage

    from turnstream.graph.langgraph.stream.open_message import OpenMessage

_TOLD = frozenset({"type", "id", "name", "tool_calls", "invalid_tool_calls", "tool_call_id"})
"""Fields of a message that its events tell in fields and blocks of their own."""
_SAID_BLOCKS = frozenset({"text", *REASONING, "tool_use", "tool_call", "input_json_delta"})
METADATA_BYTES_MAX = 16 << 10
"""Of a message's metadata; with more, what the run's own metadata adds is left out."""
EXTRA_BYTES_MAX = 256 << 10
"""Of what a message holds beside its blocks (pictures, artifacts); with more it is left out."""


def metadata_of(meta: Mapping[str, object]) -> str:
    """Return the metadata of a message's run."""
    if not is_small(meta, METADATA_BYTES_MAX):
        meta = {key: meta[key] for key in meta if key.startswith(("langgraph_", "ls_", "check"))}
    return to_json(meta)


def streamed_extra(opened: OpenMessage) -> str:
    """Return what a streamed message holds beside its blocks."""
    extra: dict[str, Any] = {
        "response_metadata": opened.response,
        "usage_metadata": opened.usage or None,
        "additional_kwargs": {
            key: item for key, item in opened.kwargs.items() if key != "reasoning_content"
        },
    }
    if opened.listed:
        content = merge_content("", *opened.listed)
        unsaid = [one for one in content if not _is_said(one)] if isinstance(content, list) else []
        if unsaid:
            extra["content"] = unsaid
    return _small(extra)


def _is_said(block: str | dict[str, Any]) -> bool:
    return isinstance(block, str) or block.get("type") in _SAID_BLOCKS


def whole_extra(message: BaseMessage) -> str:
    """Return what a message that was given at once holds beside its blocks."""
    extra = {key: item for key, item in message.model_dump().items() if key not in _TOLD}
    if isinstance(message.content, str):
        del extra["content"]
    return _small(extra)


def _small(extra: dict[str, object]) -> str:
    for leave_out in ("", "artifact", "content", "additional_kwargs", "response_metadata"):
        extra.pop(leave_out, None)
        if is_small(extra, EXTRA_BYTES_MAX) and len(text := to_json(extra)) <= EXTRA_BYTES_MAX:
            return text
    return "{}"
