"""The ledger's rows as places in the log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from turnstream.schemas.errors import DatabaseUnavailableError
from turnstream.streams.edge.follow.places import Place, UnclaimedEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from turnstream.schemas.records.results import Outcome


ANSWER_WAIT_S = 4.0
"""How long a stream that is being opened waits for Postgres. A stock SDK gives a stream up after
six tries, in a third of a second where each is refused at once; and waits 5 s for one to open
(langgraph-sdk 0.4, `_run_lifecycle_watcher`)."""
_ASK_AGAIN_S = 0.1
_Answer = TypeVar("_Answer")


class ThreadRow(Protocol):
    """What is needed of a thread's row."""

    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def timeline(self) -> int: ...  # noqa: D102
    @property
    def head(self) -> object | None: ...  # noqa: D102
    @property
    def interrupts(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def first_off(self) -> int | None: ...  # noqa: D102
    @property
    def head_off(self) -> int | None: ...  # noqa: D102
    @property
    def last_off(self) -> int | None: ...  # noqa: D102
    @property
    def created_at(self) -> datetime: ...  # noqa: D102


class TurnRow(Protocol):
    """What is needed of a turn's row."""

    @property
    def turn_id(self) -> UUID: ...  # noqa: D102
    @property
    def outcome(self) -> Outcome | None: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102
    @property
    def closed_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def first_off(self) -> int | None: ...  # noqa: D102


class Places(Protocol):
    """Reads the rows."""

    async def thread(self, key: str) -> tuple[ThreadRow, Sequence[TurnRow]] | None:
        """Return the thread and its latest turns, newest first; None for an unknown thread."""
        ...

    async def turn(self, key: str, turn_id: str) -> TurnRow | None:
        """Return a turn of the thread."""
        ...


async def patiently(read: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Read for a stream that is being opened; a moment without Postgres is waited out.

    Raises `DatabaseUnavailableError` where it does not answer for longer than `ANSWER_WAIT_S`.
    """
    deadline = time.monotonic() + ANSWER_WAIT_S
    while True:
        try:
            return await read()
        except DatabaseUnavailableError:
            if time.monotonic() + _ASK_AGAIN_S > deadline:
                raise
        await asyncio.sleep(_ASK_AGAIN_S)


@dataclass(frozen=True, slots=True)
class LedgerDirectory:
    """Answers the feed from the ledger, if need be a little later."""

    places: Places

    async def place(self, key: str) -> Place | None:
        """Return where the thread is; None for one that the ledger does not know."""
        found = await patiently(lambda: self.places.thread(key))
        if found is None:
            return None
        row, turns = found
        # a turn that ended unclaimed is one record, which may lie inside of another turn
        claimed = [turn for turn in turns if turn.attempts > 0 and turn.first_off is not None]
        starts = tuple(turn.first_off for turn in claimed if turn.first_off is not None)
        head_from = row.head_off
        if row.head is None and row.interrupts:
            head_from = next(
                (turn.first_off for turn in claimed if turn.status == "interrupted"), None
            )
        return Place(
            partition=row.partition,
            alive=row.head is not None or bool(row.interrupts),
            first=row.first_off,
            closed_to=row.last_off,
            head_from=head_from,
            starts=starts,
            ends=tuple(_unclaimed(turns)),
            created_ms=int(row.created_at.timestamp() * 1000),
            epoch=row.epoch,
            timeline=row.timeline,
        )

    async def start_of(self, key: str, turn_id: str) -> int | None:
        """Return the offset of the turn's first record, as far as the ledger knows it."""
        turn = await patiently(lambda: self.places.turn(key, turn_id))
        return None if turn is None else turn.first_off


def _unclaimed(turns: Sequence[TurnRow]) -> Iterator[UnclaimedEnd]:
    for turn in turns:
        if turn.attempts == 0 and turn.outcome is not None:
            yield UnclaimedEnd(
                turn_id=str(turn.turn_id),
                offset=turn.first_off,
                decided_ms=turn.outcome.at // 1000,
            )
