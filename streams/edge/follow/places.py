"""What the feed needs from outside: the log, and where in it a thread lies. Ports, no code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from turnstream.schemas.fold.fold import TIMELINE_BITS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable

    from turnstream.streams.edge.follow.cursor import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class UnclaimedEnd:
    """The end of a turn that nobody claimed: one record, or more of them.

    `offset` is of the record that the ledger was told of last, None if of none yet. It was decided
    at `decided_ms` by the database's clock (since 1970), so all its records were written later.
    """

    turn_id: str
    offset: int | None
    decided_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a thread's records lie, as the ledger knows it.

    `closed_to`: offset of the last end that the ledger knows. `head_from`: where the turn that is
    alive begins, as far as a commit has told. `starts`: where turns that were claimed begin, newest
    first; `ends`: of those that were not, and ended. `alive`: a turn is claimed, or ended with a
    question that is still open. `epoch` is that of the thread's last claim, 0 if there was none.
    `timeline` is the database's.
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


class Directory(Protocol):
    """The ledger, as far as the feed needs it."""

    async def place(self, key: str) -> Place | None:
        """Return where the thread is; None for one that the ledger does not know."""
        ...

    async def start_of(self, key: str, turn_id: str) -> int | None:
        """Return the offset of the turn's first record, as far as the ledger knows it."""
        ...


class Log(Protocol):
    """The tail of `turn-events`: what has come so far, and what comes.

    Until it is `ready` it knows neither its incarnation nor its ends.
    """

    ready: asyncio.Event
    incarnation: int

    def follow(
        self, key: bytes, sink: Callable[[int, int, bytes], None], lost: Callable[[int], None]
    ) -> None:
        """Call `sink(partition, offset, value)` for each record of the key from now on.

        `lost(partition)` is called where records are missing: what was read before does not go on.
        """
        ...

    def unfollow(self, key: bytes) -> None:
        """Stop calling."""
        ...

    def partition_of(self, key: bytes) -> int:
        """Return the partition where the key's records lie once there are any."""
        ...

    def end(self, partition: int) -> int:
        """Return the offset after the last record that followers were told of."""
        ...

    def held(self, partition: int, key: bytes, first: int) -> list[tuple[int, bytes]] | None:
        """Return the key's next records from `first` on; None if the ring does not hold `first`."""
        ...

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Ask the broker for the partition's first offset and its end."""
        ...

    async def at_time(self, partition: int, unix_ms: int) -> int:
        """Return the first offset at or after a time."""
        ...

    def read(
        self, partition: int, key: bytes, first: int
    ) -> AsyncGenerator[tuple[int, list[tuple[int, bytes]]]]:
        """Read the log itself from `first` on, up to where the ring begins.

        Yields the offset reached so far and the key's records before it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reset:
    """The cursor cannot be honoured: what the reader has is void; the truth is the thread's state.

    `cursor` is where the reader stands now. `alive` says whether a turn goes on from here.
    """

    cursor: Cursor
    alive: bool


@dataclass(frozen=True, slots=True)
class Begins:
    """Said once to a reader without a cursor: all that it is shown comes after `cursor`."""

    cursor: Cursor
