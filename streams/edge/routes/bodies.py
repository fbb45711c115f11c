"""The request bodies of the REST routes, with the checks that a type cannot express.

Unknown fields are ignored, as in LangGraph's server. A known field that the edge cannot honour is
refused by name (422 `unsupported`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, WithJsonSchema

from turnstream.schemas.limits import check_text, check_value
from turnstream.schemas.records.commands import OnBusy
from turnstream.streams.edge.ask.submit import check_expires_at

Checked = TypeVar("Checked")

SEARCH_LIMIT_MAX = 1000
OFFSET_MAX = 1_000_000
SELECT_MAX = 100
"""Fields that one request may select; each is looked up in each item of a list."""


def check_json(value: Checked) -> Checked:
    """Return the value; raises ValueError for JSON that a store or another client cannot hold.

    No NUL (Postgres), no lone surrogates (UTF-8), integers of 64 bits, at most 64 levels.
    """
    check_value(value, strict=True)
    return value


Json = Annotated[Any, AfterValidator(check_json), WithJsonSchema({})]
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
Text = Annotated[str, AfterValidator(check_text)]
ExpiresAt = Annotated[
    int,
    Strict(),
    AfterValidator(check_expires_at),
    Field(
        description="microseconds since 1970, at most 10 years ahead: what is not over by then "
        "ends as `timeout` (code `expired`), whether it waits or runs; what it said is kept",
        examples=[1_893_456_000_000_000],
    ),
]
Id = Annotated[str, AfterValidator(check_text), Field(max_length=500)]
Select = Annotated[list[Text], Field(max_length=SELECT_MAX)]


class Body(BaseModel):
    """A request body; unknown fields are ignored."""

    model_config = ConfigDict(extra="allow")


class Search(BaseModel):
    """The conditions of a search; an unknown condition is refused."""

    model_config = ConfigDict(extra="forbid")


class CheckpointBody(Body):
    """Names a checkpoint; `checkpoint_ns` "" is the root graph's."""

    thread_id: Id | None = None
    checkpoint_ns: Id | None = None
    checkpoint_id: Id | None = None
    checkpoint_map: JsonObject | None = None


class CommandBody(Body):
    """A command to a graph. Only `resume` is honoured."""

    resume: Json = Field(
        default=None,
        description="interrupt id to answer; or one answer, if exactly one interrupt is open",
    )
    update: Json = Field(default=None, description="not supported yet: 422")
    goto: Json = Field(default=None, description="not supported yet: 422")


class RunBody(Body):
    """Start a run, or resume one with `command.resume`."""

    assistant_id: Id = Field(description="a graph's name, or an assistant's id", examples=["agent"])
    input: Json = Field(
        default=None,
        description='the graph\'s input; a text is {"messages": [user]}',
        examples=["hello"],
    )
    command: CommandBody | None = None
    config: JsonObject | None = Field(
        default=None, description="`configurable`, `recursion_limit`, `tags`"
    )
    context: JsonObject | None = Field(
        default=None, description="what the graph's nodes find in `runtime.context`"
    )
    metadata: JsonObject | None = None
    stream_mode: Text | list[Text] | None = Field(
        default=None,
        description="values (default), updates, messages, messages-tuple, custom, tasks, "
        "checkpoints, debug, tools",
    )
    stream_subgraphs: bool | None = Field(
        default=None, description="show what nested graphs say too"
    )
    stream_resumable: bool | None = Field(default=None, description="every stream is resumable")
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        default=None, description="default continue: a disconnect is not a stop"
    )
    multitask_strategy: OnBusy | None = Field(
        default=None,
        description="what to do if the thread is busy; default enqueue. reject: 409; interrupt: "
        "stop the run and keep what it said; rollback: stop it and take it back as a whole",
    )
    expires_at: ExpiresAt | None = None
    if_not_exists: Literal["create", "reject"] | None = Field(
        default=None, description="of the thread; default reject (404)"
    )
    checkpoint: CheckpointBody | None = Field(
        default=None, description="only the thread's head for now"
    )
    checkpoint_id: Id | None = None
    interrupt_before: Json = Field(default=None, description="not supported yet: 422")
    interrupt_after: Json = Field(default=None, description="not supported yet: 422")
    webhook: Text | None = Field(default=None, description="not supported yet: 422")
    after_seconds: float | None = Field(default=None, description="not supported yet: 422")
    on_completion: Literal["delete", "keep"] | None = Field(
        default=None, description="delete: not supported yet, 422"
    )
    durability: Literal["sync", "async", "exit"] | None = Field(
        default=None, description="every run is sync, the strongest of them"
    )


class ThreadBody(Body):
    """Create a thread."""

    thread_id: Text | None = None
    metadata: JsonObject | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    supersteps: Json = Field(default=None, description="not supported yet: 422")
    ttl: Json = Field(default=None, description="not supported yet: 422")


class ThreadPatch(Body):
    """Merge metadata into a thread's."""

    metadata: JsonObject | None = None
    ttl: Json = Field(default=None, description="not supported yet: 422")


class ThreadFilter(Search):
    """Which threads: all conditions hold."""

    metadata: JsonObject | None = Field(
        default=None, description="these keys and values are contained"
    )
    values: JsonObject | None = Field(default=None, description="not supported yet: 422")
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class ThreadSearch(ThreadFilter):
    """Search threads; newest first unless sorted otherwise."""

    ids: list[Id] | None = Field(default=None, max_length=SEARCH_LIMIT_MAX)
    limit: int | None = Field(default=10, ge=1, le=SEARCH_LIMIT_MAX)
    offset: int | None = Field(default=0, ge=0, le=OFFSET_MAX)
    sort_by: (
        Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None
    ) = None
    sort_order: Literal["asc", "desc"] | None = None
    select: Select | None = None
    extract: Json = Field(default=None, description="not supported yet: 422")


class HistoryBody(Search):
    """Which of a thread's past states, newest first."""

    limit: int | None = Field(default=10, ge=1, le=SEARCH_LIMIT_MAX)
    before: Id | CheckpointBody | None = Field(
        default=None, description="states before this checkpoint (its id, or the checkpoint)"
    )
    metadata: JsonObject | None = None
    checkpoint: CheckpointBody | None = Field(
        default=None, description="of a nested graph: its namespace"
    )
    select: Select | None = None


class StateBody(Body):
    """Which state of a thread."""

    checkpoint: CheckpointBody
    subgraphs: bool | None = None
    select: Select | None = None


class AssistantFilter(Search):
    """Which assistants: all conditions hold."""

    graph_id: Id | None = None
    name: Text | None = None
    metadata: JsonObject | None = None


class AssistantSearch(AssistantFilter):
    """Search assistants; in the order of the configuration unless sorted otherwise."""

    sort_by: Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None
    limit: int | None = Field(default=10, ge=1, le=SEARCH_LIMIT_MAX)
    offset: int | None = Field(default=0, ge=0, le=OFFSET_MAX)
    select: Select | None = None


class CancelMany(Body):
    """Cancel several runs: those named, or the thread's runs of a status."""

    thread_id: Text | None = None
    run_ids: list[Id] | None = Field(default=None, max_length=SEARCH_LIMIT_MAX)
    status: Literal["pending", "running", "all"] | None = None


class ChatBody(Body):
    """One message to a thread; without `thread_id` a new thread is made."""

    text: Text = Field(min_length=1, description="what the user says")
    thread_id: Text | None = None
    graph: Id = Field(default="agent", description="a graph's name, or an assistant's id")
    idempotency_key: Id | None = Field(
        default=None, description="the same key never gives a second turn"
    )
    on_busy: OnBusy = Field(
        default="enqueue", description="what to do if the thread is busy: as `multitask_strategy`"
    )
    expires_at: ExpiresAt | None = None
    wait: bool = Field(
        default=True, description="false: answer as soon as the turn is accepted (202)"
    )
