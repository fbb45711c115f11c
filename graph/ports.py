"""What the graph side needs from outside, as Protocols; the composition root hands the adapters in.

`Emitter`: where a turn's events go. `Commits`: what the runner asks of the saver's session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from turnstream.schemas.events import Event, Keep

SaverCall = tuple[Any, ...]
"""A saver call that was collected: `("aput", config, checkpoint, metadata, new_versions)` or
`("aput_writes", config, writes, task_id, task_path)`, arguments as LangGraph passes them."""


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

    def emit(self, event_type: type[Event], *, path: str, **fields: Any) -> None:
        """Take one event; `fields` are the record's own, without the envelope."""
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


class Commits(Protocol):
    """The saver's session of one attempt, as the runner sees it."""

    gate: Callable[[str], Awaitable[None]] | None
    """Waited for before a task's writes get their position: until all it said was handed out."""

    path_of: Callable[[str], str]
    """Path of a LangGraph namespace."""

    def finished(self, task_id: str) -> bool:
        """Tell whether an earlier attempt, or turn of the chain, finished this task."""
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
