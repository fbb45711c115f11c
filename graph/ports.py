"""What the graph side needs from outside, as Protocols; the composition root hands the adapters in.

`Emitter`: where a turn's events go. `Commits`: what the runner asks of the saver's session.
`ToolCalls`: the ledger of tool calls. `ModelClient` and `Tool`: what the built-in agent calls.
`TurnContext`: what native nodes are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from turnstream.graph.agent.retries import Retries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from turnstream.graph.tools.recorded_calls import Effects
    from turnstream.schemas.chat import ChatAnswer, ChatRequest, Delta, ToolSpec
    from turnstream.schemas.records.events import Event, Keep
    from turnstream.schemas.tool_calls import Known, ToolCall

SaverCall = tuple[Any, ...]
"""A saver call that was collected: `("aput", config, checkpoint, metadata, new_versions)` or
`("aput_writes", config, writes, task_id, task_path)`, arguments as LangGraph passes them."""


class Asked(Protocol):
    """A question: the path and namespace of the task that stopped, and what it asks."""

    @property
    def path(self) -> str:
        """Path of the task."""
        ...

    @property
    def namespace(self) -> str:
        """LangGraph namespace of the task's graph."""
        ...

    @property
    def value(self) -> Any:
        """What the task gave to `interrupt()`."""
        ...

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer, if the task gave one."""
        ...

    @property
    def interrupt(self) -> Any:
        """LangGraph's own object."""
        ...


class Emitter(Protocol):
    """Takes a turn's events in the order in which they happen.

    Calls never wait and come from the event loop's thread (code in threads goes through
    `loop.call_soon_threadsafe`). `path` holds the task ids the event lies in, root first, joined
    by `|`. After the attempt is over, `closed` is true and what comes is dropped.
    """

    @property
    def closed(self) -> bool:
        """True when the attempt is over."""
        ...

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> int:
        """Take one event and return its `n`, 0 after the attempt is over.

        `fields` are the record's own, without the envelope.
        """
        ...

    def tokens(
        self,
        *,
        path: str,
        message_id: str,
        block: int,
        kind: str,
        text: str,
        tool_call_id: str = "",
        tool_name: str = "",
    ) -> None:
        """Take some tokens of one block of one message (the hot path)."""
        ...


class ToolCalls(Protocol):
    """The ledger of tool calls with effects, as one attempt sees it (RULES, Tools).

    Each call raises what ends the attempt (`FencedError`, a lost database), and
    `asyncio.CancelledError` where the turn is to stop.
    """

    @property
    def thread_key(self) -> str:
        """Key of the thread."""
        ...

    @property
    def origin(self) -> UUID:
        """The first turn of the chain of resumes: calls are found again in all of it."""
        ...

    @property
    def open(self) -> dict[tuple[str, int], ToolCall]:
        """Calls that are being made, by path and ordinal; those that were stopped stay."""
        ...

    async def start(self, call: ToolCall) -> Known:
        """Record that a call begins, after all that stands before it is committed."""
        ...

    async def finish(self, call: ToolCall, result: Any) -> None:
        """Record what a call came to: anything that a checkpoint can hold."""
        ...

    async def begun(self) -> Sequence[ToolCall]:
        """Return the chain's calls that began, in any attempt, and have no result."""
        ...

    async def ask(self, call: ToolCall) -> None:
        """Record that a call stopped with a question."""
        ...


class Commits(Protocol):
    """The saver's session of one attempt, as the runner sees it."""

    gate: Callable[[str], Awaitable[None]] | None
    """Waited for before a task's writes get their position: until all it said was handed out."""

    resolve: Callable[[str], str] | None
    """Gives the path of a LangGraph namespace, where the namespace alone does not tell it."""

    is_last: Callable[[Any], bool] | None
    """Tells of a root checkpoint that nothing runs after it; it then waits for the outcome."""

    carried: Callable[[int, Sequence[Keep]], bytes | None] | None
    """Gives what a next attempt is to know (JSON), written with each commit: of its `keep`."""

    askers: dict[str, str]
    """By interrupt id the tool call that asked, where it shares its task with others."""

    @property
    def stepped_at(self) -> float:
        """When the running step of the root graph began (`time.monotonic`)."""
        ...

    @property
    def applied(self) -> bool:
        """Whether the turn's input is in a checkpoint, with all that it wrote."""
        ...

    @property
    def asked(self) -> Mapping[str, Asked]:
        """Questions that tasks stopped with in this attempt, by interrupt id, in order."""
        ...

    @property
    def tool_calls(self) -> ToolCalls:
        """The ledger of tool calls, for this attempt."""
        ...

    @property
    def lost(self) -> Exception | None:
        """What ended the attempt, if it is over: fenced, or a commit's result is unknown."""
        ...

    def step_of(self, namespace: str) -> int:
        """Return the step of a namespace's last checkpoint, -1 without one."""
        ...

    def finished(self, task_id: str) -> bool:
        """Tell whether an earlier attempt, or turn of the chain, finished this task."""
        ...

    def stored(self, message_id: str) -> bool:
        """Tell whether an earlier attempt, or turn of the chain, said this in a nested graph."""
        ...

    async def settled(self, path: str) -> Sequence[Keep]:
        """Wait for commits already sent under `path`; return the keep entries at or under it."""
        ...

    def stop(self) -> None:
        """Ignore what LangGraph still hands to the saver: its tasks were stopped."""
        ...

    async def flush(self) -> None:
        """Commit what is held back."""
        ...


class ModelClient(Protocol):
    """Streams answers of a chat model."""

    async def stream(self, request: ChatRequest, push: Callable[[list[Delta]], None]) -> ChatAnswer:
        """Call `push` once per network read, in order; return when the answer is whole.

        `push` must not block. Raises `ModelError`; cancelling the task frees the server's slot.
        A call that failed is not repeated here.
        """
        ...


@dataclass(frozen=True, slots=True)
class ToolCallContext:
    """What a running tool knows of its call.

    `idempotency_key` (a UUID) is the same when the call is made again, after a crash or in a
    resume; `progress` takes anything that JSON can hold and never waits.
    """

    turn_id: UUID
    thread_key: str
    tool_call_id: str
    idempotency_key: str
    progress: Callable[[Any], None]


class Tool(Protocol):
    """Something that a model may call."""

    @property
    def spec(self) -> ToolSpec:
        """What the model is told."""
        ...

    @property
    def timeout_s(self) -> float:
        """Time after which a call is given up."""
        ...

    @property
    def effects(self) -> Effects | None:
        """What the tool says of its effects; None has none, and its calls are not recorded."""
        ...

    def check(self, arguments: Mapping[str, Any]) -> Any:
        """Return the arguments in the tool's own form; raises `ToolArgumentsError`."""
        ...

    async def run(self, arguments: Any, context: ToolCallContext) -> Any:
        """Return text, or what JSON can hold; raises `ToolError` with words for the model.

        A tool with effects raises `ToolError` where it knows what it did; of anything else that it
        raises the model is told that nobody knows (`tool_indeterminate`).
        """
        ...


async def _nothing(path: str) -> Sequence[Keep]:  # noqa: ARG001  where nothing is committed
    return ()


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What the nodes of a native graph find in `Runtime.context`.

    `configurable` holds the assistant's settings for this turn as they came: nobody checked them.
    `settled` is `Commits.settled`, `retries` the budget of retries.
    """

    emitter: Emitter
    turn_id: UUID
    thread_key: str
    tool_calls: ToolCalls
    configurable: Mapping[str, Any] = field(default_factory=dict)
    settled: Callable[[str], Awaitable[Sequence[Keep]]] = field(default=_nothing, compare=False)
    retries: Retries = field(default_factory=Retries, compare=False)
