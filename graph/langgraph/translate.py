"""From LangGraph's stream items to a turn's events, for graphs that do not emit themselves.

Pure: takes the items of `astream(version="v2", subgraphs=True)` in order and calls an emitter; no
socket, clock or loop. Modes `tasks`, `updates`, `messages`, `tools` and `custom` are read, others
are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessageChunk, BaseMessage

from turnstream.graph.langgraph.translate_messages import Messages
from turnstream.graph.langgraph.translate_paths import Paths
from turnstream.graph.langgraph.translate_tools import Tools
from turnstream.graph.recorded import Recalled
from turnstream.graph.run.questions import asked_fields
from turnstream.graph.values import is_small, to_json
from turnstream.schemas.fold.fold import covers
from turnstream.schemas.records.events import (
    CustomEmitted,
    InputRequested,
    StepFinished,
    StepStarted,
    TaskRetried,
)
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from langgraph.types import TaskPayload, TaskResultPayload

    from turnstream.graph.langgraph.translate_paths import Namespace
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.schemas.records.events import Keep

MODES: tuple[Any, ...] = ("messages", "tasks", "updates", "tools", "custom")
UPDATE_BYTES_MAX = 256 << 10
"""Of a step's update as an event carries it; a larger one is left out, the checkpoint has it."""
INPUT_BYTES_MAX = 16 << 10
"""Of a task's input as an event carries it: it may be the whole state, at every step. A larger one
is left out, the checkpoint has it."""
ERROR_CHARS_MAX = 2000
HIDDEN = ("__interrupt__", "__metadata__")


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
        self._paths = Paths()
        self._updates: dict[tuple[Namespace, str], Any] = {}
        self._asked: set[str] = set()
        self._handed_over: set[str] = set()
        self.messages = Messages(emitter, self._paths)
        self.tools = Tools(emitter)

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
        elif kind == "updates":
            for node, update in data.items():  # that of a task comes right before its end
                if node not in HIDDEN:
                    self._updates[ns, node] = update
        elif kind == "tools":
            self.tools.feed(ns, data, self._paths.only_task(ns))
        elif kind == "custom":
            self._custom(ns, data)

    def path_of(self, namespace: str) -> str:
        """Return the path of a namespace, as a string of LangGraph's (`node:tid|inner`)."""
        return self._paths.of_namespace(namespace)

    def handed_over(self, namespace: str) -> None:
        """Note that a task ended with a `Command` to the graph around the one inside of it."""
        self._handed_over.add(namespace.rpartition(":")[2])

    def retried(self, path: str, keep: Sequence[Keep], attempt: int, error: str) -> None:
        """Say that the task at `path` runs again in this attempt, and that it is running."""
        self._emitter.emit(
            TaskRetried,
            path=path,
            keep=list(keep),
            attempt=attempt,
            error=error[:ERROR_CHARS_MAX],
        )
        self.messages.forget(path)
        self.tools.forget(path)
        for ns, tasks in self._paths.running.items():
            for task_id, started in list(tasks.items()):
                where = self._paths.announced(ns, task_id)
                if where == path:
                    self._emitter.emit(StepStarted, path=path, **started.fields)
                elif covers(path, where):
                    del tasks[task_id]

    # -- tasks -----------------------------------------------------------------------------------

    def _task_started(self, ns: Namespace, data: TaskPayload) -> None:
        task_id, name = data["id"], data["name"]
        path = self._paths.announced(ns, task_id)
        if self._finished(task_id):
            return
        given, metadata = data.get("input"), data.get("metadata")
        fields = {
            "step": self._step_of("|".join(ns)) + 1,
            "node": name,
            "task_id": task_id,
            "ns": "|".join(ns),
            "input": _bounded(given, INPUT_BYTES_MAX),
            "triggers": [str(one) for one in data.get("triggers") or ()],
            "metadata": _bounded(metadata, INPUT_BYTES_MAX) if metadata else "",
        }
        self._paths.began(ns, task_id, fields)
        self._emitter.emit(StepStarted, path=path, **fields)

    def _task_ended(self, ns: Namespace, data: TaskResultPayload) -> None:
        task_id, name = data["id"], data["name"]
        path = self._paths.announced(ns, task_id)
        started = self._paths.ended(ns, task_id)
        step = started.fields["step"] if started else self._step_of("|".join(ns)) + 1
        update = self._updates.pop((ns, name), None)
        if self._finished(task_id):
            self._ended(task_id)
            return
        self.messages.finish_under(path)
        interrupts = data.get("interrupts") or ()
        for interrupt in interrupts:
            self._ask(ns, path, interrupt)
        error = _class_of(data.get("error"))
        result = data.get("result")
        fields: dict[str, Any] = {"interrupts": to_json(list(interrupts))} if interrupts else {}
        if not interrupts and not error:
            fields["update"] = _bounded(update, UPDATE_BYTES_MAX)
            if result and not _are_same(result, update):
                fields["result"] = _bounded(result, UPDATE_BYTES_MAX)
            # LangGraph shows the messages that a node returns, not those of a hand-over
            returned = () if task_id in self._handed_over else messages_in(result)
            fields["messages"] = [
                message.id
                for message in returned
                if message.id and self._was_said_under(path, message.id)
            ]
        self._emitter.emit(
            StepFinished, path=path, step=step, node=name, task_id=task_id, error=error, **fields
        )
        self._ended(task_id)

    def _was_said_under(self, path: str, message_id: str) -> bool:
        said = self.messages.said.get(message_id)
        return self._stored(message_id) if said is None else covers(f"{path}|", said)

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

    # -- messages, what nodes write --------------------------------------------------------------

    def _message(self, message: BaseMessage, meta: Mapping[str, Any]) -> None:
        if isinstance(message, AIMessageChunk):
            self.messages.chunk(message, meta)
        elif not self._stored(message.id or "") and message.type != "remove":
            self.messages.whole(message, meta)

    def _custom(self, ns: Namespace, data: object) -> None:
        if isinstance(data, Written):
            path, data = self.path_of(data.namespace), data.data
        else:
            path = self._paths.only_task(ns)
        if isinstance(data, Recalled):
            self.tools.recalled(path, data)
            return
        name = ""
        if isinstance(data, dict):
            name = str(data.get("name") or data.get("type") or "")
        self._emitter.emit(CustomEmitted, path=path, name=name, payload=to_json(data))


def _are_same(result: object, update: object) -> bool:
    """Tell whether both hold the same objects: what graphs hold may not like to be compared."""
    if not (isinstance(result, dict) and isinstance(update, dict)):
        return False
    return len(result) == len(update) and all(
        key in update and update[key] is value for key, value in result.items()
    )


def _class_of(error: object) -> str:
    """Return what clients may know of a task's error: the class of it, no text."""
    if isinstance(error, BaseException):
        return class_name(error)
    return "Error" if error else ""


def messages_in(result: object) -> Iterator[BaseMessage]:
    """Yield the messages that a task returned, as LangGraph finds them: two levels deep."""
    for value in result.values() if isinstance(result, dict) else ():
        if isinstance(value, BaseMessage):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (one for one in value if isinstance(one, BaseMessage))
        elif isinstance(value, dict) and isinstance(writes := value.get("$writes"), list):
            for write in writes:
                yield from messages_in({"": write})


def _bounded(value: object, bytes_max: int) -> str:
    """Return JSON text, "" for one that is larger; a large value is not encoded to find out."""
    if not is_small(value, bytes_max):
        return ""
    text = to_json(value)
    return text if len(text) <= bytes_max else ""
