"""Graphs as people write them for LangGraph: a tool loop, branches, a nested graph, an approval."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.errors import NodeTimeoutError
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import RetryPolicy, interrupt

PAUSE_S = 0.004


class Speaker(BaseChatModel):
    """Says `words` words that begin with `name`, one after the other."""

    name: str
    words: int = 12

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
            await asyncio.sleep(PAUSE_S)
            chunk = ChatGenerationChunk(message=AIMessageChunk(f"{self.name}{i} "))
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def speaks(name: str, words: int = 12) -> Any:
    """Return a node that says something."""

    async def node(state: MessagesState) -> dict:
        return {"messages": [await Speaker(name=name, words=words).ainvoke(state["messages"])]}

    return node


@tool
async def look_up(what: str) -> str:
    """Look something up."""
    await asyncio.sleep(PAUSE_S)
    return f"{what}: found"


async def model(state: MessagesState, config: RunnableConfig) -> dict:
    """Ask a real client of a model server."""
    client = ChatOpenAI(
        model="scripted", base_url=os.environ["SCRIPTED_URL"], api_key="none", max_retries=0
    )
    return {"messages": [await client.bind_tools([look_up]).ainvoke(state["messages"])]}


async def ask(state: MessagesState) -> dict:
    """Say something, ask, and say what was answered."""
    said = await Speaker(name="before", words=6).ainvoke(state["messages"])
    answer = interrupt({"question": "go on?"})
    return {"messages": [said, AIMessage(f"answered {answer}")]}


_tries: Counter[str] = Counter()


def _is_first_try(config: RunnableConfig) -> bool:
    """Say whether a node is on its first, third … try of a thread in this process."""
    thread = config["configurable"]["thread_id"]
    _tries[thread] += 1
    return _tries[thread] % 2 == 1


async def falter(state: MessagesState, config: RunnableConfig) -> dict:
    """Say something, and fail the first time after it was said."""
    said = await Speaker(name="faltering").ainvoke(state["messages"])
    if _is_first_try(config):
        raise ConnectionError("the first try fails")
    return {"messages": [said]}


async def stall(state: MessagesState, config: RunnableConfig) -> dict:
    """Say something, and come to no end the first time."""
    said = await Speaker(name="stalling").ainvoke(state["messages"])
    if _is_first_try(config):
        await asyncio.Event().wait()
    return {"messages": [said]}


def _retried(node: Any, timeout: float | None = None) -> Any:
    policy = RetryPolicy(
        initial_interval=0.01,
        max_attempts=4,
        retry_on=(ConnectionError, NodeTimeoutError),
    )
    graph = StateGraph(MessagesState)
    graph.add_node("first", node, retry_policy=policy, timeout=timeout)
    graph.add_node("after", speaks("after"))
    graph.add_edge(START, "first")
    graph.add_edge("first", "after")
    graph.add_edge("after", END)
    return graph.compile()


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
    graph.add_node("quick", speaks("quick", 6))
    graph.add_node("slow", speaks("slow", 40))
    graph.add_node("join", speaks("join"))
    # the writes of a turn's first step go with its checkpoint
    graph.add_node("begin", speaks("begin", 3))
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "quick")
    graph.add_edge("begin", "slow")
    graph.add_edge(["quick", "slow"], "join")
    graph.add_edge("join", END)
    return graph.compile()


def _nested() -> Any:
    inner = StateGraph(MessagesState)
    inner.add_node("first", speaks("first"))
    inner.add_node("second", speaks("second"))
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


def _approval() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("after", speaks("done"))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "after")
    graph.add_edge("after", END)
    return graph.compile()


def _two_questions() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("one", ask)
    graph.add_node("two", ask)
    graph.add_node("beside", speaks("beside", 20))
    graph.add_node("after", speaks("done"))
    for name in ("one", "two", "beside"):
        graph.add_edge(START, name)
    graph.add_edge(["one", "two", "beside"], "after")
    graph.add_edge("after", END)
    return graph.compile()


talker = _talker()
branches = _branches()
nested = _nested()
approval = _approval()
questions = _two_questions()
falters = _retried(falter)
stalls = _retried(stall, timeout=1.5)
