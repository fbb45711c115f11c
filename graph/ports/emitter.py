"""Where a turn's events go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from turnstream.schemas.records.events import Event


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

    def emit(self, event_type: type[Event], *, path: str, **fields: object) -> int:
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
