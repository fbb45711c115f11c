"""Catching a watcher up: it is shown what it has missed, and then attached to what is live.

A reader of its own reads the ring and the log. Attaching it is one step without an await, so that
no record falls between.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from turnstream.streams.edge.follow.beginnings import Beginnings, fence_at, next_offset
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.past import Past, Sift
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.follow.places import Begins, Log, Places, Reset
from turnstream.streams.edge.follow.reader import Decoder, Reader, Step
from turnstream.streams.edge.follow.unclaimed_ends import UnclaimedEnds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from turnstream.schemas.places import Place
    from turnstream.streams.edge.follow.thread import Thread

Seen = TypeVar("Seen")


@dataclass(slots=True)
class _Plan:
    """Where a watcher begins.

    `start` is the first offset to read, None if the ledger knows of no record. `since` is the
    watcher's cursor if it is honoured. `lost`: what the watcher asked for is not in the log any
    more. `sifted`: only the turn that is alive is shown.
    """

    place: Place | None
    partition: int | None
    start: int | None
    since: Cursor | None
    lost: bool
    sifted: bool


@dataclass(slots=True)
class CatchUp:
    """Catches watchers up. `resets` counts the `Reset`s that they got."""

    log: Log
    places: Places
    decoder: Decoder
    resets: int = 0
    _beginnings: Beginnings = field(init=False)
    _ends: UnclaimedEnds = field(init=False)

    def __post_init__(self) -> None:
        """Make the parts that read the log."""
        self._beginnings = Beginnings(self.log)
        self._ends = UnclaimedEnds(self.log, self.decoder)

    async def missed(
        self,
        thread: Thread,
        see: Callable[[Step], Seen],
        attach: Callable[[Reader, int | None], None],
        since: Cursor | None = None,
        from_turn: str = "",
        *,
        whole_turn: bool = False,
    ) -> AsyncGenerator[Reset | Begins | list[Seen], None]:
        """Yield what a watcher has missed, then `attach` it and end, without an await between.

        `see` is called with every step that is read, in log order, also with those before the
        cursor. What it returns for the steps to be shown is yielded:

        - with `since`: from its record on (again that record, inside of which the watcher may have
          been cut off); with `whole_turn` too, from the start of the cursor's turn on;
        - with `from_turn`: from that turn's start on, as far as the log still has it;
        - with neither: the turn that is alive (it runs, or has an open question), after a `Begins`.
          A client that is cut off before the first step comes back with that cursor.

        A `Reset` comes first if the cursor is void or records that were asked for are gone, and
        before a step that voids what was shown because the database was restored.

        `attach` gets the reader that has read all of it, and the thread's partition if it is known.
        Waits until the log is ready: clients of another edge come while this one starts, and their
        cursors are not void because nothing has been read yet.
        """
        await self.log.ready.wait()
        plan = await self._plan(thread, since, from_turn)
        if plan.lost and plan.start is not None:
            yield self._reset(plan.start, plan.place)
        if plan.start is None and plan.partition is None:
            end = self.log.end(self.log.partition_of(thread.raw_key))
            yield Begins(Cursor(self.log.incarnation, end - 1))
            if thread.partition is None:
                attach(Reader(self.decoder), None)
                return
            # the thread's first records came since: all of them are shown
            plan.sifted = bool(from_turn)
        past = await self._past(thread, plan, see, from_turn)
        lost, after = plan.lost, -1
        if plan.since is not None and not (whole_turn or from_turn):
            after = next_offset(plan.since)
        async with aclosing(past.steps()) as missed:
            async for steps in missed:
                if isinstance(steps, Begins):
                    yield steps
                    continue
                if (broken := _broken_at(steps, from_turn, lost=lost)) is not None:
                    lost, after = True, broken.offset
                    yield self._reset(after, None if broken.voids else plan.place)
                shown = [seen for step, seen in steps if step.offset >= after]
                if shown:
                    yield shown
        attach(past.reader, past.partition)

    async def _plan(self, thread: Thread, since: Cursor | None, from_turn: str) -> _Plan:
        place = await patiently(lambda: self.places.place(thread.key))
        start, lost = await self._asked(thread, place, since, from_turn)
        plan = _Plan(
            place=place,
            partition=thread.partition if place is None else place.partition,
            start=start,
            since=None if lost or start is None else since,
            lost=lost,
            sifted=start is None,
        )
        if start is None and place is not None:
            plan.start = await self._beginnings.of_alive(thread, place)
        return plan

    async def _asked(
        self, thread: Thread, place: Place | None, since: Cursor | None, from_turn: str
    ) -> tuple[int | None, bool]:
        """Return the offset that the watcher asks for, None for none, and whether it is lost."""
        begins = self._beginnings
        if not (from_turn or since):
            return None, False
        if place is None:
            # the thread has had no turn yet, or the ledger was restored to before its first
            return None if from_turn else await begins.of_unplaced(thread, since), False
        if from_turn:
            start = await patiently(lambda: self.places.start_of(thread.key, from_turn))
            lost = start is not None and await begins.is_gone(thread, place.partition, start)
            foreign = since is not None and not await begins.is_ours(place.partition, since)
            return start, lost or foreign
        start = None if since is None else await begins.of_cursor(thread, place, since)
        return start, start is None

    async def _past(
        self, thread: Thread, plan: _Plan, see: Callable[[Step], Seen], from_turn: str
    ) -> Past[Seen]:
        place, start = plan.place, plan.start
        if start is None:
            start = thread.first_seen if thread.first_seen is not None else 0
        fence = 0 if place is None else fence_at(place, start)
        reader = Reader(self.decoder, begins=start, fence=fence)
        if place is not None:
            after = start if plan.since is None else next_offset(plan.since)
            await self._ends.tell(reader, thread.raw_key, place, after)
        position = start if from_turn else _told_by(reader, thread, place, plan.since)
        partition = plan.partition
        if partition is None:
            partition = self.log.partition_of(thread.raw_key)
        sift: Sift[Seen] | None = Sift(from_turn) if plan.sifted else None
        return Past(self.log, partition, thread.raw_key, reader, see, position, sift)

    def _reset(self, begins: int, place: Place | None) -> Reset:
        self.resets += 1
        alive = place is None or place.alive
        return Reset(Cursor(self.log.incarnation, begins - 1), alive=alive)


def _told_by(reader: Reader, thread: Thread, place: Place | None, since: Cursor | None) -> int:
    """Tell the reader the timeline of what its client was shown; return where to read from.

    If the client has some records from the reader's beginning on, those tell the timeline. Else the
    cursor's own record tells it, if it is one of the thread.
    """
    if since is not None and reader.begins < next_offset(since):
        return reader.begins
    reader.timeline = thread.timeline or (0 if place is None else place.claimed_in)
    return reader.begins if since is None else max(0, min(reader.begins, since.offset))


def _broken_at(steps: list[tuple[Step, Seen]], turn_id: str, *, lost: bool) -> Step | None:
    """Return the last step that cannot follow what was shown before it; None if all can.

    Such a step voids what was shown, or is of a turn whose beginning is lost, which the ledger did
    not know. With `turn_id` only that turn counts; after one that was `lost`, none does.
    """
    broken = None
    for step, _ in steps:
        turn = step.change.turn
        partial = turn is not None and turn.partial and turn_id in ("", turn.turn_id)
        if step.voids or (partial and not lost):
            broken, lost = step, True
    return broken
