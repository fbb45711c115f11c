"""A message that is being said: what LangChain's chunks have added up to so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.messages.ai import UsageMetadata

    from turnstream.schemas.fold.messages import Message


@dataclass(slots=True)
class OpenMessage:
    """What LangChain tells of a message beside `message`, which has its text blocks."""

    message: Message
    model: str = ""
    modelled: bool = False
    listed: list[Any] = field(default_factory=list)
    blocks: dict[tuple[str, Any], int] = field(default_factory=dict)
    calls: dict[Any, tuple[int, str]] = field(default_factory=dict)
    calls_begun: int = 0
    response: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0

    def block(self, kind: str, index: object) -> int:
        """Return the number of the block that a piece belongs to."""
        return self.blocks.setdefault((kind, index), len(self.blocks))

    def call(self, index: object, call_id: str, name: str) -> int:
        """Return the number of the tool call that a piece belongs to.

        Servers give pieces of different calls one index, or none: another id with a name is another
        call. A piece without an index goes on with the last call.
        """
        known = self.calls.get(index)
        if known is None and index is None and self.calls_begun and not (call_id and name):
            known = self.calls.get(None) or next(reversed(self.calls.values()))
        if known is not None and not (call_id and name and known[1] and call_id != known[1]):
            if call_id and not known[1]:
                self.calls[index] = (known[0], call_id)
            return known[0]
        number, self.calls_begun = self.calls_begun, self.calls_begun + 1
        self.calls[index] = (number, call_id)
        return number

    def add_response(self, metadata: Mapping[str, object]) -> None:
        """Add a chunk's response metadata."""
        _merge(self.response, metadata)

    def add_kwargs(self, kwargs: Mapping[str, object]) -> None:
        """Add a chunk's additional keyword arguments."""
        _merge(self.kwargs, kwargs)

    def add_usage(self, usage: UsageMetadata) -> None:
        """Add a chunk's usage, details included."""
        _count(self.usage, usage)


def _merge(total: dict[str, object], more: Mapping[str, object]) -> None:
    """Add what a chunk says beside its text, as LangChain adds chunks: texts are joined."""
    for key, value in more.items():
        known = total.get(key)
        if known is None:
            total[key] = value
        elif value is None or value is known:
            continue
        elif isinstance(known, str) and isinstance(value, str):
            total[key] = known if known == value else known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            total[key] = joined = dict(known)
            _merge(joined, value)
        elif isinstance(known, list) and isinstance(value, list):
            total[key] = [*known, *value]
        else:
            total[key] = value


def _count(total: dict[str, Any], usage: Mapping[str, object]) -> None:
    """Add a usage to the sum, details included."""
    for key, value in usage.items():
        if isinstance(value, dict):
            details = total.setdefault(key, {})
            _count(details, value)
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value
