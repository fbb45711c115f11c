"""What the runner asks of the saver's session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from turnstream.graph.ports.tools import ToolCalls
    from turnstream.schemas.records.events import Keep

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
