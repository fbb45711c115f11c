"""From a state's messages to the wire form of the chat completions API; pure.

A history that a server would refuse is put right, for otherwise a thread could never go on: a tool
call without an answer gets one, an answer without its call is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from turnstream.graph.values import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import AnyMessage, BaseMessage

NO_RESULT = "This call was stopped before it gave a result."


def wire_messages(messages: Iterable[AnyMessage], system_prompt: str) -> list[dict[str, Any]]:
    """Return the messages as the API takes them, the system prompt first."""
    wire: list[dict[str, Any]] = []
    if system_prompt:
        wire.append({"role": "system", "content": system_prompt})
    unanswered: list[str] = []  # ids of tool calls, in order
    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id in unanswered:
                unanswered.remove(message.tool_call_id)
                wire.append(_tool_answer(message.tool_call_id, text_of(message.content)))
            continue
        wire += [_tool_answer(call_id, NO_RESULT) for call_id in unanswered]
        unanswered = []
        if isinstance(message, AIMessage):
            calls = _tool_calls(message)
            unanswered = [call["id"] for call in calls]
            entry = {"role": "assistant", "content": text_of(message.content)}
            wire.append(entry | {"tool_calls": calls} if calls else entry)
        elif isinstance(message, (HumanMessage, SystemMessage)):
            role = "user" if isinstance(message, HumanMessage) else "system"
            wire.append({"role": role, "content": _content(message)})
    wire += [_tool_answer(call_id, NO_RESULT) for call_id in unanswered]
    return wire


def _tool_answer(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _content(message: BaseMessage) -> Any:
    """Return text as it is; parts (text, images) are the API's own form already."""
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "text", "text": part} if isinstance(part, str) else part
        for part in message.content
    ]


def _tool_calls(message: AIMessage) -> list[dict[str, Any]]:
    calls: list[tuple[str | None, str | None, str]] = [
        (call["id"], call["name"], msgspec.json.encode(call["args"]).decode())
        for call in message.tool_calls
    ]
    # servers refuse a history whose arguments are no JSON: the model sees its own words quoted
    calls += [
        (bad["id"], bad["name"], msgspec.json.encode({"not_json": bad["args"]}).decode())
        for bad in message.invalid_tool_calls
    ]
    return [
        {
            "id": call_id or "",
            "type": "function",
            "function": {"name": name or "", "arguments": arguments},
        }
        for call_id, name, arguments in calls
    ]
