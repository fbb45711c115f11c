"""From LangGraph's stream items to a turn's events, for graphs that do not emit themselves.

Pure: takes the items of `astream(version="v2", subgraphs=True)` in order and calls an emitter; no
socket, clock or loop. Modes `tasks`, `messages`, `tools` and `custom` are read, others are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage

from turnstream.graph.questions import asked_fields
from turnstream.graph.recorded import Recalled
from turnstream.graph.translate_messages import Messages
from turnstream.graph.values import text_of, to_json
from turnstream.schemas.events import (
    CustomEmitted,
    InputRequested,
    StepFinished,
    StepStarted,
    TaskRetried,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
)
from turnstream.schemas.fold import covers
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from turnstream.graph.ports import Emitter
    from turnstream.schemas.events import Keep

MODES: tuple[Any, ...] = ("messages", "tasks", "tools", "custom")
UPDATE_BYTES_MAX = 8 << 10
"""Of a step's update as an event carries it; a larger one is left out, the checkpoint has it."""

Namespace = tuple[str, ...]


class Written(NamedTuple):
    """What a node gave to its stream writer, and the namespace of its task."""

    namespace: str
    data: Any


class Translator:
    """One attempt's translation.

    `finished` tells whether an earlier attempt finished a task: LangGraph announces such a task
    again, with no end, and it must not be published again. `stored` tells whether a message was
    said in a nested graph before: a graph whose last step an earlier attempt finished hands all its
    messages to the one around it, and LangGraph takes them for new. `step_of` gives the step that
    the graph in a namespace is at. `ended` is called with the id of each task whose last item was
    seen.
    """

    def __init__(
        self,
        emitter: Emitter,
        *,
        finished: Callable[[str], bool],
        step_of: Callable[[str], int],
        stored: Callable[[str], bool] = lambda _: False,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._emitter = emitter
        self._finished = finished
        self._step_of = step_of
        self._stored = stored
        self._ended = ended
        self._messages = Messages(emitter)
        self._running: dict[Namespace, dict[str, tuple[str, int]]] = {}
        self._tools: dict[str, tuple[str, str]] = {}
        self._asked: set[str] = set()
        self.tool_paths: dict[str, str] = {}
        self.tool_errors: dict[str, str] = {}

    def feed(self, item: Mapping[str, Any]) -> None:
        """Translate one item: `{"type", "ns", "data"}`."""
        kind, ns, data = item["type"], tuple(item["ns"]), item["data"]
        if kind == "messages":
            self._message(*data)
        elif kind == "tasks":
            if "result" in data:
                self._task_ended(ns, data)
            else:
                self._task_started(ns, data)
        elif kind == "tools":
            self._tool(ns, data)
        elif kind == "custom":
            self._custom(ns, data)

    def path_of(self, namespace: str) -> str:
        """Return the path of a namespace, as a string of LangGraph's (`node:tid|inner`).

        A segment without an id is a subgraph with a life of its own (`checkpointer=True`): it runs
        in the one task of that name, and what is said there goes when that task goes.
        """
        return self._path(tuple(namespace.split("|"))) if namespace else ""

    def retried(self, path: str, keep: Sequence[Keep], attempt: int, error: str) -> None:
        """Say that the task at `path` runs again in this attempt, and that it is running."""
        self._emitter.emit(
            TaskRetried, path=path, keep=list(keep), attempt=attempt, error=error[:2000]
        )
        self._messages.forget(path)
        for call, (_, where) in list(self._tools.items()):
            if covers(path, where):
                del self._tools[call]
        for ns, tasks in self._running.items():
            for task_id, (name, step) in list(tasks.items()):
                where = self._task_path(ns, task_id)
                if where == path:
                    self._emitter.emit(
                        StepStarted, path=path, step=step, node=name, task_id=task_id
                    )
                elif covers(path, where):
                    del tasks[task_id]

    # -- tasks -----------------------------------------------------------------------------------

    def _task_started(self, ns: Namespace, data: Mapping[str, Any]) -> None:
        task_id, name = data["id"], data["name"]
        if self._finished(task_id):
            return
        step = self._step_of("|".join(ns)) + 1
        self._running.setdefault(ns, {})[task_id] = (name, step)
        self._emitter.emit(
            StepStarted, path=self._task_path(ns, task_id), step=step, node=name, task_id=task_id
        )

    def _task_ended(self, ns: Namespace, data: Mapping[str, Any]) -> None:
        task_id, name = data["id"], data["name"]
        path = self._task_path(ns, task_id)
        _, step = self._running.get(ns, {}).pop(task_id, ("", self._step_of("|".join(ns)) + 1))
        if self._finished(task_id):
            self._ended(task_id)
            return
        self._messages.finish_under(path)
        for interrupt in data.get("interrupts") or ():
            self._ask(ns, path, interrupt)
        update = to_json(data.get("result"))
        self._emitter.emit(
            StepFinished,
            path=path,
            step=step,
            node=name,
            task_id=task_id,
            update=update if len(update) <= UPDATE_BYTES_MAX else "",
            error=_class_of(data.get("error")),
        )
        self._ended(task_id)

    def _ask(self, ns: Namespace, path: str, interrupt: Mapping[str, Any]) -> None:
        # a nested graph's question comes again with each task around it
        if interrupt["id"] in self._asked:
            return
        self._asked.add(interrupt["id"])
        self._emitter.emit(
            InputRequested,
            path=path,
            interrupt_id=interrupt["id"],
            ns="|".join(ns),
            **asked_fields(interrupt["value"], interrupt.get("response_schema")),
        )

    # -- messages, tools -------------------------------------------------------------------------

    def _message(self, message: BaseMessage, meta: Mapping[str, Any]) -> None:
        path = self.path_of(meta.get("langgraph_checkpoint_ns", ""))
        if isinstance(message, AIMessageChunk):
            self._messages.chunk(path, message, str(meta.get("ls_model_name") or ""))
        elif isinstance(message, ToolMessage) and message.tool_call_id in self.tool_paths:
            return  # its tool has said so itself
        elif self._stored(message.id or ""):
            return
        elif isinstance(message, (AIMessage, BaseMessage)) and message.type != "remove":
            self._messages.whole(path, message, str(meta.get("ls_model_name") or ""))

    def _custom(self, ns: Namespace, data: Any) -> None:
        path = self._path_in(ns)
        if isinstance(data, Written):
            path, data = self.path_of(data.namespace), data.data
        if isinstance(data, Recalled):
            self._recalled(path, data)
            return
        name = ""
        if isinstance(data, dict):
            name = str(data.get("name") or data.get("type") or "")
        self._emitter.emit(CustomEmitted, path=path, name=name, payload=to_json(data))

    def _tool(self, ns: Namespace, data: Mapping[str, Any]) -> None:
        call, event = data["tool_call_id"], data["event"]
        if event == "tool-started":
            path = self.tool_paths.setdefault(call, self._path_in(ns))
            self._tools[call] = (data["tool_name"], path)
            self._emitter.emit(
                ToolStarted,
                path=path,
                tool_call_id=call,
                name=data["tool_name"],
                args=to_json(_without_injected(data.get("input") or {})),
            )
            return
        name, path = self._tools.get(call, ("", self.tool_paths.get(call, self._path_in(ns))))
        if event == "tool-output-delta":
            delta = to_json(data["delta"])
            self._emitter.emit(ToolProgressed, path=path, tool_call_id=call, data=delta)
        elif event == "tool-finished":
            self._tools.pop(call, None)
            output = data["output"]
            if isinstance(output, BaseMessage):
                output = text_of(output.content)
            text = output if isinstance(output, str) else to_json(output)
            self._emitter.emit(ToolFinished, path=path, tool_call_id=call, name=name, output=text)
        elif event == "tool-error":
            self._tools.pop(call, None)
            self._emitter.emit(
                ToolFailed,
                path=path,
                tool_call_id=call,
                name=name,
                code="tool_error",
                message=self.tool_errors.pop(call, "Error"),
            )

    def _recalled(self, path: str, call: Recalled) -> None:
        """Say of a call that was not made what it came to; its message is then not one more."""
        self.tool_paths[call.tool_call_id] = path
        said = {"path": path, "tool_call_id": call.tool_call_id, "name": call.name}
        self._emitter.emit(ToolStarted, **said, args=to_json(call.args))
        if call.code:
            self._emitter.emit(ToolFailed, **said, code=call.code, message=call.text[:2000])
        else:
            self._emitter.emit(ToolFinished, **said, output=call.text)

    # -- paths -----------------------------------------------------------------------------------

    def _path_in(self, ns: Namespace) -> str:
        """Return the path of something said in a graph, where the item does not name its task.

        With one task running it is that task's. With several it is the graph's, so a crash takes it
        back even if its task had finished: better lost from view than shown twice.
        """
        running = self._running.get(ns)
        if running is not None and len(running) == 1:
            return self._task_path(ns, next(iter(running)))
        return self._path(ns)

    def _task_path(self, ns: Namespace, task_id: str) -> str:
        return f"{self._path(ns)}|{task_id}" if ns else task_id

    def _path(self, ns: Namespace) -> str:
        return "|".join(self._segment(ns[:depth], part) for depth, part in enumerate(ns))

    def _segment(self, above: Namespace, part: str) -> str:
        _, colon, task_id = part.rpartition(":")
        if colon:
            return task_id
        for running, (node, _) in self._running.get(above, {}).items():
            if node == part:
                return running
        return part


def _class_of(error: Any) -> str:
    """Return what clients may know of a task's error: the class of it, no text."""
    if isinstance(error, BaseException):
        return class_name(error)
    return "Error" if error else ""


def _without_injected(args: Any) -> Any:
    """Leave out what LangGraph puts into a tool's arguments itself."""
    if not isinstance(args, dict):
        return args
    return {key: value for key, value in args.items() if key not in ("runtime", "state", "store")}
