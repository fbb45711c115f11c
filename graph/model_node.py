"""The node that calls the model and says what it answers."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.runtime import Runtime

from turnstream.graph.answer import Answer
from turnstream.graph.ports import ModelClient, TurnContext
from turnstream.graph.state import AgentSettings, AgentState, Node, calls_before, turn_settings
from turnstream.graph.step import step
from turnstream.graph.wire import wire_messages
from turnstream.schemas.chat import ChatRequest, ToolSpec
from turnstream.schemas.errors import StepLimitError


def model_node(model: ModelClient, specs: Sequence[ToolSpec], settings: AgentSettings) -> Node:
    """Return the node.

    The last call that `steps_max` allows is made without tools, so that the turn ends with an
    answer; a model that asks for tools all the same ends it with `StepLimitError`.
    """

    async def call_model(state: AgentState, *, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        with step(runtime) as here:
            given = turn_settings(runtime.context.configurable)
            messages = state["messages"]
            last = calls_before(messages) + 1 >= settings.steps_max
            params = settings.params | given.params
            prompt = settings.system_prompt if given.system_prompt is None else given.system_prompt
            request = ChatRequest(
                messages=wire_messages(messages, prompt),
                tools=() if last else _offered(specs, given.tools),
                model=given.model,
                params=params,
                request_id=str(here.id_of()),
            )
            answer = Answer(here.emitter, here.path, str(here.id_of()), _call_ids(messages))
            whole = await model.stream(request, answer.push)
            message = answer.finish(whole, params)
            if last and (message.tool_calls or message.invalid_tool_calls):
                raise StepLimitError(
                    f"after {settings.steps_max} model calls the model still asks for tools"
                )
            here.update = {"messages": [message]}
        return here.update

    return call_model


def _offered(specs: Sequence[ToolSpec], names: list[str] | None) -> tuple[ToolSpec, ...]:
    # always in the order of the registry: a model server's prefix cache lives on equal prompts
    return tuple(spec for spec in specs if names is None or spec.name in names)


def _call_ids(messages: list[AnyMessage]) -> set[str]:
    return {
        call["id"] or ""
        for message in messages
        if isinstance(message, AIMessage)
        for call in (*message.tool_calls, *message.invalid_tool_calls)
    }
