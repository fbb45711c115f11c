"""From LangGraph's stream items to a turn's events, for graphs that do not emit themselves.

Pure: takes the items of `astream(version="v2", subgraphs=True)` in order and calls an emitter; no
socket, clock or loop. Modes `tasks`, `updates`, `messages`, `tools` and `custom` are read, others
are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessageChunk, BaseMessage

from turnstream.graph.langgraph.stream.translate_messages import Messages
from turnstream.graph.langgraph.stream.translate_paths import Paths
from turnstream.graph.langgraph.stream.translate_tasks import Tasks
from turnstream.graph.langgraph.stream.translate_tools import Tools
from turnstream.graph.recorded import Recalled
from turnstream.graph.values import to_json
from turnstream.schemas.records.events import CustomEmitted, TaskRetried

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from turnstream.graph.langgraph.stream.translate_paths import Namespace
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.schemas.records.events import Keep

MODES: tuple[Any, ...] = ("messages", "tasks", "updates", "tools", "custom")
ERROR_CHARS_MAX = 2000


class Written(NamedTuple):
    """What a node gave to its stream writer, and the namespace of its task."""

    namespace: str
    data: Any


class Translator:
    """Translates the stream of one attempt.

    `finished` returns whether an earlier attempt finished a task: LangGraph announces such a task
    again, without an end, and it must not be published again. `stored` returns whether a message
    was said in a nested graph before: a graph whose last step an earlier attempt finished hands all
    its messages to the graph around it, and LangGraph streams them as new. `step_of` returns the
    step that the graph in a namespace is at. `ended` is called with the id of each task whose last
    item was translated.
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
        self._stored = stored
        self._paths = Paths()
        self.messages = Messages(emitter, self._paths)
        self.tools = Tools(emitter)
        self._tasks = Tasks(
            emitter,
            self._paths,
            self.messages,
            finished=finished,
            step_of=step_of,
            stored=stored,
            ended=ended,
        )

    def feed(self, item: Mapping[str, Any]) -> None:
        """Translate one item: `{"type", "ns", "data"}`."""
        kind, ns, data = item["type"], tuple(item["ns"]), item["data"]
        if kind == "messages":
            self._message(*data)
        elif kind == "tasks":
            if "result" in data:
                self._tasks.ended(ns, data)
            else:
                self._tasks.started(ns, data)
        elif kind == "updates":
            self._tasks.updated(ns, data)
        elif kind == "tools":
            self.tools.feed(ns, data, self._paths.only_task(ns))
        elif kind == "custom":
            self._custom(ns, data)

    def path_of(self, namespace: str) -> str:
        """Return the path of a namespace, as a string of LangGraph's (`node:tid|inner`)."""
        return self._paths.of_namespace(namespace)

    def handed_over(self, namespace: str) -> None:
        """Note that the task of a namespace ended with a `Command` to the graph around its own."""
        self._tasks.handed_over(namespace.rpartition(":")[2])

    def retried(self, path: str, keep: Sequence[Keep], attempt: int, error: str) -> None:
        """Emit that the task at `path` runs again in this attempt, and that it is running."""
        self._emitter.emit(
            TaskRetried,
            path=path,
            keep=list(keep),
            attempt=attempt,
            error=error[:ERROR_CHARS_MAX],
        )
        self.messages.forget(path)
        self.tools.forget(path)
        self._tasks.run_again(path)

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
