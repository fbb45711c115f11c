"""The items of the SDK's run-scoped stream, and its modes."""

from __future__ import annotations

from dataclasses import dataclass

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
    data: object


@dataclass(frozen=True, slots=True)
class StateWanted:
    """A place for a state: that of a checkpoint, or ("") the last one that the turn wrote.

    - `before`: the state with which the turn began;
    - `ns`: the LangGraph namespace of the state's graph;
    - `values`: whether the mode `values` shows it;
    - `asked`: the questions that stopped the graph, as a JSON list;
    - `final`: the turn is over, so the state is committed. Else it may come later, or never.
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
    """A large input or result of a task, which later events show and the log does not hold.

    It is that of the task at a checkpoint, or ("") at the one with which the turn began. The reader
    of the state fills it into `about`, the task in the form of the modes `tasks` and `debug`. If
    the task has ended, it also fills `update`, by the node's name. `sent`: the input came from a
    `Send` and is not part of the state.
    """

    checkpoint_id: str
    ns: str
    node: str
    task_id: str
    about: dict[str, object]
    update: dict[str, object] | None = None
    sent: bool = False


RunItem = RunEvent | StateWanted | TaskWanted


def raw(text: str) -> msgspec.Raw:
    """Return JSON text as a value that is encoded unchanged."""
    return msgspec.Raw(embed(text))
