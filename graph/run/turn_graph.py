"""The graph of one turn: made for its run, and made again for its closing if need be."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from turnstream.graph.langgraph.factories import Use
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint

    from turnstream.graph.langgraph.catalog import GraphEntry
    from turnstream.graph.langgraph.factories import Access, AnyPregel
    from turnstream.graph.run.input import TurnInput


class TurnGraph:
    """One entry's graph, as one attempt at a turn uses it.

    `made`: the run's graph exists. `unmade`: its factory failed. `values` are those of the last
    root checkpoint that the run handed over, None before the first one.
    """

    def __init__(
        self,
        entry: GraphEntry,
        turn: TurnInput,
        saver: BaseCheckpointSaver[str],
        steps_max: int,
    ) -> None:
        self.entry = entry
        self.saver = saver
        self.steps_max = steps_max
        self.unmade = False
        self.values: object = None
        self._turn = turn
        self._graph: AnyPregel | None = None
        self._ends_after: Callable[[Checkpoint], bool] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AnyPregel]:
        """Give the graph for the run; raises what its factory raises.

        What the factory raises while it cleans up behind a run that came to its end is logged.
        """
        over = False
        try:
            async with self.entry.opened(self._use("threads.create_run"), self.saver) as graph:
                self._graph = graph
                self._ends_after = self.entry.is_last_of(graph)
                yield graph
                over = True
        except TurnstreamError:
            raise
        except Exception as error:
            self.unmade = self._graph is None
            if not over:
                raise
            note("graph_exit", error, turn=self._turn.turn_id, graph=self.entry.name)

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[AnyPregel]:
        """Give the graph that ran, even if its factory has cleaned up, or else a new one."""
        if self._graph is not None:
            yield self._graph
        else:
            async with self.entry.opened(self._use("threads.update"), self.saver) as graph:
                yield graph

    def is_last(self, checkpoint: Checkpoint) -> bool:
        """Return whether nothing runs after a root checkpoint of the run; note its values."""
        if self._ends_after is None:
            return False
        self.values = checkpoint["channel_values"]
        return self._ends_after(checkpoint)

    def _use(self, access: Access) -> Use:
        if self.entry.factory is None:  # no factory reads it
            return Use(access=access)
        config = self._turn.runnable_config(limit_max=self.steps_max)
        return Use(access=access, config=config, context=self._turn.context or None)
