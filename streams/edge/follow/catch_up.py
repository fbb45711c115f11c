"""What a watcher has missed: read from ring or log by a reader of its own, until it has caught up.

Attaching it to what comes live is one step without an await, so nothing falls between.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from turnstream.schemas.records.events import Event, TurnEnded, TurnInterrupted
from turnstream.streams.edge.follow.beginnings import Beginnings, fence_at, next_offset
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.patience import patiently
from turnstream.streams.edge.follow.places import Begins, Log, Places, Reset
from turnstream.streams.edge.follow.reader import Decoder, Reader, Step
from turnstream.streams.edge.follow.unclaimed_ends import UnclaimedEnds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from turnstream.schemas.places import Place
    from turnstream.streams.edge.follow.feed import Thread

REPLAY_BATCH = 256

Seen = TypeVar("Seen")


@dataclass(slots=True)
class CatchUp:
    """Catches watchers up. `resets`: how many were told that what they have is void."""

    log: Log
    places: Places
    decoder: Decoder
    resets: int = 0
    _beginnings: Beginnings = field(init=False)
    _ends: UnclaimedEnds = field(init=False)

    def __post_init__(self) -> None:
        """Look where the log is."""
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
        """Yield what a newcomer has missed, then `attach` it and end, without an await between.

        `see` gets every step that is read, in log order, those before the cursor too; what it makes
        of those that are to be shown is yielded. `attach` gets the reader that has read all of it,
        and the thread's partition where that is known.

        With `since`: every step from its record on (that record too: it may have been cut between
        two protocol events), or first a `Reset` and then as without; with `whole_turn` too, from
        the start of the turn that the cursor lies in, for who has nothing of what came before.
        With `from_turn`: every step from that turn's start that the log still has, after a `Reset`
        if that is not all, or if `since` is void. With neither: the steps of the turn that is alive
        (running, or with an open question), and nothing of older ones; before them a `Begins`,
        so that who is cut off before the first step comes back with a cursor and misses nothing.

        A `Reset` comes, too, before a step that voids what was shown: the database was put back.

        Waits while the log is not ready: clients of an edge that went come to the new one while it
        starts, and a cursor is not void because nothing has been read yet.
        """
        await self.log.ready.wait()
        place = await patiently(lambda: self.places.place(thread.key))
        start, lost = await self._asked(thread, place, since, from_turn)
        partition = thread.partition if place is None else place.partition
        honoured = None if lost or start is None else since
        sift: _Sift[Seen] | None = _Sift(from_turn) if start is None else None
        if start is None and place is not None:
            start = await self._beginnings.of_alive(thread, place)
        if lost and start is not None:
            yield self._reset(start, place)
        if start is None and partition is None:
            yield self._begins(self.log.end(self.log.partition_of(thread.raw_key)))
            if thread.partition is None:
                attach(Reader(self.decoder), None)
                return
            # its first records have come: all are to be shown
            sift = _Sift(from_turn) if from_turn else None
        if partition is None:
            partition = self.log.partition_of(thread.raw_key)
        if start is None:
            start = thread.first_seen if thread.first_seen is not None else 0
        after = -1
        if honoured is not None and not (whole_turn or from_turn):
            after = next_offset(honoured)
        reader = await self._reader(thread, place, start, honoured)
        position = start
        if not from_turn:
            position = _told_by(reader, thread, place, honoured)
        replay = self._replay(partition, thread.raw_key, reader, sift, position, see=see)
        async with aclosing(replay):
            async for steps in replay:
                if isinstance(steps, Begins):
                    yield steps
                    continue
                if (broken := _broken_at(steps, from_turn, lost=lost)) is not None:
                    lost, after = True, broken.offset
                    yield self._reset(after, None if broken.voids else place)
                shown = [seen for step, seen in steps if step.offset >= after]
                if shown:
                    yield shown
        attach(reader, partition)

    async def _asked(
        self, thread: Thread, place: Place | None, since: Cursor | None, from_turn: str
    ) -> tuple[int | None, bool]:
        """Return where the reader asks to begin, None for no place, and whether that is lost."""
        begins = self._beginnings
        if not (from_turn or since):
            return None, False
        if place is None:
            # it has had no turn yet, or the ledger was put back to before it was there
            return None if from_turn else await self._unplaced(thread, since), False
        if from_turn:
            start = await patiently(lambda: self.places.start_of(thread.key, from_turn))
            lost = start is not None and await begins.is_gone(thread, place.partition, start)
            foreign = since is not None and not await begins.is_ours(place.partition, since)
            return start, lost or foreign
        start = None if since is None else await begins.of_cursor(thread, place, since)
        return start, start is None

    async def _unplaced(self, thread: Thread, since: Cursor | None) -> int | None:
        partition = self.log.partition_of(thread.raw_key)
        if since is None or not await self._beginnings.is_ours(partition, since):
            return None
        start = next_offset(since)
        return None if await self._beginnings.is_gone(thread, partition, start) else start

    async def _reader(
        self, thread: Thread, place: Place | None, start: int, since: Cursor | None
    ) -> Reader:
        """Return a reader from `start` on that knows what was over before."""
        if place is None:
            return Reader(self.decoder, begins=start)
        fence = fence_at(place, start)
        reader = Reader(self.decoder, begins=start, fence=fence)
        after = start if since is None else next_offset(since)
        await self._ends.tell(reader, thread.raw_key, place, after)
        return reader

    def _begins(self, offset: int) -> Begins:
        return Begins(Cursor(self.log.incarnation, offset - 1))

    def _reset(self, begins: int, place: Place | None) -> Reset:
        self.resets += 1
        alive = place is None or place.alive
        return Reset(Cursor(self.log.incarnation, begins - 1), alive=alive)

    async def _replay(
        self,
        partition: int,
        key: bytes,
        reader: Reader,
        sift: _Sift[Seen] | None,
        position: int,
        *,
        see: Callable[[Step], Seen],
    ) -> AsyncGenerator[Begins | list[tuple[Step, Seen]], None]:
        """Yield steps until ring and log hold no more; the end comes without an await."""
        while True:
            held = self.log.held(partition, key, position)
            if held is None:
                async with aclosing(self.log.read(partition, key, position)) as past:
                    async for reached, entries in past:
                        position = reached
                        if steps := _sifted(_take(reader, see, entries), sift):
                            yield steps
                continue
            batch = held[:REPLAY_BATCH]
            if batch:
                position = batch[-1][0] + 1
                if steps := _sifted(_take(reader, see, batch), sift):
                    yield steps
                await asyncio.sleep(0)  # a long replay must not stop the live ones
                continue
            if sift is None:
                return
            steps, sift = sift.release(), None
            yield self._begins(
                steps[0][0].offset if steps else max(position, self.log.end(partition))
            )
            if steps:
                yield steps


def _told_by(reader: Reader, thread: Thread, place: Place | None, since: Cursor | None) -> int:
    """Let the reader know the timeline of what its client was shown; returns where to read from.

    Records from the reader's beginning on tell it if the client has some of them; else the
    cursor's own record does, if it is one of the thread.
    """
    if since is not None and reader.begins < next_offset(since):
        return reader.begins
    reader.timeline = thread.timeline or (0 if place is None else place.claimed_in)
    return reader.begins if since is None else max(0, min(reader.begins, since.offset))


def _broken_at(steps: list[tuple[Step, Seen]], turn_id: str, *, lost: bool) -> Step | None:
    """Return the last step that cannot follow on what was shown before it; None: all can.

    It is of a turn whose beginning is lost, which the ledger did not know; with `turn_id` of it
    only, and unless one was `lost` before. Or it voids what was shown.
    """
    broken = None
    for step, _ in steps:
        turn = step.change.turn
        partial = turn is not None and turn.partial and turn_id in ("", turn.turn_id)
        if step.voids or (partial and not lost):
            broken, lost = step, True
    return broken


def _take(
    reader: Reader, see: Callable[[Step], Seen], entries: list[tuple[int, bytes]]
) -> list[tuple[Step, Seen]]:
    taken = (reader.take(offset, value) for offset, value in entries)
    return [(step, see(step)) for step in taken if step is not None]


def _sifted(steps: list[tuple[Step, Seen]], sift: _Sift[Seen] | None) -> list[tuple[Step, Seen]]:
    if sift is None:
        return steps
    for step, seen in steps:
        sift.take(step, seen)
    return []


class _Sift(Generic[Seen]):
    """Keeps the steps of the turn that is alive, for a reader who has no cursor.

    With `from_turn`, whose beginning the ledger did not know yet: that turn's and what follows,
    also where it ends while the log is read.
    """

    def __init__(self, from_turn: str) -> None:
        self._from_turn = from_turn
        self._turn_id = ""
        self._steps: list[tuple[Step, Seen]] = []

    def take(self, step: Step, seen: Seen) -> None:
        record = step.record
        if self._from_turn:
            if self._steps or (isinstance(record, Event) and record.turn_id == self._from_turn):
                self._steps.append((step, seen))
            return
        if not isinstance(record, Event) or isinstance(record, TurnEnded):
            return
        if record.turn_id != self._turn_id:
            self._turn_id = record.turn_id
            self._steps = []
        self._steps.append((step, seen))
        if record.terminal and not isinstance(record, TurnInterrupted):
            self._steps = []

    def release(self) -> list[tuple[Step, Seen]]:
        """Give the steps out."""
        steps, self._steps = self._steps, []
        return steps
