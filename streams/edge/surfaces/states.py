"""Threads' states as LangGraph's server shapes them, read from the checkpoints in Postgres.

LangGraph knows a thread by its key (`tenant/thread_id`); outside it has its own id only. Reads go
through the thread's graph, because only it knows its channels. Nothing here writes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from turnstream.schemas.errors import ConflictError, DatabaseUnavailableError, NotFoundError
from turnstream.schemas.ids import split_thread_key
from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from langchain_core.runnables import RunnableConfig
    from langgraph.types import Interrupt, PregelTask, StateSnapshot

T = TypeVar("T")

HISTORY_MAX = 1000
# how long a checkpoint may take from its announcement to its commit, before its state is left out
COMMIT_WAIT_S = 1.0
COMMIT_POLL_S = 0.01


class Graph(Protocol):
    """What is asked of a compiled graph that has a checkpointer."""

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """Return a thread's state."""
        ...

    async def channels_of(self, config: RunnableConfig, node: str) -> list[str] | None:
        """Return the channels that a node of the graph in a namespace reads; None: not known."""
        ...

    async def sent(self, config: RunnableConfig) -> list[Any]:
        """Return what each `Send` gives in a checkpoint, in their order."""
        ...

    def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """Iterate over a thread's states, newest first."""
        ...


@dataclass(slots=True)
class States:
    """Reads threads' states.

    `graph_of(name)` gives the graph to read with, or None if this edge does not have it;
    `graph_name(key)` the name of the graph that the thread ran last, or None if it never ran.
    `unavailable` are the store's own errors that mean: it does not answer. `open_questions(key)`
    gives the ids that may be answered: a checkpoint shows its questions for ever.
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
    ) -> dict[str, Any]:
        """Return the latest state, or a checkpoint's; an empty one for a thread that never ran.

        Raises `NotFoundError` (`checkpoint_not_found`), `ConflictError` (`graph_unknown`).
        """
        graph = await self._graph(key)
        if graph is None:
            if checkpoint_id:
                raise _no_checkpoint()
            return empty_state(split_thread_key(key)[1])
        config = _config(key, checkpoint_id, ns)
        snapshot = await self._read(graph.aget_state(config, subgraphs=subgraphs))
        if (checkpoint_id or ns) and snapshot.created_at is None:
            raise _no_checkpoint()
        state = thread_state(snapshot, key)
        if state["interrupts"] and not checkpoint_id and self.open_questions is not None:
            _close_others(state, await self.open_questions(key))
        return state

    async def history(
        self,
        key: str,
        *,
        limit: int = 10,
        before: str = "",
        ns: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the states, newest first; `before` is a checkpoint id and is left out itself."""
        graph = await self._graph(key)
        if graph is None or limit < 1:
            return []
        states = graph.aget_state_history(
            _config(key, "", ns),
            filter=dict(metadata) if metadata else None,
            before=_config(key, before, ns) if before else None,
            limit=min(limit, HISTORY_MAX),
        )
        return await self._read(_collect(states, key))

    async def of_turn(self, key: str, turn_id: str, *, ns: str = "") -> dict[str, Any]:
        """Return the last state that a turn wrote; the thread's latest if it wrote none."""
        latest = await self.state(key, ns=ns)
        if (latest["metadata"] or {}).get("run_id") == turn_id:
            return latest
        mine = await self.history(key, limit=1, ns=ns, metadata={"run_id": turn_id})
        return mine[0] if mine else latest

    async def before_turn(self, key: str, turn_id: str, *, ns: str = "") -> dict[str, Any]:
        """Return the state with which a turn began: the one before the first that it wrote."""
        latest = await self.state(key, ns=ns)
        first = latest["checkpoint_id"]
        if (latest["metadata"] or {}).get("run_id") == turn_id:
            limit = HISTORY_MAX
            mine = await self.history(key, limit=limit, ns=ns, metadata={"run_id": turn_id})
            first = (mine[-1]["parent_checkpoint_id"] if mine else None) or first
        # read by its id it shows the questions that were open then
        return await self.state(key, checkpoint_id=first, ns=ns) if first else latest

    async def committed(
        self, key: str, checkpoint_id: str, *, ns: str = ""
    ) -> dict[str, Any] | None:
        """Return the state of an announced checkpoint once it is there; None if it does not come.

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

    async def task_input(self, key: str, state: Mapping[str, Any], ns: str, node: str) -> Any:
        """Return what a node is given in a state: the values of the channels that it reads."""
        graph = await self._graph(key)
        values = state["values"]
        if graph is None or not isinstance(values, dict):
            return values
        channels = await graph.channels_of(_config(key, "", ns), node)
        if channels is None:
            return values
        return {name: values[name] for name in channels if name in values}

    async def sent_to(self, key: str, state: Mapping[str, Any], ns: str, task_id: str) -> Any:
        """Return what a `Send` gave a task of a checkpoint; None for any other task."""
        graph = await self._graph(key)
        paths = (task["path"] for task in state["tasks"] if task["id"] == task_id)
        number = next((path[1] for path in paths if len(path) > 1), None)
        if graph is None or not isinstance(number, int):
            return None
        sent = await self._read(graph.sent(_config(key, state["checkpoint_id"], ns)))
        return sent[number] if number < len(sent) else None

    async def task_result(self, key: str, checkpoint_id: str, ns: str, task_id: str) -> Any:
        """Return what a task of a checkpoint wrote, once it is there; None if it does not come."""
        deadline = asyncio.get_running_loop().time() + COMMIT_WAIT_S
        while True:
            state = await self.state(key, checkpoint_id=checkpoint_id, ns=ns)
            for task in state["tasks"]:
                if task["id"] == task_id and task["result"] is not None:
                    return task["result"]
            if asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(COMMIT_POLL_S)

    async def _read(self, reading: Awaitable[T]) -> T:
        try:
            return await reading
        except self.unavailable as error:
            raise DatabaseUnavailableError from error
        except ValueError as error:  # a namespace that names no nested graph
            raise _no_checkpoint() from error

    async def _graph(self, key: str) -> Graph | None:
        name = await self.graph_name(key)
        if not name:
            return None
        graph = self.graph_of(name)
        if graph is None:
            raise ConflictError(
                f"this edge does not have the thread's graph {name!r}", code="graph_unknown"
            )
        return graph


def thread_state(snapshot: StateSnapshot, key: str) -> dict[str, Any]:
    """Return a snapshot as `ThreadState`; its values are not encoded yet (see `encode`)."""
    thread_id = split_thread_key(key)[1]
    checkpoint = _checkpoint(snapshot.config, thread_id) or {}
    parent = _checkpoint(snapshot.parent_config, thread_id)
    metadata = {**(snapshot.metadata or {})}
    metadata.pop("tenant", None)
    metadata["thread_id"] = thread_id
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task(task, key) for task in snapshot.tasks],
        "metadata": metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [interrupt_json(one) for one in snapshot.interrupts],
        "checkpoint_id": checkpoint.get("checkpoint_id"),
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
    }


def _close_others(state: dict[str, Any], open_ids: Collection[str]) -> None:
    """Show no question but those that are open, nested graphs' included."""
    state["interrupts"] = [one for one in state["interrupts"] if one["id"] in open_ids]
    for task in state["tasks"]:
        task["interrupts"] = [one for one in task["interrupts"] if one["id"] in open_ids]
        if task["state"] is not None:
            _close_others(task["state"], open_ids)


def empty_state(thread_id: str) -> dict[str, Any]:
    """Return the state of a thread that never ran."""
    return {
        "values": {},
        "next": [],
        "tasks": [],
        "metadata": {},
        "created_at": None,
        "checkpoint": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": None},
        "parent_checkpoint": None,
        "interrupts": [],
        "checkpoint_id": None,
        "parent_checkpoint_id": None,
    }


def interrupt_json(interrupt: Interrupt) -> dict[str, Any]:
    """Return an open question as the SDK knows it, with its answer's schema if there is one."""
    question = {"value": interrupt.value, "id": interrupt.id}
    if interrupt.response_schema is not None:
        question["response_schema"] = interrupt.response_schema
    return question


def encode(value: Any) -> bytes:
    """Return any state value as JSON text that every client can parse.

    Messages and other pydantic objects as their fields; what JSON has no form for, as its text.
    """
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, TypeError, OverflowError, ValueError):
        return _ENCODER.encode(_plain(value))


def _foreign(value: Any) -> Any:
    """Return something that JSON knows, for an object that it does not."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump()
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    return str(value)


_ENCODER = msgspec.json.Encoder(enc_hook=_foreign)


def _plain(value: Any) -> Any:
    """Return a copy with string keys, clean text and numbers of 64 bits."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value) if abs(value) < 1 << 1000 else str(value)
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    return _plain(msgspec.to_builtins(value, enc_hook=_foreign, str_keys=True))


async def _collect(states: AsyncIterator[StateSnapshot], key: str) -> list[dict[str, Any]]:
    return [thread_state(snapshot, key) async for snapshot in states]


def _config(key: str, checkpoint_id: str, ns: str) -> RunnableConfig:
    configurable: dict[str, Any] = {"thread_id": key, "checkpoint_ns": ns}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def _checkpoint(config: RunnableConfig | None, thread_id: str) -> dict[str, Any] | None:
    if not config:
        return None
    configurable = config.get("configurable", {})
    return {
        "thread_id": thread_id,
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
        "checkpoint_id": configurable.get("checkpoint_id"),
        **(
            {"checkpoint_map": configurable["checkpoint_map"]}
            if configurable.get("checkpoint_map")
            else {}
        ),
    }


def _task(task: PregelTask, key: str) -> dict[str, Any]:
    thread_id = split_thread_key(key)[1]
    state: Any = task.state
    nested = None
    checkpoint = None
    if state is not None and hasattr(state, "values") and hasattr(state, "tasks"):
        nested = thread_state(state, key)
        checkpoint = nested["checkpoint"]
    elif state is not None:
        checkpoint = _checkpoint(state, thread_id)
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": str(task.error) if task.error is not None else None,
        "interrupts": [interrupt_json(one) for one in task.interrupts],
        "checkpoint": checkpoint,
        "state": nested,
        "result": task.result,
    }


def _no_checkpoint() -> NotFoundError:
    return NotFoundError("the thread has no such checkpoint", code="checkpoint_not_found")
