"""What the SDK's run-scoped stream is made of: its modes, and the events that they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from turnstream.streams.edge.deliver.frames import embed

MODES = frozenset(
    {
        "values",
        "updates",
        "messages",
        "messages-tuple",
        "custom",
        "tasks",
        "checkpoints",
        "debug",
        "tools",
    }
)
CHECKPOINT_MODES = frozenset({"checkpoints", "debug"})


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One server-sent event: its name and its data, a JSON value (`msgspec.Raw` for JSON text)."""

    event: str
    data: Any


@dataclass(frozen=True, slots=True)
class StateWanted:
    """State belongs here: of one checkpoint, or ("") the last one that the turn wrote.

    `before`: the one that the turn began with. `ns`: the LangGraph namespace of the graph whose
    state it is. `values`: whether the mode `values` shows it. `asked` are the questions that
    stopped the graph, as a JSON list. `final` says that the turn is over, so that the state is
    there; else its checkpoint may be a moment away, or never come.
    """

    checkpoint_id: str = ""
    step: int = -1
    before: bool = False
    ns: str = ""
    values: bool = True
    asked: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class TaskWanted:
    """A task's input or result belongs into events that follow; the log does not hold a large one.

    It is that of the task at the checkpoint, or ("") at the one that the turn began with. `about`
    is the task as the modes `tasks` and `debug` show it, and is filled in; `update` likewise, by
    the node's name, where the task has ended. `sent`: its input is no part of the state.
    """

    checkpoint_id: str
    ns: str
    node: str
    task_id: str
    about: dict[str, Any]
    update: dict[str, Any] | None = None
    sent: bool = False


RunItem = RunEvent | StateWanted | TaskWanted


def raw(text: str) -> msgspec.Raw:
    """Return JSON text as a value that is embedded as it is."""
    return msgspec.Raw(embed(text))
