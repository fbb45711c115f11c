"""What the runner asks of the saver's session, and what the session asks of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
    from langgraph.types import Interrupt

    from turnstream.graph.ports.tools import ToolCalls
    from turnstream.schemas.records.events import Keep

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SaverCalls(Protocol[T_co]):
    """What takes a saver's two calls, with arguments as LangGraph passes them."""

    def checkpoint(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> T_co:
        """Take `aput`."""
        ...

    def writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> T_co:
        """Take `aput_writes`."""
        ...


@dataclass(frozen=True, slots=True)
class PutCheckpoint:
    """A collected `aput`."""

    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions

    def made_by(self, calls: SaverCalls[T]) -> T:
        """Make the call."""
        return calls.checkpoint(self.config, self.checkpoint, self.metadata, self.new_versions)


@dataclass(frozen=True, slots=True)
class PutWrites:
    """A collected `aput_writes`."""

    config: RunnableConfig
    writes: Sequence[tuple[str, object]]
    task_id: str
    task_path: str

    def made_by(self, calls: SaverCalls[T]) -> T:
        """Make the call."""
        return calls.writes(self.config, self.writes, self.task_id, self.task_path)


SaverCall = PutCheckpoint | PutWrites


class Asked(Protocol):
    """A question that a task stopped with."""

    @property
    def path(self) -> str:
        """Path of the task."""
        ...

    @property
    def namespace(self) -> str:
        """LangGraph namespace of the task's graph."""
        ...

    @property
    def interrupt(self) -> Interrupt:
        """LangGraph's own object: what the task asks, and the JSON schema of the answer."""
        ...


class Progress(Protocol):
    """How far the run is, by the checkpoints that were loaded and stored."""

    @property
    def stepped_at(self) -> float:
        """When the running step of the root graph began (`time.monotonic`)."""
        ...

    @property
    def applied(self) -> bool:
        """Whether the turn's input is in a checkpoint, with all that it wrote."""
        ...

    def step_of(self, namespace: str) -> int:
        """Return the step of a namespace's last checkpoint, -1 without one."""
        ...

    def finished(self, task_id: str) -> bool:
        """Return whether an earlier attempt, or turn of the chain, finished this task."""
        ...

    def stored(self, message_id: str) -> bool:
        """Return whether an earlier attempt, or turn of the chain, said this in a nested graph."""
        ...


class RunFacts(Protocol):
    """What the session asks of the run whose checkpoints it commits."""

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


class Commits(Protocol):
    """The saver's session of one attempt, as the runner sees it."""

    @property
    def progress(self) -> Progress:
        """How far the run is."""
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

    def follow(self, run: RunFacts) -> None:
        """Commit for this run, and ask it what only the run knows."""
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
