"""The node that calls the model and emits its answer."""

import asyncio
import itertools
from collections.abc import Sequence

import structlog
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.runtime import Runtime
from langgraph.types import Command

from turnstream.graph.agent.answer import Answer
from turnstream.graph.agent.history import chat_messages
from turnstream.graph.agent.nodes.step import Step, step
from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.state import (
    AgentSettings,
    AgentState,
    Node,
    Update,
    calls_before,
    turn_settings,
)
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.model import MODEL
from turnstream.schemas.chat import ChatRequest, ToolSpec
from turnstream.schemas.errors import ModelError, StepLimitError

_log = structlog.get_logger(__name__)


def model_node(specs: Sequence[ToolSpec], settings: AgentSettings) -> Node:
    """Return the node. It names its successor itself: cheaper than an edge with a condition.

    The last call that `steps_max` allows is made without tools, so that the turn ends with an
    answer; a model that asks for tools all the same ends it with `StepLimitError`. A call that
    fails is made again within the bounds of `settings.retries`; the last error ends the turn.
    """

    async def call_model(state: AgentState, *, runtime: Runtime[TurnContext]) -> Update:
        with step(runtime) as here:
            given = turn_settings(runtime.context.configurable)
            messages = state["messages"]
            last = calls_before(messages) + 1 >= settings.steps_max
            params = settings.params | given.params
            prompt = settings.system_prompt if given.system_prompt is None else given.system_prompt
            request = ChatRequest(
                messages=chat_messages(messages, prompt),
                tools=() if last else _offered(specs, given.tools),
                model=given.model,
                params=params,
                request_id=str(here.id_of()),
            )
            for tries in itertools.count(1):
                answer = Answer(here.emitter, here.path, request.request_id, _call_ids(messages))
                try:
                    whole = await runtime.context.services[MODEL].stream(request, answer.push)
                    break
                except ModelError as error:
                    context, retries = runtime.context, settings.retries
                    if not await _begin_again(here, context, retries, error, tries):
                        raise
            message = answer.finish(whole, params)
            calls = bool(message.tool_calls or message.invalid_tool_calls)
            if last and calls:
                raise StepLimitError(
                    f"after {settings.steps_max} model calls the model still asks for tools"
                )
            here.update = {"messages": [message]}
        return Command(update=here.update, goto="tools") if calls else here.update

    return call_model


async def _begin_again(
    here: Step, context: TurnContext, settings: RetrySettings, error: ModelError, tries: int
) -> bool:
    """Wait, and emit that the node runs again (W11); return False if the error ends the turn."""
    wait_s = context.retries.wait_s(settings, error, tries)
    if wait_s is None:
        return False
    _log.warning(
        "model_call_failed",
        turn_id=str(here.turn_id),
        code=error.code,
        error=str(error),
        tries=tries,
        wait_s=round(wait_s, 3),
    )
    await asyncio.sleep(wait_s)
    here.again(await context.settled(here.path), tries + 1, error)
    return True


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
