"""The built-in agent: model and tools in a bounded loop.

Its nodes emit events straight into the turn's emitter, in the order in which they happen. Run it
with `stream_mode=[]`. `Runtime.context` must be a `TurnContext`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from langgraph.graph import END, START, StateGraph

from turnstream.graph.agent.nodes.model import model_node
from turnstream.graph.agent.nodes.tools import tool_node
from turnstream.graph.agent.state import AgentSettings, AgentState
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.agent.version import sources, version_of
from turnstream.graph.langgraph.catalog import AGENT, GraphEntry
from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.graph.ports.commits import Commits
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.ports.lookup import Services
    from turnstream.graph.ports.tools import Tool
    from turnstream.graph.run.input import TurnInput

STEPS_MAX = 50
"""Model calls of one turn at most: with the tools between them they stay below the 100 steps after
which LangGraph stops a run (`graph.run.input.RECURSION_LIMIT`)."""


def build_agent(
    tools: Sequence[Tool] = (), settings: AgentSettings | None = None
) -> StateGraph[AgentState, TurnContext, Any, Any]:
    """Return the graph, not yet compiled; its nodes find their services in the `TurnContext`.

    Raises `ConfigurationError` for two tools of one name, and for `steps_max` above 50.
    """
    settings = settings or AgentSettings()
    if not 1 <= settings.steps_max <= STEPS_MAX:
        raise ConfigurationError(f"an agent makes 1 to {STEPS_MAX} model calls in a turn")
    named = {tool.spec.name: tool for tool in tools}
    if len(named) < len(tools):
        raise ConfigurationError("two tools have the same name")
    graph: StateGraph[AgentState, TurnContext, Any, Any] = StateGraph(
        AgentState, context_schema=TurnContext
    )
    call_model = model_node([tool.spec for tool in tools], settings)
    graph.add_node("model", call_model, destinations=("tools", END))
    graph.add_node("tools", tool_node(named, settings))
    graph.add_edge(START, "model")
    graph.add_edge("tools", "model")
    return graph


def agent_entry(
    services: Services, tools: Sequence[Tool] = (), settings: AgentSettings | None = None
) -> GraphEntry:
    """Return the built-in agent as the catalog holds it.

    A process that only reads states needs no services.
    """
    settings = settings or AgentSettings()

    def context(emitter: Emitter, turn: TurnInput, commits: Commits) -> TurnContext:
        given = turn.config.get("configurable")
        return TurnContext(
            emitter,
            UUID(turn.turn_id),
            turn.thread_key,
            commits.tool_calls,
            given if isinstance(given, dict) else {},
            services,
            settled=commits.settled,
        )

    return GraphEntry(
        name=AGENT,
        graph=build_agent(tools, settings).compile(name=AGENT),
        native=True,
        hash=version_of(sources(), tools, settings),
        description="A chat model that may call tools.",
        make_context=context,
    )
