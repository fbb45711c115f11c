"""The built-in agent: model and tools in a bounded loop.

Its nodes say what happens straight into the turn's emitter, in the order in which it happens; run
it with `stream_mode=[]`. `Runtime.context` must be a `TurnContext`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.graph import END, START, StateGraph

from turnstream.graph.model_node import model_node
from turnstream.graph.ports import TurnContext
from turnstream.graph.state import AgentSettings, AgentState
from turnstream.graph.tool_node import calls_of, tool_node
from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.graph.ports import ModelClient, Tool

AGENT = "agent"
"""Name of the built-in graph."""


def build_agent(
    model: ModelClient, tools: Sequence[Tool] = (), settings: AgentSettings | None = None
) -> StateGraph[AgentState, TurnContext, Any, Any]:
    """Return the graph, not yet compiled; raises `ConfigurationError` for two tools of one name."""
    settings = settings or AgentSettings()
    named = {tool.spec.name: tool for tool in tools}
    if len(named) < len(tools):
        raise ConfigurationError("two tools have the same name")
    graph: StateGraph[AgentState, TurnContext, Any, Any] = StateGraph(
        AgentState, context_schema=TurnContext
    )
    graph.add_node("model", model_node(model, [tool.spec for tool in tools], settings))
    graph.add_node("tools", tool_node(named, settings))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", _after_model, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    return graph


def _after_model(state: AgentState) -> str:
    return "tools" if calls_of(state["messages"][-1]) else END
