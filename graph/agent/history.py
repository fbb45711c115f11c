"""From a state's messages to the messages of a model call; pure.

A history that a server would refuse is put right, because otherwise its thread could never go on: a
tool call without a result gets one, and a result without its call is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from turnstream.graph.values import text_of
from turnstream.schemas.chat import (
    AssistantMessage,
    CallResult,
    ImagePart,
    Instruction,
    OtherPart,
    RequestedCall,
    TextPart,
    UserMessage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import AnyMessage

    from turnstream.schemas.chat import ChatMessage, Content

NO_RESULT = "This call was stopped before it gave a result."


def chat_messages(messages: Iterable[AnyMessage], system_prompt: str) -> tuple[ChatMessage, ...]:
    """Return the messages for the model, the system prompt first."""
    chat: list[ChatMessage] = []
    if system_prompt:
        chat.append(Instruction(system_prompt))
    open_calls: list[str] = []  # ids of calls without a result, in order
    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id in open_calls:
                open_calls.remove(message.tool_call_id)
                chat.append(CallResult(message.tool_call_id, text_of(message.content)))
            continue
        chat += [CallResult(call_id, NO_RESULT) for call_id in open_calls]
        open_calls = []
        if isinstance(message, AIMessage):
            calls = _calls(message)
            open_calls = [call.id for call in calls]
            chat.append(AssistantMessage(text_of(message.content), calls))
        elif isinstance(message, HumanMessage):
            chat.append(UserMessage(_content(message.content)))
        elif isinstance(message, SystemMessage):
            chat.append(Instruction(_content(message.content)))
    chat += [CallResult(call_id, NO_RESULT) for call_id in open_calls]
    return tuple(chat)


def _content(content: str | list[str | dict[Any, Any]]) -> Content:
    if isinstance(content, str):
        return content
    return tuple(TextPart(part) if isinstance(part, str) else _part(part) for part in content)


def _part(block: dict[Any, Any]) -> TextPart | ImagePart | OtherPart:
    """Return a content block of LangChain; one with fields that no part has stays as it is."""
    match block:
        case {"type": "text", "text": str(text), **rest} if not rest:
            return TextPart(text)
        case {"type": "image_url", "image_url": {"url": str(url), **image}, **rest} if not rest:
            match image:
                case {} if not image:
                    return ImagePart(url)
                case {"detail": str(detail)} if len(image) == 1 and detail:
                    return ImagePart(url, detail)
    return OtherPart(block)


def _calls(message: AIMessage) -> tuple[RequestedCall, ...]:
    calls = [
        RequestedCall(call["id"] or "", call["name"], call["args"]) for call in message.tool_calls
    ]
    # servers refuse a history with arguments that are not JSON: the model sees its own words quoted
    calls += [
        RequestedCall(bad["id"] or "", bad["name"] or "", {"not_json": bad["args"]})
        for bad in message.invalid_tool_calls
    ]
    return tuple(calls)
