"""A thread's state in the run-scoped modes: when they show it, and in which form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from turnstream.streams.edge.surfaces.run_events import RunEvent, StateWanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.schemas.records.events import CheckpointSaved, StepFinished, StepStarted
    from turnstream.streams.edge.surfaces.state_json import StateJson, TaskJson

INTERRUPT = "__interrupt__"
NOTHING = "null"
CHECKPOINTS_OWN = ("source", "step", "parents", "counters_since_delta_snapshot")


@dataclass(slots=True)
class RunStates:
    """The states that a run shows, as LangGraph does, by the namespaces of its graphs.

    `resumed`: the run answers questions. The mode `values` shows the state from which such a run
    goes on, and each state that a step changed. A step that wrote nothing has a checkpoint and no
    values.
    """

    resumed: bool
    _begun: set[str] = field(default_factory=set)
    _wrote: set[str] = field(default_factory=set)
    _last: dict[str, str] = field(default_factory=dict)

    def last(self, ns: str) -> str:
        """Return the id of a graph's last checkpoint in this run, "" for none."""
        return self._last.get(ns, "")

    def anew(self) -> None:
        """Begin again: the next attempt goes on from the last checkpoints."""
        self._begun.clear()
        self._wrote.clear()

    def saved(self, record: CheckpointSaved) -> StateWanted:
        """Take a checkpoint; return its state's place."""
        ns, is_input = record.ns, record.source == "input"
        values = not is_input and ns in self._wrote
        self._begun.add(ns)
        self._last[ns] = record.checkpoint_id
        self._wrote.discard(ns)
        if is_input:
            self._wrote.add(ns)  # the next one has the input applied
        return StateWanted(record.checkpoint_id, record.step, ns=ns, values=values)

    def began(self, record: StepStarted, ns: str) -> StateWanted | None:
        """Take a task's start; return the state from which a resumed graph goes on."""
        if ns in self._begun or not self.resumed:
            return None
        self._begun.add(ns)
        return StateWanted(step=record.step - 1, ns=ns, before=True)

    def ended(self, record: StepFinished, ns: str) -> StateWanted | None:
        """Take a task's end; return the state's place if the task asked something."""
        if record.interrupts:
            return StateWanted(ns=ns, asked=record.interrupts)
        if not record.error and record.update != NOTHING:
            self._wrote.add(ns)
        return None


def state_events(wanted: StateWanted, modes: frozenset[str], state: StateJson) -> list[RunEvent]:
    """Return what the modes show of a state."""
    out: list[RunEvent] = []
    place = f"|{wanted.ns}" if wanted.ns else ""
    if "values" in modes and wanted.values:
        values = state["values"]
        if wanted.asked:
            known = values if isinstance(values, dict) else {}
            values = {**known, INTERRUPT: msgspec.Raw(wanted.asked.encode())}
        out.append(RunEvent(f"values{place}", values))
    if not (wanted.checkpoint_id or wanted.before):
        return out
    payload = {
        "config": {"configurable": state["checkpoint"]},
        "parent_config": (
            {"configurable": state["parent_checkpoint"]} if state["parent_checkpoint"] else None
        ),
        "values": state["values"],
        "metadata": _metadata(state["metadata"] or {}, wanted),
        "next": state["next"],
        "tasks": [_task(task) for task in state["tasks"]],
    }
    if "checkpoints" in modes:
        out.append(RunEvent(f"checkpoints{place}", payload))
    if "debug" in modes:
        about = {"type": "checkpoint", "step": wanted.step, "timestamp": state["created_at"]}
        out.append(RunEvent(f"debug{place}", {**about, "payload": payload}))
    return out


def _metadata(metadata: Mapping[str, object], wanted: StateWanted) -> Mapping[str, object]:
    """Return a checkpoint's metadata; a new checkpoint does not have the run's own yet."""
    if wanted.before:
        return metadata
    return {key: metadata[key] for key in CHECKPOINTS_OWN if key in metadata}


def _task(task: TaskJson) -> dict[str, object]:
    """Return a task as it is when its checkpoint is written, before it runs."""
    inner = task["checkpoint"]
    place = None
    if inner:
        place = {"thread_id": inner["thread_id"], "checkpoint_ns": inner["checkpoint_ns"]}
    return {
        "id": task["id"],
        "name": task["name"],
        "interrupts": [],
        "state": {"configurable": place} if place else None,
    }
