"""The node that runs the tools a model asked for, all of one answer at the same time."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime

from turnstream.graph.agent.nodes.step import Step, step
from turnstream.graph.agent.state import AgentSettings, AgentState, Node, turn_settings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.tools import Tool, ToolCallContext
from turnstream.graph.tools.recorded_calls import FAILED, TIMED_OUT, call_once, digest_of
from turnstream.graph.values import to_json
from turnstream.schemas.errors import (
    ToolArgumentsError,
    ToolCallsError,
    ToolError,
    ToolIndeterminateError,
    ToolTimeoutError,
    ToolUnknownError,
)
from turnstream.schemas.records.events import ToolFailed, ToolFinished, ToolProgressed, ToolStarted
from turnstream.schemas.text import clean_json
from turnstream.schemas.tool_calls import ToolCall, idempotency_key
from turnstream.schemas.unexpected import class_name, note


class Reply(msgspec.Struct, frozen=True):
    """What a call came to, as the ledger keeps it: what the model sees; with a code, a failure."""

    text: str
    code: str = ""


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
            runs = _Runs(here, context, offered, settings)
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
    turn: TurnContext
    tools: Mapping[str, Tool]
    settings: AgentSettings

    async def run(self, call: Call, ordinal: int) -> ToolMessage:
        """Run one call, say how it went, and return the message for the model."""
        here, ledger = self.here, self.turn.tool_calls
        emit = here.emitter.emit
        said = {"path": here.path, "tool_call_id": call.id, "name": call.name}
        emit(ToolStarted, **said, args=call.raw)
        key = idempotency_key(ledger.thread_key, ledger.origin, here.place, ordinal)
        try:
            reply = await self._reply(call, ordinal, key)
        except ToolError as error:
            reply = self._failed(error)
        said["message_id"] = key
        if reply.code:
            emit(ToolFailed, **said, code=reply.code, message=reply.text)
        else:
            emit(ToolFinished, **said, output=reply.text)
        return ToolMessage(
            reply.text,
            tool_call_id=call.id,
            name=call.name,
            id=key,
            status="error" if reply.code else "success",
        )

    async def _reply(self, call: Call, ordinal: int, key: str) -> Reply:
        """Return what the call comes to; raises `ToolError` before the tool is called."""
        if ordinal >= self.settings.tool_calls_max:
            raise ToolCallsError(
                f"at most {self.settings.tool_calls_max} tools can be called at once"
            )
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            raise ToolUnknownError(f"there is no tool {call.name!r}; the tools are: {known}")
        if call.error:
            raise ToolArgumentsError(f"the arguments are {call.error}")
        arguments, effects = tool.check(call.arguments), tool.effects
        if effects is None:
            return await self._call(tool, arguments, call, key)
        made = ToolCall(
            self.here.path, ordinal, call.name, digest_of(call.name, call.arguments), key, call.id
        )
        kept = await call_once(
            self.turn.tool_calls,
            made,
            honours_key=effects.honours_key,
            run=lambda: self._kept(tool, arguments, call, key),
            find=lambda: self._found(tool, arguments, key),
            unknown=lambda why: msgspec.to_builtins(self._failed(ToolIndeterminateError(why))),
        )
        return msgspec.convert(kept, Reply)

    async def _kept(self, tool: Tool, arguments: Any, call: Call, key: str) -> Any:
        return msgspec.to_builtins(await self._call(tool, arguments, call, key))

    async def _found(self, tool: Tool, arguments: Any, key: str) -> Any:
        """Return the reply of a call that took effect in an earlier attempt, if the tool knows."""
        if tool.effects is None or tool.effects.find is None:
            return None
        async with asyncio.timeout(self._seconds(tool)):
            output = await tool.effects.find(arguments, key)
        return None if output is None else msgspec.to_builtins(self._finished(output))

    async def _call(self, tool: Tool, arguments: Any, call: Call, key: str) -> Reply:
        """Call the tool; whatever it raises, but for an interrupt, is a failed reply.

        A `ToolError` is the tool's word. With anything else a tool with effects may have acted: an
        answer that was lost looks like a request that was.
        """
        seconds, turn_id = self._seconds(tool), self.here.turn_id
        progress = _Progress(self.here, call.id)
        context = ToolCallContext(turn_id, self.turn.thread_key, call.id, key, progress)
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return self._finished(await tool.run(arguments, context))
        except GraphBubbleUp:
            raise
        except ToolError as error:
            return self._failed(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._failed(_broken(tool, "cancelled"))  # by itself: the turn goes on
        except Exception as error:  # noqa: BLE001
            if deadline.expired():
                return self._failed(_late(tool, seconds))
            # here it is decided that a broken tool does not break the turn
            error_id = note("tool", error, tool=call.name, turn_id=str(turn_id))
            return self._failed(_broken(tool, f"{class_name(error)} (error id {error_id})"))
        finally:
            progress.over = True

    def _seconds(self, tool: Tool) -> float:
        return min(tool.timeout_s, self.settings.tool_timeout_s)

    def _finished(self, output: Any) -> Reply:
        text = output if isinstance(output, str) else to_json(output)
        return Reply(bounded(clean_json(text), self.settings.tool_output_chars_max))

    def _failed(self, error: ToolError) -> Reply:
        text = bounded(clean_json(str(error)), self.settings.tool_output_chars_max)
        return Reply(text, error.code)


def _late(tool: Tool, seconds: float) -> ToolError:
    """Say that a call was given up: a thread goes on, and a request may have been sent."""
    if tool.effects is None:
        return ToolTimeoutError(f"the tool took longer than {seconds:g} s")
    return ToolIndeterminateError(TIMED_OUT.format(name=tool.spec.name, seconds=seconds))


def _broken(tool: Tool, why: str) -> ToolError:
    """Say that a call ended otherwise than the tool meant."""
    if tool.effects is None:
        return ToolError(f"the tool failed: {why}")
    return ToolIndeterminateError(FAILED.format(name=tool.spec.name, why=why))


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
