"""A run's messages as the run-scoped modes `messages` and `messages-tuple` show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.schemas.events import (
    Event,
    MessageFinished,
    MessageStarted,
    StepFinished,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
)
from turnstream.schemas.fold import covers
from turnstream.streams.edge.messages import (
    OpenMessage,
    remove_message,
    tool_message,
    tool_message_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.streams.edge.run_tasks import Tasks

PLACES = ("langgraph_", "checkpoint_", "ls_", "lc_versions", "tags")

# an event's name, the path at which it was said, its data
Said = tuple[str, str, Any]


@dataclass(slots=True)
class RunMessages:
    """The messages that are open; each method takes a record in and yields what is shown of it.

    `partial`: the log has lost the run's beginning. A message that began there is not shown.
    `keep_nested`: keep what nested graphs said, for readers that are not shown it there, because a
    node around them may return it. What that node says besides is held until then, for the order.
    """

    modes: frozenset[str]
    tasks: Tasks
    keep_nested: bool = False
    partial: bool = False
    _open: dict[str, OpenMessage] = field(default_factory=dict)
    _nested: dict[str, OpenMessage] = field(default_factory=dict)
    _held: dict[str, dict[str, OpenMessage]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)  # messages/metadata shows, once for each

    def began(self, record: MessageStarted) -> None:
        """Open a message: nothing is shown until something is said."""
        self._open[record.message_id] = OpenMessage(
            record.message_id,
            record.role,
            record.name,
            record.path,
            tool_call_id=record.tool_call_id,
            listed=record.listed,
            at_once=record.whole,
            metadata=self.tasks.metadata_of(record),
        )

    def take(self, record: TokensEmitted) -> OpenMessage | None:
        """Add tokens to their message; None for one that is not shown."""
        message = self._open.get(record.message_id)
        if message is None:
            if self.partial:
                return None
            message = OpenMessage(
                record.message_id,
                "assistant",
                "",
                record.path,
                metadata=self.tasks.metadata(record.path),
            )
            self._open[record.message_id] = message
        message.add(record)
        return message

    def tokens(self, record: TokensEmitted) -> Iterator[Said]:
        """Show tokens: as a chunk, or as the whole message so far."""
        message = self.take(record)
        if message is None or message.role != "assistant" or message.at_once:
            return
        if "messages-tuple" in self.modes:
            yield "messages", record.path, [message.chunk(record), message.metadata]
        if "messages" in self.modes:
            yield from self._tell(message.message_id, record.path, message.metadata)
            yield "messages/partial", record.path, [message.whole()]

    def ended(self, record: MessageFinished) -> Iterator[Said]:
        """Show a message that is complete."""
        message = self._open.pop(record.message_id, None)
        if message is None:
            return
        message.finish(record)
        streamed = message.role == "assistant" and not message.at_once
        if self.keep_nested and "|" in message.path:
            self._nested[record.message_id] = message
        elif self._nested and not streamed and self._encloses(message.path):
            self._held.setdefault(message.path, {})[record.message_id] = message
        else:
            last = message.last_chunk() if streamed else message.whole()
            yield from self._complete(message.path, last, message.whole(), message.metadata)

    def returned(self, record: StepFinished) -> Iterator[Said]:
        """Show what nested graphs said and a node around them returned, in the order it gave."""
        held = self._held.pop(record.path, {})
        if not (held or record.messages):
            return
        given = _messages_in(record.result or record.update)
        for message_id in dict.fromkeys((*given, *record.messages, *held)):
            if (own := held.get(message_id)) is not None:
                yield from self._complete(record.path, own.whole(), own.whole(), own.metadata)
            elif message_id in record.messages and message_id in self._nested:
                said = self._nested.pop(message_id)
                # the node may have given it a name
                message = given.get(message_id) or said.whole()
                about = _foreign(said.metadata) | self.tasks.metadata(record.path)
                yield from self._complete(record.path, message, message, about)

    def _encloses(self, path: str) -> bool:
        return any(covers(f"{path}|", message.path) for message in self._nested.values())

    def tool(self, record: ToolFinished | ToolFailed) -> Iterator[Said]:
        """Show what a tool answered, unless that is said as a message of its own."""
        if not record.apart:
            message = tool_message(record)
            about = self.tasks.metadata(record.path)
            yield from self._complete(record.path, message, message, about)

    def taken_back(self, dropped: tuple[Event, ...]) -> Iterator[Said]:
        """Remove each message of which something was dropped."""
        gone: dict[str, str] = {}
        for item in dropped:
            match item:
                case MessageStarted() | TokensEmitted() | MessageFinished():
                    gone[item.message_id] = item.path
                case ToolFinished() | ToolFailed() if not item.apart:
                    gone[tool_message_id(item)] = item.path
                case StepFinished():
                    gone |= dict.fromkeys(item.messages, item.path)
                case _:
                    pass
        for message_id, path in gone.items():
            self._open.pop(message_id, None)
            self._nested.pop(message_id, None)
            removed = remove_message(message_id)
            self._told.add(message_id)
            yield from self._complete(path, removed, removed, self.tasks.metadata(path))

    def _complete(
        self, path: str, last: Any, whole: Any, metadata: dict[str, Any]
    ) -> Iterator[Said]:
        if "messages-tuple" in self.modes:
            yield "messages", path, [last, metadata]
        if "messages" in self.modes:
            yield from self._tell(whole["id"], path, metadata)
            yield "messages/complete", path, [whole]
        self._told.discard(whole["id"])

    def _tell(self, message_id: str, path: str, metadata: dict[str, Any]) -> Iterator[Said]:
        if message_id not in self._told:
            self._told.add(message_id)
            yield "messages/metadata", path, {message_id: {"metadata": metadata}}


def _foreign(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what a nested graph added to a message's metadata, LangGraph's own left out."""
    return {key: item for key, item in metadata.items() if not key.startswith(PLACES)}


def _messages_in(update: str) -> dict[str, Any]:
    """Return the messages in an update, by id, where LangGraph looks for them: two levels deep."""
    found: dict[str, Any] = {}
    values = msgspec.json.decode(update) if update else None
    for value in values.values() if isinstance(values, dict) else ():
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, dict) and isinstance(one.get("id"), str) and "content" in one:
                found[one["id"]] = one
    return found
