"""What goes into the ledger's functions and what they give back: values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from turnstream.schemas.records.events import Keep
    from turnstream.schemas.records.results import Carried, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One command on its way into the ledger.

    `body` is the encoded command and `body_sha` the digest that tells a redelivery from another
    command under the same id. `known`: this fleet has the graph. `partition` is the output
    partition that the thread gets if this command creates it. `answers` are the interrupt ids that
    a resume answers. For a cancel only the ids, `partition`, `src_off` and `on_busy` (`rollback` or
    not) count.
    """

    kind: Literal["start", "resume", "cancel"]
    tenant: str
    thread_id: str
    thread_key: str
    turn_id: UUID
    partition: int
    src_off: int
    body: bytes = b""
    body_sha: bytes = b""
    graph: str = ""
    known: bool = True
    on_busy: str = "enqueue"
    expires_at: datetime | None = None
    answers: tuple[str, ...] = ()
    actor: str = ""


class Answering(NamedTuple):
    """The open interrupt that a resume answers, as it stood before.

    `ids`: of all of its questions, answered or not. `schemas`: JSON text by interrupt id, where the
    graph gave one. `stored` is the ledger's JSON, to put it back unchanged. `askers`: tool calls by
    interrupt id, where a call asked.
    """

    ids: tuple[str, ...]
    schemas: dict[str, str]
    stored: bytes
    askers: dict[str, str] = {}  # noqa: RUF012  never changed


class Resolved(NamedTuple):
    """An interrupt that is no longer open: answered by `actor`, `superseded` or `expired`."""

    interrupt_id: str
    rev: int
    actor: str


SUSPECT_ATTEMPT = 3
"""From this attempt on a turn is a suspect: two ended with their worker, or broke (claim.sql)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A thread that is now this worker's, and the turn to run.

    `seq` orders the thread's turns. `outcome`: the turn has ended already and only its terminal is
    to be published. `started_again`: an earlier attempt had it. `resolved` is to be published with
    this attempt's first records, again in each attempt. `answering`: what a resume answers; its
    answers are not checked yet. `cancel`: why the turn is to stop. `first_off` is the offset of the
    turn's first record as far as a commit has told. `attempts` counts this one, but no releases.
    `parked`: why the turn is to be ended without being run, "" where it is to be run. `carried`:
    what earlier attempts hand on. `age_s`: since the turn's first claim, by the database's clock.
    """

    thread_key: str
    tenant: str
    thread_id: str
    partition: int
    turn_id: UUID
    seq: int
    epoch: int
    kind: Literal["start", "resume"]
    graph: str
    origin: UUID
    body: bytes
    src_topic: str
    src_part: int
    src_off: int
    base: int
    keep_n: int
    high_n: int
    keep: tuple[Keep, ...]
    attempts: int
    outcome: Outcome | None
    cancel: str | None
    started_again: bool
    first_off: int | None
    resolved: tuple[Resolved, ...]
    parked: str
    carried: Carried
    age_s: float
    answering: Answering | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A turn that got its outcome before anybody claimed it: publish `TurnEnded`, then close it.

    Its epoch is `timeline << 40`; the close names the same timeline.
    """

    thread_key: str
    tenant: str
    thread_id: str
    partition: int
    turn_id: UUID
    seq: int
    graph: str
    body: bytes
    src_topic: str
    src_part: int
    src_off: int
    outcome: Outcome
    timeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A batch is in the ledger.

    `woke`: threads that wait in `ready` because this worker had no room. `cancelled`: threads whose
    running turn was asked to stop. Tell others of both outside of any writing transaction.
    """

    claims: tuple[Claim, ...] = ()
    ended: tuple[Ended, ...] = ()
    woke: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What has expired: `ended` never ran; on `cancelled` threads the turn that runs is to stop."""

    ended: tuple[Ended, ...] = ()
    cancelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredInterrupt:
    """An interrupt that no answer reached in time; readers are told of it."""

    thread_key: str
    partition: int
    turn_id: UUID
    interrupt_id: str
    rev: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Nothing was written: the ledger stands at `position`; seek there.

    None: the partition was never opened; see `Ledger.open_position`.
    """

    position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """Nothing was written: the commands at these offsets reuse a turn id with another body."""

    offsets: tuple[int, ...]


class Finish(NamedTuple):
    """An attempt whose terminal is acked at `last_off`.

    `first_off` is used when no commit has told the ledger where the turn's records begin.
    """

    thread_key: str
    epoch: int
    last_off: int | None = None
    first_off: int | None = None


class Closed(NamedTuple):
    """An unclaimed end whose `TurnEnded` is acked at `offset`."""

    thread_key: str
    turn_id: UUID
    offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn as the ledger holds it. `status` is the outcome's, or `pending` or `running`."""

    tenant: str
    turn_id: UUID
    thread_key: str
    seq: int
    kind: Literal["start", "resume"]
    graph: str
    origin: UUID
    body: bytes
    src_topic: str
    src_part: int
    src_off: int
    actor: str
    attempts: int
    outcome: Outcome | None
    status: str
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None
    first_off: int | None

    @property
    def rolled_back(self) -> bool:
        """Tell whether it was taken back as a whole."""
        outcome = self.outcome
        return outcome is not None and (outcome.status, outcome.code) == ("cancelled", "rollback")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRow:
    """A thread as the ledger holds it. Its records lie from `first_off` to at least `last_off`.

    `interrupts`: ids of the open interrupts. `busy`: a turn has no outcome yet. `head` is the turn
    that is claimed and not closed. `graph`: what was claimed last, None if nothing ever was.
    `timeline` is the database's, when this was read.
    """

    thread_key: str
    partition: int
    epoch: int
    timeline: int
    owner: UUID | None
    head: UUID | None
    busy: bool
    interrupts: tuple[str, ...]
    cancel: str | None
    graph: str | None
    first_off: int | None
    head_off: int | None
    last_off: int | None
    created_at: datetime
