"""A thread's state as the run-scoped modes show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnstream.streams.edge.run_endings import shown
from turnstream.streams.edge.run_events import RunEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.streams.edge.run_events import StateWanted


def state_events(
    wanted: StateWanted, modes: frozenset[str], state: Mapping[str, Any]
) -> list[RunEvent]:
    """Return what the modes show of a state (in the form of `states.thread_state`)."""
    out: list[RunEvent] = []
    if "values" in modes and (wanted.final or not _is_input(state)):
        values = state["values"]
        if wanted.interrupts and isinstance(values, dict):
            values = {**values, "__interrupt__": shown(wanted.interrupts)}
        out.append(RunEvent("values", values))
    if not wanted.checkpoint_id:
        return out
    payload = {
        "config": {"configurable": state["checkpoint"]},
        "parent_config": (
            {"configurable": state["parent_checkpoint"]} if state["parent_checkpoint"] else None
        ),
        **{key: state[key] for key in ("values", "metadata", "next", "tasks")},
    }
    if "checkpoints" in modes:
        out.append(RunEvent("checkpoints", payload))
    if "debug" in modes:
        about = {"type": "checkpoint", "step": wanted.step, "timestamp": state["created_at"]}
        out.append(RunEvent("debug", {**about, "payload": payload}))
    return out


def _is_input(state: Mapping[str, Any]) -> bool:
    """Tell whether the state is that of an input checkpoint: its values are not applied yet."""
    return (state.get("metadata") or {}).get("source") == "input"
