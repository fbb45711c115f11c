"""From LangGraph's `tasks` and `updates` items to the events of steps and questions. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from turnstream.graph.run.questions import asked_fields
from turnstream.graph.values import is_small, to_json
from turnstream.schemas.fold.fold import covers
from turnstream.schemas.records.events import InputRequested, StepFinished, StepStarted
from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langgraph.types import TaskPayload, TaskResultPayload

    from turnstream.graph.langgraph.stream.translate_messages import Messages
    from turnstream.graph.langgraph.stream.translate_paths import Namespace, Paths
    from turnstream.graph.ports.emitter import Emitter

UPDATE_BYTES_MAX = 256 << 10
"""Of a step's update as an event carries it; a larger one is left out, the checkpoint has it."""
INPUT_BYTES_MAX = 16 << 10
"""Of a task's input as an event carries it: it may be the whole state, at every step. A larger one
is left out, the checkpoint has it."""
HIDDEN = ("__interrupt__", "__metadata__")


class Tasks:
    """The tasks of one attempt; see `Translator` for what it is given."""

    def __init__(
        self,
        emitter: Emitter,
        paths: Paths,
        messages: Messages,
        *,
        finished: Callable[[str], bool],
        step_of: Callable[[str], int],
        stored: Callable[[str], bool],
        ended: Callable[[str], None],
    ) -> None:
        self._emitter = emitter
        self._paths = paths
        self._messages = messages
        self._finished = finished
        self._step_of = step_of
        self._stored = stored
        self._tell_end = ended
        self._updates: dict[tuple[Namespace, str], object] = {}
        self._asked: set[str] = set()
        self._handed_over: set[str] = set()

    def updated(self, ns: Namespace, updates: Mapping[str, object]) -> None:
        """Note what nodes returned; the end of each one's task comes right behind it."""
        for node, update in updates.items():
            if node not in HIDDEN:
                self._updates[ns, node] = update

    def handed_over(self, task_id: str) -> None:
        """Note that a task ended with a `Command` to the graph around its own."""
        self._handed_over.add(task_id)

    def run_again(self, path: str) -> None:
        """Translate the new start of the task at `path`; forget the tasks that ran under it."""
        for ns, tasks in self._paths.running.items():
            for task_id, started in list(tasks.items()):
                where = self._paths.announced(ns, task_id)
                if where == path:
                    self._emitter.emit(StepStarted, path=path, **started.fields)
                elif covers(path, where):
                    del tasks[task_id]

    def started(self, ns: Namespace, data: TaskPayload) -> None:
        """Translate the start of a task."""
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

    def ended(self, ns: Namespace, data: TaskResultPayload) -> None:
        """Translate the end of a task: what it asks, what it returned."""
        task_id, name = data["id"], data["name"]
        path = self._paths.announced(ns, task_id)
        started = self._paths.ended(ns, task_id)
        step = started.fields["step"] if started else self._step_of("|".join(ns)) + 1
        update = self._updates.pop((ns, name), None)
        if self._finished(task_id):
            self._tell_end(task_id)
            return
        self._messages.finish_under(path)
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
        self._tell_end(task_id)

    def _was_said_under(self, path: str, message_id: str) -> bool:
        said = self._messages.said.get(message_id)
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
