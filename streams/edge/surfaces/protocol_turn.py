"""An open turn in the Agent Streaming Protocol: what is open, and the namespaces in it. Pure.

A draft is a protocol event without its number: method, channel, namespace, data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.streams.edge.deliver.frames import VALUES, json_bytes

if TYPE_CHECKING:
    from turnstream.schemas.records.events import InputRequested
    from turnstream.streams.edge.surfaces.protocol_message import Draft, OpenMessage

ROOT: tuple[str, ...] = ()


@dataclass(slots=True)
class OpenTurn:
    """What the projection remembers of an open turn.

    `partial`: the log has lost its beginning. `public` maps messages that were taken back to the
    ids that clients know them by; `nodes` maps paths to node names.
    """

    graph: str = ""
    partial: bool = False
    open: dict[str, OpenMessage] = field(default_factory=dict)
    tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    public: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nested: set[tuple[str, ...]] = field(default_factory=set)
    questions: dict[str, InputRequested] = field(default_factory=dict)
    unshown: set[str] = field(default_factory=set)
    broken: bool = False


def lifecycle(
    event: str, *, namespace: tuple[str, ...] = ROOT, graph_name: str = "", error: str = ""
) -> Draft:
    """Return a lifecycle event of the root or a nested graph."""
    data = {"event": event}
    if graph_name:
        data["graph_name"] = graph_name
    if error:
        data["error"] = error
    return ("lifecycle", "lifecycle", namespace, json_bytes(data))


def snapshot() -> Draft:
    """Return a `values` snapshot; its state is read when a reader takes it."""
    return (VALUES, VALUES, ROOT, None)


def space_of(turn: OpenTurn, path: str) -> tuple[str, ...]:
    """Return the namespace of `path`: the nested graphs in which it lies."""
    space = turn.spaces.get(path)
    if space is None:
        parts = path.split("|")
        space = turn.spaces[path] = tuple(
            segment(turn, "|".join(parts[:depth])) for depth in range(1, len(parts))
        )
    return space


def segment(turn: OpenTurn, path: str) -> str:
    """Return the part of a namespace that names the task at `path`."""
    task_id = path.rpartition("|")[2]
    node = turn.nodes.get(path)
    return f"{node}:{task_id}" if node else task_id


def entered(turn: OpenTurn, space: tuple[str, ...]) -> list[Draft]:
    """Return the starts of nested graphs, when the first event in them is seen."""
    drafts: list[Draft] = []
    for depth in range(1, len(space) + 1):
        inner = space[:depth]
        if inner not in turn.nested:
            turn.nested.add(inner)
            name = inner[-1].partition(":")[0]
            drafts.append(lifecycle("started", namespace=inner, graph_name=name))
    return drafts
