"""The modelled ledger: one thread's rows in Postgres, and what every transaction of it does.

Transactions are functions of `admission.py`, `claims.py` and `commits.py`. They run as a whole, as
those of Postgres do under the lock of the thread's row.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from tests.model.records import LIFE
from turnstream.schemas.fold.fold import add_keep
from turnstream.schemas.records.events import Keep

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.records import Outcome
    from tests.model.rows import Nested, State, Turn, Write

_P = ParamSpec("_P")
_R = TypeVar("_R")

SNAPSHOTS_KEPT = 9
ATTEMPTS_MAX = 4
"""Fewer than the project's 5, so that drawn schedules get there."""


class Fenced(Exception):
    """The thread's epoch or the timeline has moved on: the attempt stops without a word."""


class CancelAhead(Exception):
    """The outcome yields to the thread's cancel flag, and nothing was written."""


@dataclass
class Ledger:
    """The rows. `broken` notes what must never happen and only the ledger can see.

    `attempts_max`: after so many attempts that ended without a release the ledger ends a turn.
    """

    positions: list[int]
    snapshots: list[Ledger] | None = None
    attempts_max: int = ATTEMPTS_MAX
    timeline: int = 1
    epoch: int = 0
    owner: object = None
    head: str = ""
    ready: bool = False
    seq: int = 0
    state: State = ()
    turns: dict[str, Turn] = field(default_factory=dict)
    pending: dict[tuple[str, str], Write] = field(default_factory=dict)
    nested: dict[tuple[str, str], Nested] = field(default_factory=dict)
    answers: dict[str, frozenset[str]] = field(default_factory=dict)
    tools: dict[tuple[str, str], str] = field(default_factory=dict)
    early: set[str] = field(default_factory=set)
    revs: dict[str, int] = field(default_factory=dict)
    asks: tuple[str, frozenset[str]] | None = None
    order: tuple[str, ...] = ()
    finished: set[tuple[str, str]] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)

    def note(self, invariant: str, what: str) -> None:
        """Note the first violation of an invariant."""
        self.broken.setdefault(invariant, what)

    def waiting(self) -> list[Turn]:
        """Return the turns that were not claimed yet, the next one first."""
        turns = [t for t in self.turns.values() if t.outcome is None and not t.started]
        return sorted(turns, key=lambda t: (not t.front, t.seq))

    def runnable(self) -> bool:
        """Tell whether the thread has a turn to run."""
        return bool(self.head or self.waiting())

    def above(self, value: int) -> int:
        """Return the next epoch, or the next `rev`, after this one (W1, F6)."""
        return max(value, self.timeline * LIFE) + 1

    def compare(self, epoch: int) -> None:
        """Raise `Fenced` unless the attempt still holds the thread (W5 to W9)."""
        if epoch != self.epoch or epoch // LIFE != self.timeline:
            raise Fenced

    def witness(self, epoch: int, what: str) -> None:
        """Note a write of an attempt that does not hold the thread: no rule, but a check of one."""
        if epoch != self.epoch or epoch // LIFE != self.timeline:
            self.note("fence", f"{what} of epoch {epoch} was written under {self.epoch}")

    def committed(self) -> None:
        """Look at what must hold after every transaction, and keep the moment for a restore."""
        if self.owner is None and self.runnable() and not self.ready:
            self.note("order", "a thread with a turn to run has no owner and is not in ready")
        if self.snapshots is not None:
            self.snapshots = [*self.snapshots[1 - SNAPSHOTS_KEPT :], self._copied()]

    def restore(self, back: int) -> None:
        """Go back by so many transactions, in a timeline of its own."""
        past = self.snapshots or [self]
        timeline, broken = self.timeline + 1, self.broken
        vars(self).update(vars(past[max(0, len(past) - 1 - back)]._copied()))
        self.timeline, self.broken, self.snapshots = timeline, broken, []
        self.committed()

    def _copied(self) -> Ledger:
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, list, set)) and name not in ("broken", "snapshots"):
                setattr(twin, name, copy.copy(value))
        twin.turns = {name: copy.copy(turn) for name, turn in self.turns.items()}
        return twin


def transaction(
    change: Callable[Concatenate[Ledger, _P], _R],
) -> Callable[Concatenate[Ledger, _P], _R]:
    """Make a function one transaction."""

    @wraps(change)
    def run(ledger: Ledger, /, *given: _P.args, **named: _P.kwargs) -> _R:
        result = change(ledger, *given, **named)
        ledger.committed()
        return result

    return run


def note_said(row: Turn, epoch: int, n: int) -> None:
    """Note with a commit what the log holds for sure: `n` was acknowledged (W5 to W7)."""
    row.base = epoch
    row.high_n = max(row.high_n, n)


def keep_path(row: Turn, path: str, n: int) -> tuple[Keep, ...]:
    """Keep what was said at or under a path up to `n` (W5, W5n)."""
    row.keep = add_keep(row.keep, Keep(path, n))
    return row.keep


def keep_all(row: Turn, n: int) -> None:
    """Keep everything up to `n` (W6, W7)."""
    row.keep_n, row.keep = n, ()


def decide(ledger: Ledger, row: Turn, outcome: Outcome) -> Outcome:
    """Set the turn's outcome."""
    if row.outcome is not None:
        ledger.note("outcome", f"a second outcome of {row.turn}")
    row.outcome = outcome
    return outcome
