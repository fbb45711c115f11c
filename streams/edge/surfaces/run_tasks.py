"""The tasks of a run so far, and the names that LangGraph has for where something was said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.records.events import MessageStarted, StepStarted


@dataclass(slots=True)
class Tasks:
    """Tasks by their ids, as their starts tell them; `about` goes into all metadata."""

    about: Mapping[str, Any]
    _started: dict[str, StepStarted] = field(default_factory=dict)
    _metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    def began(self, record: StepStarted) -> None:
        """Take in a task's start."""
        self._started[record.task_id] = record

    def undone(self, record: StepStarted) -> None:
        """Forget a task whose start was taken back."""
        self._started.pop(record.task_id, None)
        self._metadata.clear()

    def space(self, path: str) -> str:
        """Return the LangGraph namespace of the graph in which something was said."""
        above, _, last = path.rpartition("|")
        task = self._started.get(last)
        if task is not None and task.ns:
            return task.ns
        return self._namespace(above.split("|")) if above else ""

    def metadata(self, path: str) -> dict[str, Any]:
        """Return what goes beside a message said at `path`, whose start did not tell it."""
        known = self._metadata.get(path)
        if known is None:
            task = self._started.get(path.rpartition("|")[2])
            namespace = self._namespace(path.split("|")) if path else ""
            known = self._metadata[path] = {
                **({"ls_integration": "langgraph"} if task and task.triggers else {}),
                **(msgspec.json.decode(task.metadata) if task and task.metadata else {}),
                "langgraph_node": task.node if task else "",
                "langgraph_step": task.step if task else -1,
                "langgraph_triggers": task.triggers if task else [],
                "langgraph_path": ["__pregel_pull", task.node] if task else [],
                "langgraph_checkpoint_ns": namespace,
                "checkpoint_ns": namespace,
                **self.about,
            }
        return known

    def metadata_of(self, record: MessageStarted) -> dict[str, Any]:
        """Return what goes beside a message: LangGraph's own where its start tells it."""
        if not record.metadata:
            return self.metadata(record.path)
        return {**msgspec.json.decode(record.metadata), **self.about}

    def _namespace(self, segments: list[str]) -> str:
        named = []
        for segment in segments:
            task = self._started.get(segment)
            named.append(f"{task.node}:{segment}" if task else segment)
        return "|".join(named)
