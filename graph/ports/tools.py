"""Tools that a model may call, and the ledger of calls with effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from turnstream.schemas.chat import ToolSpec
    from turnstream.schemas.tool_calls import Known, ToolCall


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

    async def finish(self, call: ToolCall, result: object) -> None:
        """Record the result of a call: anything that a checkpoint can hold."""
        ...

    async def begun(self) -> Sequence[ToolCall]:
        """Return the chain's calls that began, in any attempt, and have no result."""
        ...

    async def ask(self, call: ToolCall) -> None:
        """Record that a call stopped with a question."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCallContext:
    """What a running tool knows about its call.

    `idempotency_key` (a UUID) is the same when the call is made again, after a crash or in a
    resume; `progress` takes anything that JSON can hold and never waits.
    """

    turn_id: UUID
    thread_key: str
    tool_call_id: str
    idempotency_key: str
    progress: Callable[[object], None]


class Tool(Protocol):
    """Something that a model may call."""

    @property
    def spec(self) -> ToolSpec:
        """The description for the model."""
        ...

    @property
    def timeout_s(self) -> float:
        """Seconds after which a call is given up."""
        ...

    @property
    def effects(self) -> Effects | None:
        """The tool's effects; None: it has none, and its calls are not recorded."""
        ...

    def check(self, arguments: Mapping[str, object]) -> Any:
        """Return the arguments in the tool's own form; raises `ToolArgumentsError`."""
        ...

    async def run(self, arguments: Any, context: ToolCallContext) -> object:
        """Return text, or what JSON can hold; raises `ToolError` with words for the model.

        A tool with effects raises `ToolError` where it knows what it did. After any other error
        the model sees that the result is unknown (`tool_indeterminate`).
        """
        ...


@dataclass(frozen=True, slots=True)
class Effects:
    """A tool's effects outside; a tool without any has None instead.

    `honours_key`: a second call with the same idempotency key does nothing and returns the result
    of the first. `find(arguments, idempotency_key)` returns the result of a call that took effect,
    else None. After None no call is made again, because the first may still be about to begin.
    """

    honours_key: bool = False
    find: Callable[[Any, str], Awaitable[object]] | None = None
