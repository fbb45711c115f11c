"""A node of one's own: a module with a port, and one line in the builder."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Protocol

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.memory.tool_calls import MemoryToolCalls
from turnstream.connectors.models.openai.client import OpenAIModel
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.graph.agent.nodes.model import model_node
from turnstream.graph.agent.nodes.step import step
from turnstream.graph.agent.state import AgentSettings, AgentState, Update
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.lookup import Port, Services
from turnstream.graph.ports.model import MODEL
from turnstream.schemas.errors import ConfigurationError
from turnstream.schemas.records.events import StepFinished

# what the node's module holds


class Recollection(Protocol):
    """What a thread has said before."""

    def recall(self, thread_key: str, text: str) -> Awaitable[str]: ...


RECOLLECTION = Port[Recollection]("recollection")


async def recall(state: AgentState, *, runtime: Runtime[TurnContext]) -> Update:
    with step(runtime) as here:
        context = runtime.context
        found = await context.services[RECOLLECTION].recall(
            context.thread_key, state["messages"][-1].text
        )
        here.update = {"messages": [SystemMessage(found, id=str(here.id_of()))]}
    return here.update


# what composes it


def built():
    graph = StateGraph(AgentState, context_schema=TurnContext)
    graph.add_node("recall", recall)  # the one line
    graph.add_node("model", model_node([], AgentSettings(system_prompt="")), destinations=())
    graph.add_edge(START, "recall")
    graph.add_edge("recall", "model")
    return graph.compile()


class Written:
    async def recall(self, thread_key: str, text: str) -> str:
        return f"{thread_key} asked before: {text}"


async def run(services: Services) -> MemoryEmitter:
    emitter = MemoryEmitter.started()
    context = TurnContext(emitter, uuid.uuid4(), "default/t", MemoryToolCalls(), services=services)
    await built().ainvoke({"messages": [HumanMessage("hello")]}, context=context)
    return emitter


async def test_a_node_finds_the_service_of_its_port():
    async with ScriptedServer() as server, OpenAIModel(server.url) as model:
        services = Services().adding(MODEL, model).adding(RECOLLECTION, Written())
        emitter = await run(services)
        steps = [event.node for event in emitter.events if isinstance(event, StepFinished)]
        assert steps == ["recall", "model"]
        assert server.requests[-1].messages == [
            {"role": "user", "content": "hello"},
            {"role": "system", "content": "default/t asked before: hello"},
        ]


async def test_a_service_that_is_missing_is_named():
    async with ScriptedServer() as server, OpenAIModel(server.url) as model:
        with pytest.raises(
            ConfigurationError, match="has no service 'recollection'; its services: model"
        ):
            await run(Services().adding(MODEL, model))
    with pytest.raises(ConfigurationError, match="its services: none"):
        await run(Services())


def test_a_service_is_added_to_a_copy():
    some = Services().adding(RECOLLECTION, Written())
    other = Port[Recollection]("recollection")
    assert some.adding(other, Written()) != some
    with pytest.raises(ConfigurationError):
        some[other]
