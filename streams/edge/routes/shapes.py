"""The answers of the REST routes as models, for the OpenAPI document.

`present.py` makes the answers; a test compares both.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RunStatus = Literal["pending", "running", "error", "success", "timeout", "interrupted"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]


class Shape(BaseModel):
    """An answer; more fields may come with later versions."""

    model_config = ConfigDict(extra="allow")


class Ok(Shape):
    """The edge answers."""

    ok: bool


class Info(Shape):
    """The version and features of this server."""

    version: str
    flags: dict[str, bool]


class Assistant(Shape):
    """A graph under its name, in the form of LangGraph's SDK."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime


class GraphDrawing(Shape):
    """A graph's nodes and edges."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class GraphSchemas(Shape):
    """A graph's JSON schemas; null if none can be made."""

    graph_id: str
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    state_schema: dict[str, Any] | None
    config_schema: dict[str, Any] | None
    context_schema: dict[str, Any] | None


class Interrupt(Shape):
    """An open question."""

    id: str
    value: Any


class Thread(Shape):
    """A thread; `values` is its latest state, `interrupts` maps a task's id to its questions."""

    thread_id: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    status: ThreadStatus
    values: Any = None
    interrupts: dict[str, list[Interrupt]] = Field(default_factory=dict)


class Checkpoint(Shape):
    """The name of a checkpoint."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None


class ThreadTask(Shape):
    """A task of the step that a state stands before."""

    id: str
    name: str
    error: str | None
    interrupts: list[Interrupt]
    checkpoint: Checkpoint | None
    state: Any
    result: Any


class ThreadState(Shape):
    """A thread's state at a checkpoint."""

    values: Any
    next: list[str]
    tasks: list[ThreadTask]
    metadata: dict[str, Any]
    created_at: str | None
    checkpoint: Checkpoint
    parent_checkpoint: Checkpoint | None
    interrupts: list[Interrupt]


class Run(Shape):
    """A run: one turn."""

    run_id: str
    thread_id: str
    assistant_id: str
    created_at: datetime
    updated_at: datetime
    status: RunStatus
    metadata: dict[str, Any]
    multitask_strategy: str


class RunError(Shape):
    """Why a run failed."""

    code: str
    message: str


class ChatAnswer(Shape):
    """The answer to a message; `text` is the last answer, or the text up to a stop."""

    thread_id: str
    run_id: str
    status: RunStatus
    text: str = ""
    error: RunError | None = None
    questions: list[Interrupt] = Field(default_factory=list)
