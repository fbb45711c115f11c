"""Recorded tool calls for graphs that people bring: a wrapper for LangGraph's own `ToolNode`.

    ToolNode(
        [charge, search],
        awrap_tool_call=recorded({"charge": Effects(honours_key=True), "search": None}),
    )

A tool finds its call's key with `get_idempotency_key()`. Without a wrapper a tool node runs as in
LangGraph: its tools are called again whenever its step is run again. Outside of turnstream the
wrapper records nothing and calls the tool.
"""

from __future__ import annotations

import uuid
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from turnstream.graph.ports.tools import Effects
from turnstream.graph.tools.recorded_calls import call_once, digest_of, place_of
from turnstream.graph.values import text_of, to_json
from turnstream.schemas.errors import ToolIndeterminateError
from turnstream.schemas.ids import path_of_namespace
from turnstream.schemas.tool_calls import ToolCall, idempotency_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command

    from turnstream.graph.ports.tools import ToolCalls

    Result = ToolMessage | Command[Any]
    Execute = Callable[[ToolCallRequest], Awaitable[Result]]

_ARRIVED = 1 << 16
"""First ordinal of calls whose place in the model's message is unknown; they count by arrival."""


@dataclass(slots=True)
class _Recording:
    ledger: ToolCalls
    arrived: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Recalled:
    """A call that was not made, because its result is recorded: what the stream carries of it.

    `code` is why it has no result, "" where it has one; `text` is what the model sees.
    """

    tool_call_id: str
    name: str
    args: Any
    text: str
    code: str


_RECORDING: ContextVar[_Recording | None] = ContextVar("turnstream_recording", default=None)
_KEY: ContextVar[str] = ContextVar("turnstream_idempotency_key", default="")


def record_with(ledger: ToolCalls) -> None:
    """Let wrappers record in `ledger`, in this task and in tasks that it starts."""
    _RECORDING.set(_Recording(ledger))


def get_idempotency_key() -> str:
    """Return the key of the tool call that runs here: a UUID, the same when it is made again.

    Works in asynchronous and plain tools. Where no call is recorded it is a random one.
    """
    return _KEY.get() or str(uuid.uuid4())


def recorded(
    effects: Mapping[str, Effects | None] | None = None,
) -> Callable[[ToolCallRequest, Execute], Awaitable[Result]]:
    """Return an `awrap_tool_call` that makes each call take effect once.

    `effects` tells of tools by name; None there: without effects, and not recorded. A tool that it
    does not name counts as one with effects that does not honour its key: if it is interrupted,
    the model is told that its effect is unknown, and it is not called again.
    """
    known = dict(effects or {})

    async def wrap(request: ToolCallRequest, execute: Execute) -> Result:
        kind, recording = known.get(request.tool_call["name"], Effects()), _RECORDING.get()
        if kind is None or recording is None:
            return await execute(request)
        made = False

        async def run() -> Result:
            nonlocal made
            made = True
            token = _KEY.set(call.idempotency_key)
            try:
                return await execute(request)
            finally:
                _KEY.reset(token)

        async def find() -> Result | None:
            if kind.find is None:
                return None
            output = await kind.find(request.tool_call["args"], call.idempotency_key)
            return None if output is None else _message(request, output)

        call = _call(request, recording)
        result: Result = await call_once(
            recording.ledger,
            call,
            honours_key=kind.honours_key,
            run=run,
            find=find,
            unknown=lambda why: _message(request, why, ToolIndeterminateError.code),
        )
        if not made:
            request.runtime.stream_writer(_recalled(request, result))
        return result

    return wrap


def _call(request: ToolCallRequest, recording: _Recording) -> ToolCall:
    info, ledger, asked = request.runtime.execution_info, recording.ledger, request.tool_call
    if info is None:
        raise RuntimeError("a recorded tool node runs inside a graph only")
    path = path_of_namespace(info.checkpoint_ns) or info.task_id
    place = place_of(info.checkpoint_ns, path, request.runtime.config.get("metadata") or {})
    ordinal = _ordinal(request)
    if ordinal is None:
        run = (path, info.node_attempt)
        ordinal = _ARRIVED + recording.arrived[run]
        recording.arrived[run] += 1
    key = idempotency_key(ledger.thread_key, ledger.origin, place, ordinal)
    digest = digest_of(asked["name"], asked["args"])
    return ToolCall(path, ordinal, asked["name"], digest, key, asked["id"] or "")


def _ordinal(request: ToolCallRequest) -> int | None:
    """Return the call's place in the message that asks for it; None if it is ambiguous."""
    state = request.state
    if isinstance(state, dict):
        state = state.get("messages")
    elif not isinstance(state, list):
        state = getattr(state, "messages", None)
    for message in reversed(state if isinstance(state, list) else []):
        if isinstance(message, AIMessage):
            same = [
                number
                for number, call in enumerate(message.tool_calls)
                if call is request.tool_call
            ] or [
                number
                for number, call in enumerate(message.tool_calls)
                if call["id"] == request.tool_call["id"]
            ]
            return same[0] if len(same) == 1 else None
    return None


def _message(request: ToolCallRequest, output: object, code: str = "") -> ToolMessage:
    return ToolMessage(
        output if isinstance(output, str) else to_json(output),
        tool_call_id=request.tool_call["id"],
        name=request.tool_call["name"],
        status="error" if code else "success",
        artifact={"code": code} if code else None,
    )


def _recalled(request: ToolCallRequest, result: object) -> Recalled:
    asked, code = request.tool_call, ""
    if isinstance(result, ToolMessage) and result.status == "error":
        given = result.artifact
        code = given["code"] if isinstance(given, dict) and "code" in given else "tool_error"
    text = text_of(result.content) if isinstance(result, BaseMessage) else to_json(result)
    return Recalled(asked["id"] or "", asked["name"], asked["args"], text, code)
