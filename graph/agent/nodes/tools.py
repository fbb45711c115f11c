"""The node that runs the tools a model asked for, all of one answer at the same time."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.runtime import Runtime

from turnstream.graph.agent.nodes.step import Step, step
from turnstream.graph.agent.nodes.tool_run import Call, Reply, ToolRun
from turnstream.graph.agent.state import AgentSettings, AgentState, Node, turn_settings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.graph.ports.tools import Tool
from turnstream.graph.tools.recorded_calls import call_once, digest_of
from turnstream.graph.values import to_json
from turnstream.schemas.errors import (
    ToolArgumentsError,
    ToolCallsError,
    ToolError,
    ToolIndeterminateError,
    ToolUnknownError,
)
from turnstream.schemas.records.events import ToolFailed, ToolFinished, ToolStarted
from turnstream.schemas.tool_calls import ToolCall, idempotency_key


def calls_of(message: object) -> list[Call]:
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
    """Return the node. A tool that fails ends no turn: the model sees the error and goes on."""

    async def call_tools(state: AgentState, *, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        with step(runtime) as here:
            context = runtime.context
            allowed = turn_settings(context.configurable).tools
            offered = {name: tools[name] for name in tools if allowed is None or name in allowed}
            tool_run = ToolRun(here, context.thread_key, settings)
            runs = _Runs(here, context, offered, tool_run)
            running = [
                asyncio.create_task(runs.run(call, ordinal))
                for ordinal, call in enumerate(calls_of(state["messages"][-1]))
            ]
            try:
                # an interrupt waits for the other calls, so that they run only once
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
    tool_run: ToolRun

    async def run(self, call: Call, ordinal: int) -> ToolMessage:
        """Run one call, emit how it went, and return the message for the model."""
        here, ledger = self.here, self.turn.tool_calls
        emit = here.emitter.emit
        said = {"path": here.path, "tool_call_id": call.id, "name": call.name}
        emit(ToolStarted, **said, args=call.raw)
        key = idempotency_key(ledger.thread_key, ledger.origin, here.place, ordinal)
        try:
            reply = await self._reply(call, ordinal, key)
        except ToolError as error:
            reply = self.tool_run.failed(error)
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
        tool_run, at_once = self.tool_run, self.tool_run.settings.tool_calls_max
        if ordinal >= at_once:
            raise ToolCallsError(f"at most {at_once} tools can be called at once")
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            raise ToolUnknownError(f"there is no tool {call.name!r}; the tools are: {known}")
        if call.error:
            raise ToolArgumentsError(f"the arguments are {call.error}")
        arguments, effects = tool.check(call.arguments), tool.effects
        if effects is None:
            return await tool_run.call(tool, arguments, call, key)
        made = ToolCall(
            self.here.path, ordinal, call.name, digest_of(call.name, call.arguments), key, call.id
        )
        kept = await call_once(
            self.turn.tool_calls,
            made,
            honours_key=effects.honours_key,
            run=lambda: _kept(tool_run.call(tool, arguments, call, key)),
            find=lambda: _kept(tool_run.find(tool, arguments, key)),
            unknown=lambda why: msgspec.to_builtins(tool_run.failed(ToolIndeterminateError(why))),
        )
        return msgspec.convert(kept, Reply)


async def _kept(replying: Awaitable[Reply | None]) -> Any:
    """Return a reply as the ledger keeps it."""
    reply = await replying
    return None if reply is None else msgspec.to_builtins(reply)
