"""From LangGraph's `tools` items to tool events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langgraph.prebuilt.tool_node import ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from turnstream.graph.values import text_of, to_json
from turnstream.schemas.fold.fold import covers
from turnstream.schemas.records.events import ToolFailed, ToolFinished, ToolProgressed, ToolStarted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.graph.langgraph.stream.translate_paths import Namespace
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.graph.recorded import Recalled

MESSAGE_CHARS_MAX = 2000


class Tools:
    """The tool calls that are being made, by the namespace of their graph and their id.

    A tool's node emits the tool's message apart. `paths` has the path of each call's task, and
    `errors` the class of its error, because clients are not shown the text. `ToolTasks` notes both.
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._open: dict[tuple[Namespace, str], tuple[str, str]] = {}
        self.paths: dict[tuple[Namespace, str], str] = {}
        self.errors: dict[tuple[Namespace, str], str] = {}

    def feed(self, ns: Namespace, data: Mapping[str, Any], path: str) -> None:
        """Translate one item; `path` is for a call whose task is not known."""
        call, event = data["tool_call_id"], data["event"]
        key = (ns, call)
        if event == "tool-started":
            path = self.paths.setdefault(key, path)
            self._open[key] = (data["tool_name"], path)
            args = to_json(_given(data.get("input", {})))
            self._emitter.emit(
                ToolStarted, path=path, tool_call_id=call, name=data["tool_name"], args=args
            )
            return
        name, path = self._open.get(key, ("", self.paths.get(key, path)))
        if event == "tool-output-delta":
            delta = to_json(data["delta"])
            self._emitter.emit(ToolProgressed, path=path, tool_call_id=call, data=delta)
            return
        self._open.pop(key, None)
        self.paths.pop(key, None)
        said: dict[str, Any] = {"path": path, "tool_call_id": call, "name": name, "apart": True}
        if event == "tool-finished":
            output = data["output"]
            if isinstance(output, BaseMessage):
                output = text_of(output.content)
            text = output if isinstance(output, str) else to_json(output)
            self._emitter.emit(ToolFinished, **said, output=text)
        elif event == "tool-error":
            message = self.errors.pop(key, "Error")
            self._emitter.emit(ToolFailed, **said, code="tool_error", message=message)

    def recalled(self, path: str, call: Recalled) -> None:
        """Emit the result of a call that was not made because its result is recorded."""
        said: dict[str, Any] = {
            "path": path,
            "tool_call_id": call.tool_call_id,
            "name": call.name,
        }
        self._emitter.emit(ToolStarted, **said, args=to_json(call.args))
        said["apart"] = True
        if call.code:
            message = call.text[:MESSAGE_CHARS_MAX]
            self._emitter.emit(ToolFailed, **said, code=call.code, message=message)
        else:
            self._emitter.emit(ToolFinished, **said, output=call.text)

    def forget(self, path: str) -> None:
        """Drop the calls of a task that runs again."""
        for key, (_, where) in list(self._open.items()):
            if covers(path, where):
                del self._open[key]


def _given(args: object) -> object:
    """Leave out what LangGraph injects: known by its type, for tools name their arguments freely.

    LangChain has left out the arguments that are annotated as injected.
    """
    if not isinstance(args, dict):
        return {} if args is None else args
    return {key: value for key, value in args.items() if not _is_injected(value)}


def _is_injected(value: object) -> bool:
    return isinstance(value, (Runtime, ToolRuntime, BaseStore))
