"""The node that runs the tools a model asked for, all of one answer at the same time."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime

from turnstream.graph.ports import Tool, ToolCallContext, TurnContext
from turnstream.graph.state import AgentSettings, AgentState, Node, turn_settings
from turnstream.graph.step import Step, step
from turnstream.graph.values import clean, to_json
from turnstream.schemas.errors import (
    ToolArgumentsError,
    ToolCallsError,
    ToolError,
    ToolTimeoutError,
    ToolUnknownError,
)
from turnstream.schemas.events import ToolFailed, ToolFinished, ToolProgressed, ToolStarted

_log = structlog.get_logger(__name__)


class Call(NamedTuple):
    """One tool call of an answer; `error` says why its arguments cannot be read."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    raw: str
    error: str


def calls_of(message: Any) -> list[Call]:
    """Return the tool calls of a message, those with unreadable arguments last."""
    if not isinstance(message, AIMessage):
        return []
    good = [
        Call(call["id"] or "", call["name"], call["args"], to_json(call["args"]), "")
        for call in message.tool_calls
    ]
    bad = [
        Call(call["id"] or "", call["name"] or "", {}, call["args"] or "", call["error"] or "")
        for call in message.invalid_tool_calls
    ]
    return good + bad


def tool_node(tools: Mapping[str, Tool], settings: AgentSettings) -> Node:
    """Return the node. A tool that fails ends no turn: the model is told and goes on."""

    async def call_tools(state: AgentState, *, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        with step(runtime) as here:
            context = runtime.context
            allowed = turn_settings(context.configurable).tools
            offered = {name: tools[name] for name in tools if allowed is None or name in allowed}
            runs = _Runs(here, context.thread_key, offered, settings)
            running = [
                asyncio.create_task(runs.run(call, ordinal))
                for ordinal, call in enumerate(calls_of(state["messages"][-1]))
            ]
            try:
                # an interrupt waits for the others, for they shall run only once
                ended = await asyncio.gather(*running, return_exceptions=True)
            finally:
                for task in running:
                    task.cancel()
            for result in ended:
                if isinstance(result, BaseException):
                    raise result
            here.update = {"messages": ended}
        return here.update

    return call_tools


@dataclass(frozen=True, slots=True)
class _Runs:
    """The calls of one answer."""

    here: Step
    thread_key: str
    tools: Mapping[str, Tool]
    settings: AgentSettings

    async def run(self, call: Call, ordinal: int) -> ToolMessage:
        """Run one call, say how it went, and return the message for the model."""
        emit = self.here.emitter.emit
        said = {"path": self.here.path, "tool_call_id": call.id, "name": call.name}
        emit(ToolStarted, **said, args=call.raw)
        key = str(self.here.id_of(str(ordinal)))
        try:
            output = await self._output(call, ordinal, key)
        except ToolError as error:
            message = bounded(clean(str(error)), self.settings.tool_output_chars_max)
            emit(ToolFailed, **said, code=error.code, message=message)
            return ToolMessage(
                message, tool_call_id=call.id, name=call.name, id=key, status="error"
            )
        emit(ToolFinished, **said, output=output)
        return ToolMessage(output, tool_call_id=call.id, name=call.name, id=key)

    async def _output(self, call: Call, ordinal: int, key: str) -> str:
        """Return the tool's output as text; raises `ToolError`, whatever the tool raised."""
        settings = self.settings
        if ordinal >= settings.tool_calls_max:
            raise ToolCallsError(f"at most {settings.tool_calls_max} tools can be called at once")
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            raise ToolUnknownError(f"there is no tool {call.name!r}; the tools are: {known}")
        if call.error:
            raise ToolArgumentsError(f"the arguments are {call.error}")
        arguments = tool.check(call.arguments)
        seconds = min(tool.timeout_s, settings.tool_timeout_s)
        turn_id = self.here.turn_id
        progress = _Progress(self.here, call.id)
        context = ToolCallContext(turn_id, self.thread_key, call.id, key, progress)
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                output = await tool.run(arguments, context)
        except (ToolError, GraphBubbleUp):
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ToolError("the tool was cancelled") from None  # by itself: the turn goes on
        except Exception as error:
            if deadline.expired():
                raise ToolTimeoutError(f"the tool took longer than {seconds:g} s") from error
            # here it is decided that a broken tool does not break the turn
            _log.warning("tool failed", tool=call.name, turn_id=str(turn_id), exc_info=True)
            raise ToolError(f"the tool failed: {type(error).__name__}: {error}") from error
        finally:
            progress.over = True
        text = output if isinstance(output, str) else to_json(output)
        return bounded(clean(text), settings.tool_output_chars_max)


class _Progress:
    """Says how far a tool is, from any thread, until its call is over."""

    def __init__(self, here: Step, tool_call_id: str) -> None:
        self.over = False
        self._here = here
        self._tool_call_id = tool_call_id
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def __call__(self, data: Any) -> None:
        text = to_json(data)
        if threading.get_ident() == self._thread:
            self._say(text)
        else:
            self._loop.call_soon_threadsafe(self._say, text)

    def _say(self, text: str) -> None:
        if not self.over:
            here = self._here
            here.emitter.emit(
                ToolProgressed, path=here.path, tool_call_id=self._tool_call_id, data=text
            )


def bounded(text: str, chars_max: int) -> str:
    """Return the text, or its start and a note of what is missing."""
    if len(text) <= chars_max:
        return text
    return f"{text[:chars_max]}\n[cut: the first {chars_max} of {len(text)} characters]"
