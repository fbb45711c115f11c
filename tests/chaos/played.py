"""What one run leaves to be looked at."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.clients import Plain, Sdk
    from tests.chaos.log import ThreadLog
    from tests.chaos.story import Story


@dataclass(slots=True, kw_only=True)
class Sent:
    """A command that was accepted: what may come of it, and where it lies in the input.

    `text`: what a completed turn's last message must be, "" where the story does not know it.
    """

    turn_id: str
    thread: str
    kind: str
    may_end: frozenset[str]
    at: float
    place: tuple[int, int] | None = None
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Hit:
    """A fault that struck, and when (seconds since 1970); `worker`: whom, where it is known."""

    fault: str
    at: float
    worker: str = ""
    thread: str = ""
    next_token_s: float | None = None
    overlap_s: float = 0.0
    alone: bool = True
    """Whether it was the only blow of its story that struck."""


@dataclass(slots=True)
class Played:
    """One run, when it is over."""

    story: Story
    threads: list[str]
    sent: dict[str, Sent] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    logs: dict[str, ThreadLog] = field(default_factory=dict)
    plain: dict[str, list[Plain]] = field(default_factory=lambda: defaultdict(list))
    sdks: list[Sdk] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    effects: list[Any] = field(default_factory=list)
    stale_writes: list[Any] = field(default_factory=list)
    letters: set[tuple[int, int]] = field(default_factory=set)
    results: dict[str, list[Any]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    """What went wrong in the playing itself: a turn that never ended, a client that failed."""
    took_s: float = 0.0
    loses_rows: bool = False
    """The database was put back: what it forgot may be admitted, run and told again."""
