"""Token usage of model calls in brought graphs: counted by the server, or estimated. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.graph.values import text_of
from turnstream.schemas.records.events import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_core.messages import BaseMessage

CHARS_PER_TOKEN = 4
"""Of English text with usual tokenizers; LangChain's approximate count uses the same figure."""
TOKENS_PER_MESSAGE = 3
"""Of a message's role and frame."""


def counted(model: str, usage: Mapping[str, Any]) -> Usage | None:
    """Return LangChain's `UsageMetadata` as a usage, None where the server counted nothing."""
    if not usage:
        return None
    out, into = usage.get("output_token_details") or {}, usage.get("input_token_details") or {}
    return Usage(
        model=model,
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        reasoning_tokens=out.get("reasoning") or 0,
        cached_tokens=into.get("cache_read") or 0,
    )


def estimated(model: str, prompt_tokens: int, text: str) -> Usage:
    """Return a usage that goes by the lengths of what was said."""
    return Usage(
        model=model,
        input_tokens=prompt_tokens,
        output_tokens=_tokens(text),
        estimated=True,
    )


def prompt_tokens(messages: Iterable[BaseMessage]) -> int:
    """Return about how many tokens a prompt has."""
    return sum(TOKENS_PER_MESSAGE + _tokens(text_of(one.content)) for one in messages)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)
