"""A graph that streams as many tokens as its user asks for, or holds as many MiB."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph


class Endless(BaseChatModel):
    """A model in process that says a number of tokens, as fast as they are taken."""

    tokens: int

    @property
    def _llm_type(self) -> str:
        return "endless"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise AssertionError("it only streams")

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for n in range(self.tokens):
            yield ChatGenerationChunk(message=AIMessageChunk(" token"))
            if n % 100 == 0:
                await asyncio.sleep(0)


async def node(state: MessagesState) -> dict[str, Any]:
    what, _, number = state["messages"][-1].text.partition(" ")
    if what == "writer":
        write = get_stream_writer()
        for n in range(int(number)):
            write(n)
            if n % 100 == 0:
                await asyncio.sleep(0)
        return {}
    if what == "hoard":
        held = b"x" * (int(number) << 20)
        await asyncio.sleep(600)
        return {"messages": [str(len(held))]}
    if what == "model":
        return {"messages": [await Endless(tokens=int(number)).ainvoke("go")]}
    url = os.environ["FLOOD_URL"]
    model = ChatOpenAI(model="scripted", base_url=url, api_key="none", max_retries=0)
    return {"messages": [await model.ainvoke(f"tokens={number}")]}


builder = StateGraph(MessagesState)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile()
