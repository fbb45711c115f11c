"""LangGraph's own tool loop over the counting tools, its calls recorded; flat, and nested.

The model is asked by `tool=charge({"what":"x"}) tool=mark({"what":"y"})`: several in parallel.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

sys.path.insert(0, str(Path(__file__).parent))
import counting

from turnstream.graph.recorded import get_idempotency_key, recorded


def _tool(name: str) -> BaseTool:
    async def call(what: str, config: RunnableConfig) -> str:
        key, given = get_idempotency_key(), config["metadata"]
        thread_key = f"{counting.TENANT}/{config['configurable']['thread_id']}"
        return await counting.act(name, what, key, thread_key, given["turn_id"])

    def plain(what: str, config: RunnableConfig) -> str:
        return asyncio.run(call(what, config))

    made = tool(name, description=f"Do a thing: {name}.")
    return made(plain if counting.PLAIN else call)


TOOLS = [_tool(name) for name in counting.KINDS]


async def model(state: MessagesState) -> dict:
    """Ask a real client of a model server."""
    client = ChatOpenAI(
        model="scripted", base_url=os.environ["SCRIPTED_URL"], api_key="none", max_retries=0
    )
    return {"messages": [await client.bind_tools(TOOLS).ainvoke(state["messages"])]}


def _loop() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode(TOOLS, awrap_tool_call=recorded(counting.KINDS)))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


def _nested() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("inner", _loop())
    graph.add_edge(START, "inner")
    return graph.compile()


effects = _loop()
effects_nested = _nested()
