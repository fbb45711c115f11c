"""What the modelled ledger holds of one thread, and the commands that it admits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.model.records import Outcome
    from turnstream.schemas.records.events import Event, Keep


class Start(NamedTuple):
    """A turn; `known`: the workers have its graph."""

    turn: str
    policy: str = "enqueue"
    known: bool = True


class Resume(NamedTuple):
    """A turn that answers what the turn `resumes` asked."""

    turn: str
    resumes: str


class Cancel(NamedTuple):
    """A wish to stop a turn; `cause`: `cancel` or `rollback`."""

    turn: str
    cause: str = "cancel"


Command: TypeAlias = Start | Resume | Cancel


@dataclass
class Turn:
    """A turn's row.

    `begun`: how many entries the thread's state had at its first claim. `cancel` is the flag, and
    `causes` are all that were ever given to it, for the checks.
    """

    turn: str
    seq: int
    origin: str
    resumes: str = ""
    front: bool = False
    passes: tuple[str, ...] = ()
    started: bool = False
    begun: int = 0
    attempts: int = 0
    cancel: str = ""
    causes: tuple[str, ...] = ()
    outcome: Outcome | None = None
    decided_by_claim: bool = False
    closed: bool = False
    closed_at: int = 0
    base: int = 0
    keep_n: int = 0
    high_n: int = 0
    keep: tuple[Keep, ...] = ()


class Write(NamedTuple):
    """A finished task's pending write; `base` is the state that it was made on."""

    turn: str
    epoch: int
    path: str
    base: object
    events: tuple[Event, ...]


class Entry(NamedTuple):
    """One entry of the thread's state: a committed step, or the text of a turn that was stopped."""

    turn: str
    writes: tuple[Write, ...]
    text: str | None = None


class Nested(NamedTuple):
    """A nested graph's own checkpoint."""

    step: int = 0
    events: tuple[Event, ...] = ()


State: TypeAlias = tuple[Entry, ...]


class Claim(NamedTuple):
    """What a claim gives to the attempt: the turn, and what its chain has committed.

    `outcome`: the turn has it already, from an attempt or (`decided_by_claim`) from the ledger.
    """

    turn: str
    origin: str
    epoch: int
    again: bool
    outcome: Outcome | None
    decided_by_claim: bool
    base: int
    keep_n: int
    high_n: int
    keep: tuple[Keep, ...]
    state: State
    pending: Mapping[str, Write]
    nested: Mapping[str, Nested]
    answers: frozenset[str]
    events: tuple[Event, ...]
    step: int
