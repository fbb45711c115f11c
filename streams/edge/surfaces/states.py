"""Threads' states, read from the checkpoints in Postgres.

Reads go through the thread's graph, because only the graph knows its channels. Nothing here writes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from turnstream.schemas.errors import ConflictError, DatabaseUnavailableError, NotFoundError
from turnstream.schemas.ids import split_thread_key
from turnstream.streams.edge.surfaces.encoding import encode
from turnstream.streams.edge.surfaces.state_json import (
    StateJson,
    empty_state,
    keep_open,
    thread_state,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from langchain_core.runnables import RunnableConfig
    from langgraph.types import StateSnapshot

T = TypeVar("T")

HISTORY_MAX = 1000
"""States that one call reads at most."""
COMMIT_WAIT_S = 1.0
"""Seconds from a checkpoint's announcement to its commit; then its state is left out."""
COMMIT_POLL_S = 0.01


class Graph(Protocol):
    """A compiled graph that has a checkpointer, as far as states need it."""

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return a thread's state."""
        ...

    async def channels_of(self, config: RunnableConfig, node: str) -> list[str] | None:
        """Return the channels that a node reads, in the graph of the namespace; None if unknown."""
        ...

    async def sent(self, config: RunnableConfig) -> list[object]:
        """Return the arguments of a checkpoint's `Send`s, in their order."""
        ...

    def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, object] | None = None,  # noqa: A002  LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """Iterate over a thread's states, newest first."""
        ...


@dataclass(slots=True)
class States:
    """Reads threads' states.

    - `graph_of(name)` returns the graph to read with, None if this edge does not have it;
    - `graph_name(key)` returns the name of the thread's last graph, None if it never ran;
    - `unavailable` are the errors of a store that does not answer;
    - `open_questions(key)` returns the ids that may be answered. A checkpoint shows its questions
      for ever, also those that are closed.
    """

    graph_of: Callable[[str], Graph | None]
    graph_name: Callable[[str], Awaitable[str | None]]
    unavailable: tuple[type[Exception], ...] = ()
    open_questions: Callable[[str], Awaitable[Collection[str]]] | None = None

    async def values(self, key: str) -> bytes:
        """Return the latest values as JSON text; `{}` for a thread without any."""
        return encode((await self.state(key))["values"])

    async def state(
        self, key: str, *, checkpoint_id: str = "", ns: str = "", subgraphs: bool = False
    ) -> StateJson:
        """Return the latest state, or a checkpoint's; an empty one for a thread that never ran.

        Raises `NotFoundError` (`checkpoint_not_found`), `ConflictError` (`graph_unknown`).
        """
        graph = await self.graph(key)
        if graph is None:
            if checkpoint_id:
                raise _no_checkpoint()
            return empty_state(split_thread_key(key)[1])
        config = config_of(key, checkpoint_id, ns)
        snapshot = await self.read(graph.aget_state(config, subgraphs=subgraphs))
        if (checkpoint_id or ns) and snapshot.created_at is None:
            raise _no_checkpoint()
        state = thread_state(snapshot, key)
        if state["interrupts"] and not checkpoint_id and self.open_questions is not None:
            keep_open(state, await self.open_questions(key))
        return state

    async def history(
        self,
        key: str,
        *,
        limit: int = 10,
        before: str = "",
        ns: str = "",
        metadata: Mapping[str, object] | None = None,
    ) -> list[StateJson]:
        """Return states, newest first, from the one before the checkpoint `before` on."""
        graph = await self.graph(key)
        if graph is None or limit < 1:
            return []
        states = graph.aget_state_history(
            config_of(key, "", ns),
            filter=dict(metadata) if metadata else None,
            before=config_of(key, before, ns) if before else None,
            limit=min(limit, HISTORY_MAX),
        )
        return await self.read(_collect(states, key))

    async def of_turn(self, key: str, turn_id: str, *, ns: str = "") -> StateJson:
        """Return the last state that a turn wrote; the thread's latest if it wrote none."""
        latest = await self.state(key, ns=ns)
        if (latest["metadata"] or {}).get("run_id") == turn_id:
            return latest
        mine = await self.history(key, limit=1, ns=ns, metadata={"run_id": turn_id})
        return mine[0] if mine else latest

    async def before_turn(self, key: str, turn_id: str, *, ns: str = "") -> StateJson:
        """Return the state with which a turn began: the one before its first own state."""
        latest = await self.state(key, ns=ns)
        first = latest["checkpoint_id"]
        if (latest["metadata"] or {}).get("run_id") == turn_id:
            limit = HISTORY_MAX
            mine = await self.history(key, limit=limit, ns=ns, metadata={"run_id": turn_id})
            first = (mine[-1]["parent_checkpoint_id"] if mine else None) or first
        # a state that is read by its id shows the questions that were open then
        return await self.state(key, checkpoint_id=first, ns=ns) if first else latest

    async def committed(self, key: str, checkpoint_id: str, *, ns: str = "") -> StateJson | None:
        """Return an announced checkpoint's state once it is committed; None if it is not in time.

        A checkpoint is announced before its transaction, which a crash may prevent.
        """
        deadline = asyncio.get_running_loop().time() + COMMIT_WAIT_S
        while True:
            try:
                return await self.state(key, checkpoint_id=checkpoint_id, ns=ns)
            except NotFoundError:
                if asyncio.get_running_loop().time() > deadline:
                    return None
            await asyncio.sleep(COMMIT_POLL_S)

    async def read(self, reading: Awaitable[T]) -> T:
        """Read with a graph; raises `DatabaseUnavailableError`, `NotFoundError`."""
        try:
            return await reading
        except self.unavailable as error:
            raise DatabaseUnavailableError from error
        except ValueError as error:  # a namespace that names no nested graph
            raise _no_checkpoint() from error

    async def graph(self, key: str) -> Graph | None:
        """Return the thread's graph, None if it never ran; raises `ConflictError`."""
        name = await self.graph_name(key)
        if not name:
            return None
        graph = self.graph_of(name)
        if graph is None:
            raise ConflictError(
                f"this edge does not have the graph {name!r} of the thread", code="graph_unknown"
            )
        return graph


def config_of(key: str, checkpoint_id: str, ns: str) -> RunnableConfig:
    """Return the config that names a checkpoint, or ("") a graph's latest one."""
    configurable = {"thread_id": key, "checkpoint_ns": ns}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


async def _collect(states: AsyncIterator[StateSnapshot], key: str) -> list[StateJson]:
    return [thread_state(snapshot, key) async for snapshot in states]


def _no_checkpoint() -> NotFoundError:
    return NotFoundError("the thread has no such checkpoint", code="checkpoint_not_found")
