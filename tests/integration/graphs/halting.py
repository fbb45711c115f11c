"""Graphs as people write them for LangGraph, with places to be killed in.

A node notes in `<thread>.ran` that it runs, and may stop half-way until `<thread>.open` exists,
both in the folder HALT_FOLDER.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

FOLDER = Path(os.environ.get("HALT_FOLDER", "."))


def _file(thread: str, ending: str) -> Path:
    return FOLDER / f"{thread.rpartition('/')[2]}.{ending}"


def note(thread: str, what: str) -> None:
    """Add a line to the thread's file: one write, so that none is lost or torn."""
    with _file(thread, "ran").open("a") as ran:
        ran.write(f"{what}\n")


async def halt(thread: str) -> None:
    """Wait until the thread's gate is open."""
    gate = _file(thread, "open")
    while not gate.exists():
        await asyncio.sleep(0.02)


class Speaker(BaseChatModel):
    """Says `words` words that begin with `name`; with `thread`, halts in the middle of them."""

    name: str
    words: int = 12
    thread: str = ""

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        text = "".join(f"{self.name}{i} " for i in range(self.words))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for i in range(self.words):
            if self.thread and i == self.words // 2:
                await halt(self.thread)
            chunk = ChatGenerationChunk(message=AIMessageChunk(f"{self.name}{i} "))
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def speaks(name: str, *, halts: bool = False) -> Any:
    """Return a node that notes its run and says something."""

    async def node(state: MessagesState, config: RunnableConfig) -> dict:
        thread = config["configurable"]["thread_id"]
        note(thread, name)
        speaker = Speaker(name=name, thread=thread if halts else "")
        return {"messages": [await speaker.ainvoke(state["messages"])]}

    return node


@tool
async def look_up(what: str, config: RunnableConfig) -> str:
    """Look something up, slowly."""
    thread = config["configurable"]["thread_id"]
    note(thread, "tool")
    await halt(thread)
    return f"{what}: found"


async def model(state: MessagesState, config: RunnableConfig) -> dict:
    """Ask a real client of a model server."""
    configurable = config["configurable"]
    note(configurable["thread_id"], "model")
    url = os.environ["HELD_URL" if configurable.get("model") == "held" else "SCRIPTED_URL"]
    client = ChatOpenAI(model="scripted", base_url=url, api_key="none", max_retries=0)
    return {"messages": [await client.bind_tools([look_up]).ainvoke(state["messages"])]}


def _talker() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([look_up]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


def _branches() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("quick", speaks("quick"))
    graph.add_node("slow", speaks("slow", halts=True))
    graph.add_node("join", speaks("join"))
    graph.add_edge(START, "quick")
    graph.add_edge(START, "slow")
    graph.add_edge(["quick", "slow"], "join")
    graph.add_edge("join", END)
    return graph.compile()


def _nested() -> Any:
    inner = StateGraph(MessagesState)
    inner.add_node("first", speaks("first"))
    inner.add_node("second", speaks("second", halts=True))
    inner.add_edge(START, "first")
    inner.add_edge("first", "second")
    inner.add_edge("second", END)
    graph = StateGraph(MessagesState)
    graph.add_node("inner", inner.compile())
    graph.add_node("after", speaks("after"))
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "after")
    graph.add_edge("after", END)
    return graph.compile()


talker = _talker()
branches = _branches()
nested = _nested()
