"""What the SDK's run-scoped stream is made of: its modes, and the events that they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from turnstream.streams.edge.frames import embed

if TYPE_CHECKING:
    from turnstream.schemas.events import Interrupt

MODES = frozenset(
    {
        "values",
        "updates",
        "messages",
        "messages-tuple",
        "custom",
        "tasks",
        "checkpoints",
        "debug",
        "tools",
    }
)
STATE_MODES = frozenset({"values", "checkpoints", "debug"})


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One server-sent event: its name and its data, a JSON value (`msgspec.Raw` for JSON text)."""

    event: str
    data: Any


@dataclass(frozen=True, slots=True)
class StateWanted:
    """State belongs here: of one checkpoint, or ("") the last one that the turn wrote.

    `interrupts` are the questions that the turn ended with; `final` says that the turn is over, so
    that the state is there; else its checkpoint may be a moment away, or never come.
    """

    checkpoint_id: str = ""
    step: int = -1
    interrupts: tuple[Interrupt, ...] = ()
    final: bool = False


RunItem = RunEvent | StateWanted


def raw(text: str) -> msgspec.Raw:
    """Return JSON text as a value that is embedded as it is."""
    return msgspec.Raw(embed(text))
