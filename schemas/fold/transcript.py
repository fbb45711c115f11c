"""A turn as a person reads it: messages, tools, questions. Pure; made from a `TurnView`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.fold.fold import rolled_back
from turnstream.schemas.fold.messages import Message
from turnstream.schemas.records.events import (
    CustomEmitted,
    InputRequested,
    MessageFinished,
    MessageStarted,
    TokensEmitted,
    ToolFailed,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
)

if TYPE_CHECKING:
    from turnstream.schemas.fold.fold import TurnView
    from turnstream.schemas.records.events import Event


@dataclass(slots=True)
class Tool:
    """One tool call; `state` is `running`, `finished` or `failed`."""

    tool_call_id: str
    name: str
    args: str
    path: str
    n: int
    state: str = "running"
    output: str = ""
    code: str = ""
    progress: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Transcript:
    """What a turn shows, in the order in which it began: messages, tools, questions, customs."""

    entries: list[Message | Tool | InputRequested | CustomEmitted] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """Return the messages in order."""
        return [entry for entry in self.entries if isinstance(entry, Message)]

    @property
    def tools(self) -> list[Tool]:
        """Return the tool calls in order."""
        return [entry for entry in self.entries if isinstance(entry, Tool)]


def transcript(view: TurnView) -> Transcript:
    """Return what the turn shows: nothing if it was rolled back."""
    shown = Transcript()
    if rolled_back(view):
        return shown
    messages: dict[str, Message] = {}
    tools: dict[str, Tool] = {}
    for item in view.items:
        _add(shown, messages, tools, item)
    return shown


def _add(  # noqa: PLR0912  one branch an event type
    shown: Transcript, messages: dict[str, Message], tools: dict[str, Tool], item: Event
) -> None:
    match item:
        case MessageStarted() if item.role == "tool" and item.tool_call_id in tools:
            pass  # the tool shows it
        case MessageStarted():
            message = messages[item.message_id] = Message.of(item)
            shown.entries.append(message)
        case TokensEmitted():
            if (message_ := messages.get(item.message_id)) is not None:
                message_.take(item)
        case MessageFinished():
            if (message_ := messages.get(item.message_id)) is not None:
                message_.finish(item)
        case ToolStarted():
            tool = Tool(item.tool_call_id, item.name, item.args, item.path, item.n)
            tools[item.tool_call_id] = tool
            shown.entries.append(tool)
        case ToolProgressed():
            if (tool_ := tools.get(item.tool_call_id)) is not None:
                tool_.progress.append(item.data)
        case ToolFinished():
            if (tool_ := tools.get(item.tool_call_id)) is not None:
                tool_.state, tool_.output = "finished", item.output
        case ToolFailed():
            if (tool_ := tools.get(item.tool_call_id)) is not None:
                tool_.state, tool_.output, tool_.code = "failed", item.message, item.code
        case InputRequested() | CustomEmitted():
            shown.entries.append(item)
        case _:
            pass
