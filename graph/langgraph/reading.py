"""Reads threads' states with a brought graph, also those that its own code refuses to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.types import StateSnapshot

from turnstream.graph.langgraph.factories import Use
from turnstream.schemas.errors import ConflictError, TurnstreamError
from turnstream.schemas.unexpected import class_name, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

    from turnstream.graph.langgraph.catalog import GraphEntry

SENT = "__pregel_tasks"
"""LangGraph's name of the channel that holds what was sent."""
HIDDEN = ("__", "branch:")
"""How the names of LangGraph's own channels begin."""


@dataclass(frozen=True, slots=True)
class GraphReader:
    """Reads with one graph, made for each use where it has a factory.

    A checkpoint that the graph's schema refuses is shown as it is stored, without its tasks.
    `passed` are errors that are raised as they are: the store's, and the caller's own mistakes.
    """

    entry: GraphEntry
    saver: BaseCheckpointSaver[str]
    passed: tuple[type[Exception], ...] = ()

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return a thread's state."""
        try:
            async with self.entry.opened(_use(config), self.saver) as graph:
                return await graph.aget_state(config, subgraphs=subgraphs)
        except self._passed:
            raise
        except Exception as error:
            if _names_no_subgraph(error):
                raise
            note("state", error, graph=self.entry.name)
            return _as_stored(await self.saver.aget_tuple(config), config)

    async def channels_of(self, config: RunnableConfig, node: str) -> list[str] | None:
        """Return the channels that a node of the graph in a namespace reads; None: not known."""
        namespace = str(config["configurable"].get("checkpoint_ns") or "")
        try:
            async with self.entry.opened(_use(config), self.saver) as graph:
                found: Any = graph
                if namespace:
                    name = "|".join(part.partition(":")[0] for part in namespace.split("|"))
                    found = dict(graph.get_subgraphs(recurse=True)).get(name)
                channels = found.nodes[node].channels if found is not None else None
        except self._passed:
            raise
        except Exception as error:  # noqa: BLE001  a brought graph's own code makes it
            note("state", error, graph=self.entry.name)
            return None
        return list(channels) if isinstance(channels, list) else None

    async def sent(self, config: RunnableConfig) -> list[object]:
        """Return what each `Send` gives in a checkpoint, in their order."""
        found = await self.saver.aget_tuple(config)
        sent = found.checkpoint["channel_values"].get(SENT, ()) if found else ()
        return [one.arg for one in sent]

    async def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """Iterate over a thread's states, newest first."""
        read = 0
        try:
            async with self.entry.opened(_use(config), self.saver) as graph:
                async for snapshot in graph.aget_state_history(
                    config, filter=filter, before=before, limit=limit
                ):
                    read += 1
                    before = snapshot.config
                    yield snapshot
        except self._passed:
            raise
        except Exception as error:
            if _names_no_subgraph(error):
                raise
            note("state", error, graph=self.entry.name)
        else:
            return
        left = None if limit is None else limit - read
        rest = [
            found
            async for found in self.saver.alist(config, filter=filter, before=before, limit=left)
        ]
        for found in rest:
            yield await self.aget_state(found.config)

    @property
    def _passed(self) -> tuple[type[Exception], ...]:
        return (TurnstreamError, *self.passed)


def cannot_be_made(entry: GraphEntry, error: Exception) -> ConflictError:
    """Return the error for a client whose request needs a graph that its factory cannot make."""
    error_id = note("graph", error, graph=entry.name)
    return ConflictError(
        f"graph {entry.name!r} cannot be made without a run:"
        f" {class_name(error)} (error id {error_id})",
        code="graph_error",
    )


def _use(config: RunnableConfig) -> Use:
    return Use(access="threads.read", config=config)


def _names_no_subgraph(error: Exception) -> bool:
    return type(error) is ValueError and "ubgraph" in str(error)


def _as_stored(found: CheckpointTuple | None, config: RunnableConfig) -> StateSnapshot:
    if found is None:
        return StateSnapshot({}, (), config, None, None, None, (), ())
    values = {
        name: value
        for name, value in found.checkpoint["channel_values"].items()
        if not name.startswith(HIDDEN)
    }
    return StateSnapshot(
        values,
        (),
        found.config,
        found.metadata,
        found.checkpoint["ts"],
        found.parent_config,
        (),
        (),
    )
