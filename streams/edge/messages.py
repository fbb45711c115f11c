"""Messages as LangChain's JSON has them, put together from the log's events. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from turnstream.schemas.events import (
        MessageFinished,
        TokensEmitted,
        ToolFailed,
        ToolFinished,
        Usage,
    )

TYPES = {"assistant": "ai", "user": "human", "system": "system", "tool": "tool"}


@dataclass(slots=True)
class Block:
    """A block of a message so far."""

    kind: str
    text: str = ""
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(slots=True)
class OpenMessage:
    """A message that is being said; `role`, `tool_call_id` and `listed` as in `MessageStarted`.

    `at_once`: no model streamed it. `metadata` is what goes beside it; `extra` is what its end
    tells beside its blocks.
    """

    message_id: str
    role: str
    name: str
    path: str
    tool_call_id: str = ""
    listed: bool = False
    at_once: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    blocks: dict[int, Block] = field(default_factory=dict)
    finish_reason: str = ""
    usage: Usage | None = None
    _calls: dict[int, int] = field(default_factory=dict)

    def add(self, record: TokensEmitted) -> None:
        """Take in some tokens."""
        block = self.blocks.get(record.block)
        if block is None:
            block = self.blocks[record.block] = Block(record.kind)
            if record.kind == "tool_args":
                self._calls[record.block] = len(self._calls)
        block.text += record.text
        block.tool_call_id = block.tool_call_id or record.tool_call_id
        block.tool_name = block.tool_name or record.tool_name

    def finish(self, record: MessageFinished) -> None:
        """Take in how it ended."""
        self.finish_reason, self.usage = record.finish_reason, record.usage
        if record.extra:
            self.extra = msgspec.json.decode(record.extra)

    def chunk(self, record: TokensEmitted) -> dict[str, Any]:
        """Return these tokens as an `AIMessageChunk` (after `add`)."""
        chunk = self._chunk()
        if self.listed and record.kind != "tool_args":
            about = {"type": record.kind, "index": record.block}
            chunk["content"] = [{**about, record.kind: record.text}]
        elif record.kind == "text":
            chunk["content"] = record.text
        elif record.kind == "reasoning":
            chunk["additional_kwargs"] = {"reasoning_content": record.text}
        else:
            chunk["tool_call_chunks"] = [
                {
                    "name": record.tool_name or None,
                    "args": record.text,
                    "id": record.tool_call_id or None,
                    "index": self._calls[record.block],
                    "type": "tool_call_chunk",
                }
            ]
        return chunk

    def last_chunk(self) -> dict[str, Any]:
        """Return the chunk that ends the message: no text, the finish reason and the usage."""
        return {
            **self._chunk(),
            "response_metadata": self._response_metadata(),
            "usage_metadata": usage_metadata(self.usage),
            **self.extra,
            "chunk_position": "last",
        }

    def whole(self) -> dict[str, Any]:
        """Return the message so far."""
        message: dict[str, Any] = {
            "content": self._joined("text"),
            "additional_kwargs": {},
            "response_metadata": self._response_metadata(),
            "type": TYPES[self.role],
            "name": self.name or None,
            "id": self.message_id,
        }
        if self.role == "assistant":
            if reasoning := self._joined("reasoning"):
                message["additional_kwargs"] = {"reasoning_content": reasoning}
            calls, invalid = self._tool_calls()
            message |= {
                "tool_calls": calls,
                "invalid_tool_calls": invalid,
                "usage_metadata": usage_metadata(self.usage),
            }
        elif self.role == "tool":
            about = {"tool_call_id": self.tool_call_id, "artifact": None, "status": "success"}
            message |= about
        kwargs = message["additional_kwargs"] | self.extra.get("additional_kwargs", {})
        message |= {**self.extra, "additional_kwargs": kwargs}
        if self.listed:
            message["content"] = self._listed()
        return message

    def _listed(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = [
            {"type": block.kind, block.kind: block.text, "index": number}
            for number, block in sorted(self.blocks.items())
            if block.kind != "tool_args"
        ]
        said += self.extra.get("content", [])
        return said

    def _chunk(self) -> dict[str, Any]:
        return {
            "content": "",
            "additional_kwargs": {},
            "response_metadata": {},
            "type": "AIMessageChunk",
            "name": self.name or None,
            "id": self.message_id,
            "tool_calls": [],
            "invalid_tool_calls": [],
            "usage_metadata": None,
            "tool_call_chunks": [],
        }

    def _response_metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        if self.finish_reason:
            metadata["finish_reason"] = self.finish_reason
        if self.usage is not None:
            metadata["model_name"] = self.usage.model
        return metadata

    def _joined(self, kind: str) -> str:
        blocks = sorted(self.blocks.items())
        return "".join(block.text for _, block in blocks if block.kind == kind)

    def _tool_calls(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        calls: list[dict[str, Any]] = []
        invalid: list[dict[str, Any]] = []
        for _, block in sorted(self.blocks.items()):
            if block.kind != "tool_args":
                continue
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


def usage_metadata(usage: Usage | None) -> dict[str, Any] | None:
    """Return a usage as LangChain's `UsageMetadata`."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_token_details": {"cache_read": usage.cached_tokens},
        "output_token_details": {"reasoning": usage.reasoning_tokens},
    }


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
