"""The tasks of a run so far, and LangGraph's names for the place of a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.records.events import StepStarted
from turnstream.streams.edge.surfaces.run_events import raw
from turnstream.streams.edge.surfaces.run_states import INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.records.events import MessageStarted, StepFinished


def task_started(record: StepStarted) -> dict[str, object]:
    """Return a task as the modes `tasks` and `debug` show its start."""
    about: dict[str, object] = {
        "id": record.task_id,
        "name": record.node,
        "input": raw(record.input) if record.input else None,
        "triggers": record.triggers,
    }
    if record.metadata:
        about["metadata"] = raw(record.metadata)
    return about


def task_ended(record: StepFinished) -> dict[str, object]:
    """Return a task as the modes `tasks` and `debug` show its end."""
    result: object = None
    if record.update == "null" or record.interrupts:
        result = {}
    elif record.result or record.update:
        result = raw(record.result or record.update)
    return {
        "id": record.task_id,
        "name": record.node,
        "error": record.error or None,
        "interrupts": raw(record.interrupts) if record.interrupts else [],
        "result": result,
    }


def task_update(record: StepFinished) -> dict[str, object]:
    """Return what the mode `updates` shows of a task's end: its questions, or its update."""
    if record.interrupts:
        return {INTERRUPT: raw(record.interrupts)}
    return {record.node: raw(record.update) if record.update else None}


def debugged(record: StepStarted | StepFinished, about: dict[str, object]) -> dict[str, object]:
    """Return a task as the mode `debug` shows it."""
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=record.at)
    return {
        "type": "task" if isinstance(record, StepStarted) else "task_result",
        "step": record.step,
        "timestamp": at.isoformat(),
        "payload": about,
    }


@dataclass(slots=True)
class Tasks:
    """The started tasks by id; `about` goes into all metadata."""

    about: Mapping[str, object]
    _started: dict[str, StepStarted] = field(default_factory=dict)
    _metadata: dict[str, dict[str, object]] = field(default_factory=dict)

    def began(self, record: StepStarted) -> None:
        """Take a task's start."""
        self._started[record.task_id] = record

    def undone(self, record: StepStarted) -> None:
        """Forget a task whose start was taken back."""
        self._started.pop(record.task_id, None)
        self._metadata.clear()

    def space(self, path: str) -> str:
        """Return the LangGraph namespace of the graph in which `path` lies."""
        above, _, last = path.rpartition("|")
        task = self._started.get(last)
        if task is not None and task.ns:
            return task.ns
        return self._namespace(above.split("|")) if above else ""

    def metadata(self, path: str) -> dict[str, object]:
        """Return the metadata of a message at `path` whose start carries none."""
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

    def metadata_of(self, record: MessageStarted) -> dict[str, object]:
        """Return the metadata of a message: LangGraph's own if its start carries it."""
        if not record.metadata:
            return self.metadata(record.path)
        return {**msgspec.json.decode(record.metadata), **self.about}

    def _namespace(self, segments: list[str]) -> str:
        named = []
        for segment in segments:
            task = self._started.get(segment)
            named.append(f"{task.node}:{segment}" if task else segment)
        return "|".join(named)
