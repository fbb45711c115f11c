"""A message as far as it was emitted: its blocks, and how it ended. Pure.

Workers fill it in as they emit tokens; the edge's surfaces, transcripts and replay fill it in from
the log. Each surface shows a function over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Self

from turnstream.schemas.text import text_sha256

if TYPE_CHECKING:
    from turnstream.schemas.records.events import (
        MessageFinished,
        MessageStarted,
        TokensEmitted,
        Usage,
    )


class Block:
    """One block of a message so far; `parts` are its texts in order.

    `call`: the block's number among the message's tool calls, -1 for text and reasoning.
    """

    __slots__ = ("call", "index", "kind", "parts", "tool_call_id", "tool_name")

    def __init__(self, index: int, kind: str, call: int = -1) -> None:
        self.index = index
        self.kind = kind
        self.call = call
        self.parts: list[str] = []
        self.tool_call_id = self.tool_name = ""

    @property
    def text(self) -> str:
        """Return the text so far."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0]
        # so that a reader that asks after each piece does not join all of them again
        text = "".join(parts)
        self.parts = [text]
        return text

    def __eq__(self, other: object) -> bool:
        """Compare by content, however the text came in pieces."""
        return isinstance(other, Block) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]

    def _content(self) -> tuple[object, ...]:
        about = (self.index, self.kind, self.call, self.tool_call_id, self.tool_name)
        return (*about, self.text)


@dataclass(slots=True)
class Message:
    """One message; `blocks` by their index, in the order in which they began.

    `n` and `finished_n`: where its first and its last event stand; the latter is 0 until then.
    `tool_call_id`, `listed`, `whole` as in `MessageStarted`, `extra` as in `MessageFinished`.
    """

    message_id: str
    role: str = "assistant"
    name: str = ""
    path: str = ""
    n: int = 0
    tool_call_id: str = ""
    listed: bool = False
    whole: bool = False
    blocks: dict[int, Block] = field(default_factory=dict)
    finished_n: int = 0
    finish_reason: str = ""
    sha256: str = ""
    usage: Usage | None = None
    extra: str = ""

    @classmethod
    def of(cls, record: MessageStarted) -> Self:
        """Return a message that has no tokens yet."""
        return cls(
            record.message_id,
            record.role,
            record.name,
            record.path,
            record.n,
            record.tool_call_id,
            record.listed,
            record.whole,
        )

    def take(self, record: TokensEmitted) -> Block:
        """Add tokens from the log; returns their block. On the hot path of every reader."""
        block = self.blocks.get(record.block)
        if block is None or record.tool_call_id or record.tool_name:
            about = (record.tool_call_id, record.tool_name)
            return self.add(record.block, record.kind, record.text, *about)
        block.parts.append(record.text)
        return block

    def add(
        self, index: int, kind: str, text: str, tool_call_id: str = "", tool_name: str = ""
    ) -> Block:
        """Add text to a block, which begins with its first; returns the block."""
        block = self.blocks.get(index)
        if block is None:
            call = len(self.calls) if kind == "tool_args" else -1
            block = self.blocks[index] = Block(index, kind, call)
        block.parts.append(text)
        block.tool_call_id = block.tool_call_id or tool_call_id
        block.tool_name = block.tool_name or tool_name
        return block

    def finish(self, record: MessageFinished) -> None:
        """Set how the message ended."""
        self.finished_n, self.finish_reason = record.n, record.finish_reason
        self.sha256, self.usage, self.extra = record.sha256, record.usage, record.extra

    @property
    def finished(self) -> bool:
        """True when the message is whole."""
        return self.finished_n > 0

    @property
    def text(self) -> str:
        """Return the text blocks in order."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """Return the reasoning blocks in order."""
        return self._joined("reasoning")

    @property
    def calls(self) -> list[Block]:
        """Return the tool calls, in the order in which they began."""
        return [block for block in self.blocks.values() if block.kind == "tool_args"]

    @property
    def intact(self) -> bool | None:
        """Tell whether the text has the recorded SHA-256; None while none is recorded."""
        return text_sha256(self.text) == self.sha256 if self.sha256 else None

    def _joined(self, kind: str) -> str:
        said = [block for block in self.blocks.values() if block.kind == kind]
        if len(said) > 1:
            said.sort(key=attrgetter("index"))
        return "".join([block.text for block in said])


def usage_metadata(usage: Usage | None) -> dict[str, object] | None:
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
