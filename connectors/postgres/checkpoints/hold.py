"""An attempt's hold on its turn: which turn and epoch it is, and what has ended it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from turnstream.schemas.errors import DatabaseUnavailableError, FencedError
from turnstream.schemas.ids import path_of_namespace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from langgraph.checkpoint.base import Checkpoint

    from turnstream.schemas.errors import TurnstreamError
    from turnstream.schemas.records.events import Keep

T = TypeVar("T")


class RunFacts(Protocol):
    """What a session asks of the run whose checkpoints it commits."""

    @property
    def askers(self) -> Mapping[str, str]:
        """By interrupt id the tool call that asked, where it shares its task with others."""
        ...

    def path_of(self, namespace: str) -> str:
        """Return the path of a LangGraph namespace."""
        ...

    async def task_ended(self, task_id: str) -> None:
        """Wait until everything that the task said has been emitted."""
        ...

    def is_last(self, checkpoint: Checkpoint) -> bool:
        """Return whether nothing runs after this root checkpoint; it then waits for the outcome."""
        ...

    def carried(self, keep_n: int, keep: Sequence[Keep]) -> bytes | None:
        """Return JSON for the next attempt, as of a commit with this `keep_n` and `keep`."""
        ...


class NoRun:
    """Stands for a run that has told the session nothing."""

    askers: Mapping[str, str] = {}

    def path_of(self, namespace: str) -> str:
        """Return the path that the namespace alone gives."""
        return path_of_namespace(namespace)

    async def task_ended(self, task_id: str) -> None:
        """Return at once."""

    def is_last(self, checkpoint: Checkpoint) -> bool:  # noqa: ARG002  the interface's
        """Return False."""
        return False

    def carried(self, keep_n: int, keep: Sequence[Keep]) -> bytes | None:  # noqa: ARG002
        """Return None."""
        return None


NO_RUN: RunFacts = NoRun()


@dataclass(eq=False, slots=True, kw_only=True)
class Hold:
    """One attempt's hold on its turn.

    `on_cancel` is called with the thread's cancel flag when a statement returns one. `on_lost` is
    called once, with the reason, when nothing can be committed any more. The attempt then closes
    its emitter and cancels the run, because LangGraph would go on.

    `lost` ended the attempt. `broken` is a state that Postgres refuses: only an outcome is still
    committed. `stopped`: what LangGraph hands over is ignored. `statements` counts what was sent.
    """

    thread_key: str
    turn_id: UUID
    epoch: int
    on_cancel: Callable[[str], None] | None = None
    on_lost: Callable[[TurnstreamError], None] | None = None
    tenant: str = field(init=False)
    run: RunFacts = NO_RUN
    lost: TurnstreamError | None = None
    broken: TurnstreamError | None = None
    stopped: bool = False
    statements: int = 0

    def __post_init__(self) -> None:
        self.tenant = self.thread_key.partition("/")[0]

    def check(self) -> None:
        """Raise what ended the session, if anything did."""
        if self.lost is not None:
            raise self.lost
        if self.broken is not None:
            raise self.broken

    def lose(self, error: TurnstreamError) -> None:
        """End the session: nothing can be committed under this epoch any more."""
        if self.lost is None:
            self.lost = error
            self.stopped = True
            if self.on_lost is not None:
                self.on_lost(error)

    async def sent(self, statement: Awaitable[T | None]) -> T:
        """Await a fenced statement and return its rows; None or no rows mean that it was fenced.

        Raises `FencedError`, or `DatabaseUnavailableError` if it is unknown whether the statement
        was executed. Both end the hold: nothing more is sent under this epoch.
        """
        self.statements += 1
        try:
            found = await statement
        except DatabaseUnavailableError as error:
            self.lose(error)
            raise self.lost or error from error
        if not found:
            self.lose(FencedError())
            raise FencedError
        return found

    def cancelled(self, cause: str) -> None:
        """Report the thread's cancel flag to the attempt."""
        if self.on_cancel is not None:
            self.on_cancel(cause)

    def let_go(self) -> None:
        """Drop the references to the attempt and its run, which refer to this hold.

        Otherwise a turn would stay in memory until a full garbage collection.
        """
        self.on_cancel = self.on_lost = None
        self.run = NO_RUN
