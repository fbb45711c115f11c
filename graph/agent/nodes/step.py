"""A node of a native graph as an event pair: `StepStarted`, `StepFinished`."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp

from turnstream.graph.tools.recorded_calls import place_of
from turnstream.graph.values import to_json
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.ids import path_of_namespace
from turnstream.schemas.records.events import StepFinished, StepStarted, TaskRetried

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langgraph.runtime import Runtime

    from turnstream.graph.agent.turn_context import TurnContext
    from turnstream.graph.ports.emitter import Emitter
    from turnstream.schemas.records.events import Keep

ERROR_CHARS_MAX = 2000
UPDATE_CHARS_MAX = 256 << 10
"""Characters of a step's update in its event. A larger one is left out; the checkpoint has it."""


@dataclass(slots=True)
class Step:
    """One run of a node. `path` is its events' path; `update` what the node returns.

    `place` names it in idempotency keys; `started` are the fields of its `StepStarted`.
    """

    emitter: Emitter
    turn_id: uuid.UUID
    path: str
    task_id: str
    place: str
    started: dict[str, Any]
    update: dict[str, Any] = field(default_factory=dict)

    def again(self, keep: Sequence[Keep], attempt: int, error: Exception) -> None:
        """Emit that the node runs again in this attempt: its events are void, except `keep`."""
        code = error.code if isinstance(error, TurnstreamError) else type(error).__name__
        text = f"{code}: {error}"[:ERROR_CHARS_MAX]
        self.emitter.emit(TaskRetried, path=self.path, keep=list(keep), attempt=attempt, error=text)
        self.emitter.emit(StepStarted, **self.started)

    def id_of(self, what: str = "") -> uuid.UUID:
        """Return an id that is the same when the task runs again after a crash."""
        return uuid.uuid5(self.turn_id, f"{self.task_id}/{what}" if what else self.task_id)


@contextmanager
def step(runtime: Runtime[TurnContext]) -> Iterator[Step]:
    """Emit that the node began and how it ended; after a cancel nothing more is emitted."""
    info = runtime.execution_info
    if info is None:
        raise RuntimeError("a native node runs inside a graph only")
    metadata = get_config().get("metadata") or {}
    emitter = runtime.context.emitter
    path = path_of_namespace(info.checkpoint_ns) or info.task_id
    said: dict[str, Any] = {
        "path": path,
        "step": int(metadata.get("langgraph_step", -1)),
        "node": str(metadata.get("langgraph_node", "")),
        "task_id": info.task_id,
    }
    emitter.emit(StepStarted, **said)
    here = Step(
        emitter,
        runtime.context.turn_id,
        path,
        info.task_id,
        place_of(info.checkpoint_ns, path, metadata),
        said,
    )
    try:
        yield here
    except GraphBubbleUp:  # an interrupt: the node runs again when it is answered
        raise
    except Exception as error:
        code = error.code if isinstance(error, TurnstreamError) else type(error).__name__
        emitter.emit(StepFinished, **said, update="", error=code)
        raise
    update = to_json(here.update)
    if len(update) > UPDATE_CHARS_MAX:
        update = ""
    emitter.emit(StepFinished, **said, update=update, error="")
