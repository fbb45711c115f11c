"""A run's messages in the run-scoped modes `messages` and `messages-tuple`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from turnstream.schemas.fold.fold import covers
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import (
    Event,
    MessageFinished,
    MessageStarted,
    StepFinished,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
)
from turnstream.streams.edge.surfaces.messages import (
    chunk,
    last_chunk,
    remove_message,
    tool_message,
    tool_message_id,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.schemas.fold.messages import Block
    from turnstream.streams.edge.surfaces.run_tasks import Tasks

PLACES = ("langgraph_", "checkpoint_", "ls_", "lc_versions", "tags")

Said = tuple[str, str, object]
"""An event's name, the path at which it was said, and its data."""


class _Open(NamedTuple):
    message: Message
    metadata: dict[str, object]


@dataclass(slots=True)
class RunMessages:
    """The open messages of a run; each method takes a record and yields what is shown of it.

    `partial`: the log has lost the run's beginning. A message that began there is not shown.
    `keep_nested`: keep messages of nested graphs, which the reader is not shown there, because a
    node around them may return them. The node's own messages are held until then, for the order.
    """

    modes: frozenset[str]
    tasks: Tasks
    keep_nested: bool = False
    partial: bool = False
    _open: dict[str, _Open] = field(default_factory=dict)
    _nested: dict[str, _Open] = field(default_factory=dict)
    _held: dict[str, dict[str, _Open]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)  # messages whose metadata was shown

    def began(self, record: MessageStarted) -> None:
        """Open a message; it is shown with its first tokens."""
        metadata = self.tasks.metadata_of(record)
        self._open[record.message_id] = _Open(Message.of(record), metadata)

    def take(self, record: TokensEmitted) -> tuple[_Open, Block] | None:
        """Add tokens to their message; return None if the message is not shown."""
        opened = self._open.get(record.message_id)
        if opened is None:
            if self.partial:
                return None
            message = Message(record.message_id, path=record.path)
            opened = _Open(message, self.tasks.metadata(record.path))
            self._open[record.message_id] = opened
        return opened, opened.message.take(record)

    def tokens(self, record: TokensEmitted) -> Iterator[Said]:
        """Show tokens as a chunk, and as the message so far."""
        taken = self.take(record)
        if taken is None:
            return
        (message, metadata), block = taken
        if message.role != "assistant" or message.whole:
            return
        if "messages-tuple" in self.modes:
            yield "messages", record.path, [chunk(message, block, record), metadata]
        if "messages" in self.modes:
            yield from self._tell(message.message_id, record.path, metadata)
            yield "messages/partial", record.path, [whole(message)]

    def ended(self, record: MessageFinished) -> Iterator[Said]:
        """Show a message that is complete."""
        opened = self._open.pop(record.message_id, None)
        if opened is None:
            return
        message = opened.message
        message.finish(record)
        streamed = message.role == "assistant" and not message.whole
        if self.keep_nested and "|" in message.path:
            self._nested[record.message_id] = opened
        elif self._nested and not streamed and self._encloses(message.path):
            self._held.setdefault(message.path, {})[record.message_id] = opened
        else:
            last = last_chunk(message) if streamed else whole(message)
            name = message.message_id
            yield from self._complete(name, message.path, last, whole(message), opened.metadata)

    def returned(self, record: StepFinished) -> Iterator[Said]:
        """Show messages of nested graphs that a node around them returned, in the node's order."""
        held = self._held.pop(record.path, {})
        if not (held or record.messages):
            return
        given = _messages_in(record.result or record.update)
        for message_id in dict.fromkeys((*given, *record.messages, *held)):
            if (own := held.get(message_id)) is not None:
                said = whole(own.message)
                yield from self._complete(message_id, record.path, said, said, own.metadata)
            elif message_id in record.messages and message_id in self._nested:
                inner = self._nested.pop(message_id)
                # the node may have named it
                named = given.get(message_id) or whole(inner.message)
                about = _foreign(inner.metadata) | self.tasks.metadata(record.path)
                yield from self._complete(message_id, record.path, named, named, about)

    def _encloses(self, path: str) -> bool:
        return any(covers(f"{path}|", inner.message.path) for inner in self._nested.values())

    def tool(self, record: ToolFinished | ToolFailed) -> Iterator[Said]:
        """Show a tool's answer, unless it comes as a message of its own."""
        if not record.apart:
            message = tool_message(record)
            about = self.tasks.metadata(record.path)
            name = tool_message_id(record)
            yield from self._complete(name, record.path, message, message, about)

    def taken_back(self, dropped: tuple[Event, ...]) -> Iterator[Said]:
        """Take back each message of which something was dropped."""
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
            about = self.tasks.metadata(path)
            yield from self._complete(message_id, path, removed, removed, about)

    def _complete(
        self, message_id: str, path: str, last: object, complete: object, metadata: object
    ) -> Iterator[Said]:
        if "messages-tuple" in self.modes:
            yield "messages", path, [last, metadata]
        if "messages" in self.modes:
            yield from self._tell(message_id, path, metadata)
            yield "messages/complete", path, [complete]
        self._told.discard(message_id)

    def _tell(self, message_id: str, path: str, metadata: object) -> Iterator[Said]:
        if message_id not in self._told:
            self._told.add(message_id)
            yield "messages/metadata", path, {message_id: {"metadata": metadata}}


def _foreign(metadata: dict[str, object]) -> dict[str, object]:
    """Return the metadata that a nested graph added, without LangGraph's own."""
    return {key: item for key, item in metadata.items() if not key.startswith(PLACES)}


def _messages_in(update: str) -> dict[str, object]:
    """Return the messages in an update by id, two levels deep, as LangGraph looks for them."""
    found: dict[str, object] = {}
    values: object = msgspec.json.decode(update) if update else None
    for value in values.values() if isinstance(values, dict) else ():
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, dict) and isinstance(one.get("id"), str) and "content" in one:
                found[one["id"]] = one
    return found
