"""A chat model that answers from a script: the same messages in, the same answer out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


class Scripted(BaseChatModel):
    """Says `replies[k]`, where k answers stand in the conversation since its last user message."""

    replies: list[AIMessage]
    model_name: str = "scripted"
    counted: bool = True
    """Whether it tells what a call cost."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Take tools, and go on by the script."""
        del tools, kwargs
        return self

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        said = 0
        for message in messages:
            if message.type == "human":
                said = 0
            elif message.type == "ai":
                said += 1
        return self.replies[min(said, len(self.replies) - 1)]

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        reply = self._reply(messages)
        usage = USAGE if self.counted else None
        said = AIMessage(reply.content, tool_calls=reply.tool_calls, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(self._reply(messages), counted=self.counted):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(self._reply(messages), counted=self.counted):
            yield ChatGenerationChunk(message=chunk)


def _chunks(reply: AIMessage, *, counted: bool) -> Iterator[AIMessageChunk]:
    text = reply.content if isinstance(reply.content, str) else ""
    for k, word in enumerate(text.split(" ") if text else ()):
        yield AIMessageChunk(word if k == 0 else f" {word}")
    for k, call in enumerate(reply.tool_calls):
        piece = {"type": "tool_call_chunk", "index": k}
        yield AIMessageChunk(
            "",
            tool_call_chunks=[{**piece, "id": call["id"], "name": call["name"], "args": ""}],
        )
        args = str(call["args"]).replace("'", '"')
        yield AIMessageChunk(
            "", tool_call_chunks=[{**piece, "id": None, "name": None, "args": args}]
        )
    yield AIMessageChunk(
        "",
        response_metadata={"finish_reason": "tool_calls" if reply.tool_calls else "stop"},
        usage_metadata=USAGE if counted else None,
    )


def said(*replies: str | AIMessage) -> Scripted:
    """Return a model with these replies."""
    return Scripted(replies=[AIMessage(one) if isinstance(one, str) else one for one in replies])


def call(name: str, call_id: str, **args: Any) -> dict[str, Any]:
    """Return a tool call."""
    return {"name": name, "args": args, "id": call_id, "type": "tool_call"}
