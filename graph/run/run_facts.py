"""What the saver's session learns of the run whose checkpoints it commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.ids import path_of_namespace
from turnstream.schemas.records.results import Carried

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint

    from turnstream.graph.langgraph.stream.brought_run import BroughtRun
    from turnstream.graph.run.said import Said
    from turnstream.graph.run.turn_graph import TurnGraph
    from turnstream.schemas.records.events import Keep

_NOTHING = Carried()


class GraphFacts:
    """Implements `graph.ports.commits.RunFacts`; see there. `brought` is None for native graphs."""

    def __init__(self, said: Said, graph: TurnGraph, brought: BroughtRun | None) -> None:
        self._said = said
        self._graph = graph
        self._brought = brought

    @property
    def askers(self) -> Mapping[str, str]:
        """By interrupt id the tool call that asked."""
        return {} if self._brought is None else self._brought.askers

    def path_of(self, namespace: str) -> str:
        """Return the path of a LangGraph namespace; a native graph's namespace alone tells it."""
        if self._brought is None:
            return path_of_namespace(namespace)
        return self._brought.path_of(namespace)

    async def task_ended(self, task_id: str) -> None:
        """Wait for the task's events; nodes of native graphs have emitted theirs when they end."""
        if self._brought is not None:
            await self._brought.task_ended(task_id)

    def is_last(self, checkpoint: Checkpoint) -> bool:
        """Return whether nothing runs after this root checkpoint."""
        return self._graph.is_last(checkpoint)

    def carried(self, keep_n: int, keep: Sequence[Keep]) -> bytes | None:
        """Return what the next attempt is to know, as JSON; None where that is nothing."""
        carried = self._said.carried(keep_n, keep)
        return msgspec.json.encode(carried) if carried != _NOTHING else None
