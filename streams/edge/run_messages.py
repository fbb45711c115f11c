"""A run's messages as the run-scoped modes `messages` and `messages-tuple` show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnstream.schemas.events import (
    Event,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
)
from turnstream.streams.edge.messages import OpenMessage, remove_message, tool_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.streams.edge.run_tasks import Tasks

# an event's name, the path at which it was said, its data
Said = tuple[str, str, Any]


@dataclass(slots=True)
class RunMessages:
    """The messages that are open; each method takes a record in and yields what is shown of it.

    `partial`: the log has lost the run's beginning. A message that began there is not shown.
    """

    modes: frozenset[str]
    tasks: Tasks
    partial: bool = False
    _open: dict[str, OpenMessage] = field(default_factory=dict)

    def began(self, record: MessageStarted) -> None:
        """Open a message: nothing is shown until something is said."""
        self._open[record.message_id] = OpenMessage(
            record.message_id, record.role, record.name, record.path
        )

    def take(self, record: TokensEmitted) -> OpenMessage | None:
        """Add tokens to their message; None for one that is not shown."""
        message = self._open.get(record.message_id)
        if message is None:
            if self.partial:
                return None
            message = OpenMessage(record.message_id, "assistant", "", record.path)
            self._open[record.message_id] = message
        message.add(record)
        return message

    def tokens(self, record: TokensEmitted) -> Iterator[Said]:
        """Show tokens: as a chunk, or as the whole message so far."""
        known = self._open.get(record.message_id)
        first = known is None or not known.blocks
        message = self.take(record)
        if message is None or message.role != "assistant":
            return
        metadata = self.tasks.metadata(record.path)
        if "messages-tuple" in self.modes:
            yield "messages", record.path, [message.chunk(record), metadata]
        if "messages" in self.modes:
            if first:
                about = {message.message_id: {"metadata": metadata}}
                yield "messages/metadata", record.path, about
            yield "messages/partial", record.path, [message.whole()]

    def ended(self, record: MessageFinished) -> Iterator[Said]:
        """Show a message that is complete."""
        message = self._open.pop(record.message_id, None)
        if message is None:
            return
        message.finish(record)
        last = message.last_chunk() if message.role == "assistant" else message.whole()
        yield from self._complete(message.path, last, message.whole())

    def tool(self, record: ToolFinished | ToolFailed) -> Iterator[Said]:
        """Show what a tool answered."""
        message = tool_message(record)
        yield from self._complete(record.path, message, message)

    def taken_back(self, dropped: tuple[Event, ...]) -> Iterator[Said]:
        """Remove each message of which something was dropped."""
        gone: dict[str, str] = {}
        for item in dropped:
            match item:
                case MessageStarted() | TokensEmitted() | MessageFinished():
                    gone[item.message_id] = item.path
                case ToolFinished() | ToolFailed():
                    gone[str(tool_message(item)["id"])] = item.path
                case _:
                    pass
        for message_id, path in gone.items():
            self._open.pop(message_id, None)
            removed = remove_message(message_id)
            yield from self._complete(path, removed, removed)

    def _complete(self, path: str, last: Any, whole: Any) -> Iterator[Said]:
        if "messages-tuple" in self.modes:
            yield "messages", path, [last, self.tasks.metadata(path)]
        if "messages" in self.modes:
            yield "messages/complete", path, [whole]
