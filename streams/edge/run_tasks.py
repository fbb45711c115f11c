"""The tasks of a run so far, and the names that LangGraph has for where something was said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.events import StepStarted


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

    def namespace(self, segments: list[str]) -> str:
        """Return the LangGraph namespace of a path: `node:task` segments joined by a bar."""
        named = []
        for segment in segments:
            task = self._started.get(segment)
            named.append(f"{task.node}:{segment}" if task else segment)
        return "|".join(named)

    def metadata(self, path: str) -> dict[str, Any]:
        """Return what goes beside a message said at `path`."""
        known = self._metadata.get(path)
        if known is None:
            segments = path.split("|") if path else []
            task = self._started.get(segments[-1]) if segments else None
            namespace = self.namespace(segments)
            known = self._metadata[path] = {
                **self.about,
                "langgraph_node": task.node if task else "",
                "langgraph_step": task.step if task else -1,
                "langgraph_checkpoint_ns": namespace,
                "checkpoint_ns": namespace,
            }
        return known
