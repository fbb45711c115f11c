"""Where things are said: from LangGraph's namespaces to the log's paths. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PUSH = "__pregel_push"
CALL_PATH_LENGTH = 4

Namespace = tuple[str, ...]


class Running(NamedTuple):
    """A task that runs: the fields of its `StepStarted`, to say it again when it runs again."""

    fields: dict[str, Any]


class Paths:
    """The paths of one attempt's tasks, and which of them run.

    A path holds the ids of the tasks that something lies in. A function that a functional graph
    calls (`@task`) runs in the graph of its caller, but LangGraph puts its namespace under the
    caller's. So a known task's path is the one under which it was announced.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self.running: dict[Namespace, dict[str, Running]] = {}

    def began(self, ns: Namespace, task_id: str, fields: dict[str, object]) -> None:
        """Note that a task runs."""
        self.running.setdefault(ns, {})[task_id] = Running(fields)

    def ended(self, ns: Namespace, task_id: str) -> Running | None:
        """Note that a task runs no more; return what was known of it."""
        return self.running.get(ns, {}).pop(task_id, None)

    def announced(self, ns: Namespace, task_id: str) -> str:
        """Note a task of the graph in a namespace; return its path."""
        above = self.of(ns)
        path = self._known[task_id] = f"{above}|{task_id}" if above else task_id
        return path

    def of_namespace(self, namespace: str) -> str:
        """Return the path of a namespace as LangGraph writes it (`node:id|inner`)."""
        return self.of(tuple(namespace.split("|"))) if namespace else ""

    def of(self, ns: Namespace) -> str:
        """Return the path of a namespace.

        A segment without an id is a subgraph with a life of its own (`checkpointer=True`): it runs
        in the one task of that name, and what is said there goes when that task goes.
        """
        path = ""
        for depth, part in enumerate(ns):
            task_id = self._segment(ns[:depth], part)
            known = self._known.get(task_id)
            path = known or (f"{path}|{task_id}" if path else task_id)
        return path

    def only_task(self, ns: Namespace) -> str:
        """Return the path of something said in a graph, where the item does not name its task.

        With one task running, it is that task's path. With several, it is the graph's: a crash then
        takes the item back even if its task had finished, which is better than showing it twice.
        """
        running = self.running.get(ns)
        if running is not None and len(running) == 1:
            return self.announced(ns, next(iter(running)))
        return self.of(ns)

    def _segment(self, above: Namespace, part: str) -> str:
        _, colon, named = part.rpartition(":")
        if colon:
            return named
        for task_id, running in self.running.get(above, {}).items():
            if running.fields["node"] == part:
                return task_id
        return part


def namespace_of(metadata: Mapping[str, object] | None) -> str:
    """Return the namespace of a task, from its run's metadata, "" without one."""
    found = (metadata or {}).get("langgraph_checkpoint_ns")
    return found if isinstance(found, str) else ""


def graph_namespace(metadata: Mapping[str, object]) -> Namespace:
    """Return the namespace of the graph in which a task runs, from its run's metadata.

    That is the task's own without its last segment, and without one more for each function that
    called it: the `langgraph_path` of such a call is `(PUSH, <path of the caller>, <index>, True)`.
    """
    namespace = namespace_of(metadata)
    if not namespace:
        return ()
    ns: Namespace = tuple(namespace.split("|"))
    path: Any = metadata.get("langgraph_path") or ()
    drop = 1
    while len(path) == CALL_PATH_LENGTH and path[0] == PUSH and path[-1] is True:
        drop, path = drop + 1, path[1]
    return ns[:-drop]
