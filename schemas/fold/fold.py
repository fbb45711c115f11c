"""The fold: the pure function from a thread's records, in log order, to what a reader shows.

The edge, replay and every other reader share it, so that live view, reconnect and audit agree.
Rules F1-F6: docs/consumers.md, "Fold the events". A reader of the whole log is never `partial`; one
that begins in mid-log shows a turn as whole only when it is `done` and not `partial`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from turnstream.schemas.records.events import (
    AttemptStarted,
    Event,
    InputResolved,
    TaskRetried,
    TurnCancelled,
    TurnEnded,
    UnknownEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from turnstream.schemas.records.events import Keep

TIMELINE_BITS = 40


def covers(path: str, other: str) -> bool:
    """Tell whether `other` is at or under `path`; one that ends in `|` names what is under it."""
    return other == path or other.startswith(path if path.endswith("|") else path + "|")


def add_keep(keep: Sequence[Keep], entry: Keep) -> tuple[Keep, ...]:
    """Return `keep` with one more entry, in place of those at or under its path."""
    return (*(old for old in keep if not covers(entry.path, old.path)), entry)


def is_kept(path: str, n: int, keep: Iterable[Keep]) -> bool:
    """Tell whether an entry of `keep` names the item of this path and position."""
    return any(n <= entry.n and covers(entry.path, path) for entry in keep)


class Verdict(Enum):
    """What a record did to the view."""

    IGNORED = "ignored"  # void, a duplicate, or after the end
    ACCEPTED = "accepted"  # one more item, or the terminal
    STARTED = "started"  # an attempt began and nothing shown was taken back
    REWOUND = "rewound"  # items were taken back: readers show what is left
    GAP = "gap"  # an integrity error: events are missing
    THREAD = "thread"  # a thread event with a newer rev
    UNKNOWN = "unknown"  # a type that this reader does not know


@dataclass(slots=True)
class TurnView:
    """What a reader knows of one turn. `items` are the accepted events in order of `n`.

    `decides`: the epoch of the attempt whose outcome the turn's end is, or will be.
    """

    turn_id: str
    epoch: int = 0
    last_n: int = 0
    items: list[Event] = field(default_factory=list)
    partial: bool = False
    done: bool = False
    terminal: Event | None = None
    attempts: int = 0
    gaps: int = 0
    decides: int = 0


def rolled_back(view: TurnView) -> bool:
    """Tell whether the turn was taken back as a whole: readers show nothing of it (F3)."""
    return isinstance(view.terminal, TurnCancelled) and view.terminal.cause == "rollback"


class Change(msgspec.Struct, frozen=True):
    """What one record changed: `dropped` are the items that a rewind took back, in order."""

    verdict: Verdict
    turn: TurnView | None
    record: msgspec.Struct
    offset: int
    dropped: tuple[Event, ...] = ()


class ThreadFold:
    """All turns of one thread; feed it the thread's records in log order.

    `apply` never raises. A record read twice changes nothing the second time.
    """

    def __init__(self) -> None:
        self.turns: dict[str, TurnView] = {}
        self.board: dict[tuple[str, str], InputResolved] = {}
        self.unknown = 0

    def apply(self, record: msgspec.Struct, offset: int = -1) -> Change:
        """Apply one record and return what it changed."""
        if not isinstance(record, Event):
            self.unknown += isinstance(record, UnknownEvent)
            return Change(Verdict.UNKNOWN, None, record, offset)
        if isinstance(record, InputResolved):
            return self._thread_event(record, offset)
        view = self.turns.get(record.turn_id)
        if view is None:
            view = self.turns[record.turn_id] = TurnView(record.turn_id)
        verdict, dropped = apply_to_turn(view, record)
        if verdict is Verdict.ACCEPTED and view.done and rolled_back(view):
            # the view keeps the items, but readers show nothing of the turn any more
            verdict, dropped = Verdict.REWOUND, tuple(view.items)
        return Change(verdict, view, record, offset, dropped)

    def _thread_event(self, record: InputResolved, offset: int) -> Change:
        """F6: the newest value of each (type, subject); nothing takes it back."""
        subject = (type(record).__name__, record.interrupt_id)
        old = self.board.get(subject)
        if old is not None and record.rev <= old.rev:
            return Change(Verdict.IGNORED, None, record, offset)
        self.board[subject] = record
        return Change(Verdict.THREAD, None, record, offset)


_NONE: tuple[Event, ...] = ()


def apply_to_turn(  # noqa: PLR0911  one return a rule
    view: TurnView, record: Event
) -> tuple[Verdict, tuple[Event, ...]]:
    """F1-F5 for one record of the turn; returns the verdict and the items taken back."""
    epoch = record.epoch
    if view.done and epoch >> TIMELINE_BITS <= view.epoch >> TIMELINE_BITS:
        return Verdict.IGNORED, _NONE
    if isinstance(record, AttemptStarted):
        return _start(view, record)
    if isinstance(record, TurnEnded):
        return _end(view, record)
    if epoch < view.epoch:  # F2 from here on
        return Verdict.IGNORED, _NONE
    dropped = _NONE
    if epoch > view.epoch:  # its start came before this reader began
        dropped = tuple(view.items)
        view.items = []
        view.partial, view.done, view.terminal = True, False, None
        view.epoch, view.last_n, view.decides = epoch, record.n - 1, 0
        view.attempts += 1
    if record.n <= view.last_n:
        return Verdict.IGNORED, _NONE
    if record.n > view.last_n + 1:
        view.gaps += 1
        return Verdict.GAP, _NONE
    view.last_n = record.n
    if isinstance(record, TaskRetried):
        dropped += _take_back(view, record)
        view.items.append(record)
    elif record.terminal:  # F3
        view.done, view.terminal = True, record
    else:
        view.items.append(record)
    return (Verdict.REWOUND if dropped else Verdict.ACCEPTED), dropped


def _start(view: TurnView, record: AttemptStarted) -> tuple[Verdict, tuple[Event, ...]]:
    """F1: a new attempt keeps what was committed and takes the rest back."""
    if record.epoch <= view.epoch:
        return Verdict.IGNORED, _NONE
    decides = record.base or record.epoch if record.reason == "decided" else record.epoch
    if view.done and decides == view.decides:
        view.epoch = record.epoch  # the end that is shown stands: the record only repeats it
        return Verdict.IGNORED, _NONE
    missed = record.base > view.epoch or record.high_n > view.last_n
    stays: list[Event] = []
    gone: list[Event] = []
    for item in view.items:
        kept = item.n <= record.keep_n or is_kept(item.path, item.n, record.keep)
        (stays if kept else gone).append(item)
    view.items = stays
    view.partial = record.high_n > 0 and (view.partial or missed)
    view.epoch, view.last_n, view.decides = record.epoch, record.high_n, decides
    view.done, view.terminal = False, None
    view.attempts += 1
    return (Verdict.REWOUND if gone else Verdict.STARTED), tuple(gone)


def _end(view: TurnView, record: TurnEnded) -> tuple[Verdict, tuple[Event, ...]]:
    """F5: the turn ended before a worker claimed it."""
    if record.epoch <= view.epoch:
        return Verdict.IGNORED, _NONE
    end = view.terminal
    if isinstance(end, TurnEnded) and (end.outcome, end.code) == (record.outcome, record.code):
        view.epoch = record.epoch  # the record only repeats the end
        return Verdict.IGNORED, _NONE
    gone = tuple(view.items)
    view.items = []
    view.epoch, view.last_n, view.decides = record.epoch, 1, 0
    view.partial, view.done, view.terminal = False, True, record
    return (Verdict.REWOUND if gone else Verdict.ACCEPTED), gone


def _take_back(view: TurnView, record: TaskRetried) -> tuple[Event, ...]:
    """F4: the items of a retried task are taken back, except for those that are kept."""
    stays: list[Event] = []
    gone: list[Event] = []
    for item in view.items:
        back = covers(record.path, item.path) and not is_kept(item.path, item.n, record.keep)
        (gone if back else stays).append(item)
    view.items = stays
    return tuple(gone)
