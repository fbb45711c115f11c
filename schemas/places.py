"""Where a thread's records lie in the log of events, as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass

from turnstream.schemas.fold.fold import TIMELINE_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class UnclaimedEnd:
    """The end of a turn that no worker claimed: one record, or several equal ones.

    `offset` is that of the last record that the ledger was told of, None before the first.
    `decided_ms` is when the end was decided, in milliseconds since 1970 by the database's clock.
    All its records were written later.
    """

    turn_id: str
    offset: int | None
    decided_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a thread's records lie. Offsets are those of `partition`.

    - `alive`: a turn is claimed, or ended with a question that is still open;
    - `first`: of the thread's first record; `closed_to`: of the last end, as far as known;
    - `head_from`: where the turn that is alive begins, as far as a commit has told;
    - `starts`: where claimed turns begin, newest first; `ends`: of turns that ended unclaimed;
    - `created_ms`: when the thread was created, in milliseconds since 1970;
    - `epoch`: that of the thread's last claim, 0 if there was none; `timeline`: the database's.
    """

    partition: int
    alive: bool
    first: int | None = None
    closed_to: int | None = None
    head_from: int | None = None
    starts: tuple[int, ...] = ()
    ends: tuple[UnclaimedEnd, ...] = ()
    created_ms: int = 0
    epoch: int = 0
    timeline: int = 0

    @property
    def claimed_in(self) -> int:
        """Return the timeline of the thread's last claim, 0 if there was none."""
        return self.epoch >> TIMELINE_BITS
