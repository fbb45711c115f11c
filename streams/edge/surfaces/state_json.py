"""Snapshots of LangGraph in the form of its server (`ThreadState`). Pure.

LangGraph knows a thread by its key (`tenant/thread_id`); clients know its id only. Values and
results are what the graph holds; `encoding.encode` makes JSON of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from langgraph.types import StateSnapshot

from turnstream.schemas.ids import split_thread_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from langgraph.types import Interrupt, PregelTask


class CheckpointJson(TypedDict):
    """The name of a checkpoint."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None
    checkpoint_map: NotRequired[object]


class QuestionJson(TypedDict):
    """A question, with the JSON schema of its answer if there is one."""

    value: object
    id: str
    response_schema: NotRequired[object]


class TaskJson(TypedDict):
    """A task of the step that a state stands before; `state` is that of a nested graph."""

    id: str
    name: str
    path: list[object]
    error: str | None
    interrupts: list[QuestionJson]
    checkpoint: CheckpointJson | None
    state: StateJson | None
    result: object


class StateJson(TypedDict):
    """A thread's state at a checkpoint."""

    values: object
    next: list[str]
    tasks: list[TaskJson]
    metadata: dict[str, object]
    created_at: str | None
    checkpoint: CheckpointJson
    parent_checkpoint: CheckpointJson | None
    interrupts: list[QuestionJson]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


def thread_state(snapshot: StateSnapshot, key: str) -> StateJson:
    """Return a snapshot of thread `key`."""
    thread_id = split_thread_key(key)[1]
    checkpoint = _checkpoint(snapshot.config, thread_id) or _no_checkpoint(thread_id)
    parent = _checkpoint(snapshot.parent_config, thread_id)
    metadata: dict[str, object] = {**(snapshot.metadata or {})}
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
        "interrupts": [_question(one) for one in snapshot.interrupts],
        "checkpoint_id": checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
    }


def empty_state(thread_id: str) -> StateJson:
    """Return the state of a thread that never ran."""
    return {
        "values": {},
        "next": [],
        "tasks": [],
        "metadata": {},
        "created_at": None,
        "checkpoint": _no_checkpoint(thread_id),
        "parent_checkpoint": None,
        "interrupts": [],
        "checkpoint_id": None,
        "parent_checkpoint_id": None,
    }


def keep_open(state: StateJson, open_ids: Collection[str]) -> None:
    """Remove the questions that are not open, also those of nested graphs."""
    state["interrupts"] = [one for one in state["interrupts"] if one["id"] in open_ids]
    for task in state["tasks"]:
        task["interrupts"] = [one for one in task["interrupts"] if one["id"] in open_ids]
        if task["state"] is not None:
            keep_open(task["state"], open_ids)


def _question(interrupt: Interrupt) -> QuestionJson:
    question: QuestionJson = {"value": interrupt.value, "id": interrupt.id}
    if interrupt.response_schema is not None:
        question["response_schema"] = interrupt.response_schema
    return question


def _no_checkpoint(thread_id: str) -> CheckpointJson:
    return {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": None}


def _checkpoint(config: Mapping[str, object] | None, thread_id: str) -> CheckpointJson | None:
    if not config:
        return None
    configurable = config.get("configurable")
    given = configurable if isinstance(configurable, dict) else {}
    checkpoint: CheckpointJson = {
        "thread_id": thread_id,
        "checkpoint_ns": given.get("checkpoint_ns", ""),
        "checkpoint_id": given.get("checkpoint_id"),
    }
    if given.get("checkpoint_map"):
        checkpoint["checkpoint_map"] = given["checkpoint_map"]
    return checkpoint


def _task(task: PregelTask, key: str) -> TaskJson:
    nested = checkpoint = None
    if isinstance(task.state, StateSnapshot):
        nested = thread_state(task.state, key)
        checkpoint = nested["checkpoint"]
    elif task.state is not None:
        checkpoint = _checkpoint(task.state, split_thread_key(key)[1])
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": str(task.error) if task.error is not None else None,
        "interrupts": [_question(one) for one in task.interrupts],
        "checkpoint": checkpoint,
        "state": nested,
        "result": task.result,
    }
