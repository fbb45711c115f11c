"""Stop the code of a graph that blocks the event loop of its worker.

A signal handler of the main thread calls `interrupt`: it raises into what runs at that moment, but
only into foreign code inside a graph's run. Our own code (a commit, the emitter, the loop) is never
stopped between two of its lines: that would break what it keeps.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import FrameType

    from turnstream.schemas.errors import TurnError

FRAMES_MAX = 30
_OURS = "turnstream."
_RUNNERS = (
    "turnstream.graph.langgraph.stream.brought_run",
    "turnstream.graph.run.closing",
    "turnstream.graph.run.ending",
    "turnstream.graph.run.graph_run",
)
"""Modules of ours that call LangGraph, which calls the graph's reducers and edges."""
_BETWEEN = (
    "turnstream.graph.langgraph.node_exits",
    "turnstream.graph.langgraph.factories",
    "turnstream.graph.langgraph.catalog",
    "turnstream.graph.run.turn_graph",
)
"""Modules of ours that stand between a run and the code that it calls; they keep nothing."""
_LOOP = {("asyncio.events", "_run"), ("asyncio.runners", "run"), ("uvloop", "run")}
"""Modules and functions whose frames are below those of the task that runs."""


class Failable(Protocol):
    """What can be told from outside that its turn has failed."""

    turn_id: str

    def fail(self, error: TurnError) -> None:
        """End the turn with this error."""
        ...


RUNNING: ContextVar[Failable | None] = ContextVar("running", default=None)
"""The control of the graph run that this task belongs to; tasks that a graph starts inherit it."""


class InterruptedGraphError(asyncio.CancelledError):
    """Raised inside a graph's code that blocks the loop.

    It is a cancellation, so that `except Exception` in a node does not swallow it and asyncio and
    LangGraph end what they hold.
    """


def blocking_run(frame: FrameType | None) -> Failable | None:
    """Return the run whose own code `frame` is in; None where it may not be stopped.

    Call this in the loop's thread, with the frame that runs there.
    """
    control, innermost = RUNNING.get(), frame
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if (name, frame.f_code.co_name) in _LOOP:
            break
        if name.startswith(_OURS) and (frame is innermost or name not in _BETWEEN):
            return control if name in _RUNNERS else None
        frame = frame.f_back
    return control


def frames_of(frame: FrameType | None) -> list[str]:
    """Return a stack as `file:line function`, innermost last, without any values."""
    found: list[str] = []
    while frame is not None and len(found) < FRAMES_MAX:
        found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found[::-1]
