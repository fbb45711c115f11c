"""What a turn said last: by what was emitted, by a state, by a checkpoint's values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import StateSnapshot

from turnstream.graph.values import text_of
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.text import clean_text, text_sha256

if TYPE_CHECKING:
    from turnstream.graph.run.said import Said


def with_words(ended: Outcome, said: Said) -> Outcome:
    """Return the outcome of a turn that did not come to its end, with what it had said last."""
    spoken = [message for message in said.messages.values() if message.text]
    text = clean_text(spoken[-1].text) if spoken else ""
    return Outcome(
        status=ended.status,
        code=ended.code,
        retryable=ended.retryable,
        message=ended.message,
        message_id=spoken[-1].message_id if spoken else "",
        text=text,
        sha256=text_sha256(text),
        usage=said.usage(),
        lost_usage=said.lost_usage(),
    )


def text_in(state: StateSnapshot, message_id: str) -> str:
    """Return the text of a message in a state or in those of its nested graphs, "" without one."""
    values = state.values
    messages = values.get("messages") if isinstance(values, dict) else None
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, AIMessage) and message.id == message_id:
            return clean_text(text_of(message.content))
    for task in state.tasks:
        if isinstance(task.state, StateSnapshot) and (text := text_in(task.state, message_id)):
            return text
    return ""


def last_answer(values: object) -> tuple[str, str]:
    """Return id and text of the last assistant message behind the last user message, or ""."""
    messages = values.get("messages") if isinstance(values, dict) else None
    for message in reversed(messages or []):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, AIMessage) and (text := text_of(message.content)):
            return message.id or "", clean_text(text)
    return "", ""
