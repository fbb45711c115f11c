"""Threads as this edge sees them: a watcher gets changes in log order, without gap or double.

Reads the log through `Log` (the tail with its ring) and the ledger through `Directory`. One live
reader a watched thread decodes, folds and projects each record once for all its watchers. A watcher
that begins earlier, or that fell behind, is served by a reader of its own from ring or log until it
has caught up; attaching is one step without an await, so nothing falls between.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.events import AttemptStarted, Event, TurnEnded, TurnInterrupted
from turnstream.streams.edge.beginnings import Beginnings, next_offset
from turnstream.streams.edge.cursor import Cursor
from turnstream.streams.edge.places import Begins, Directory, Log, Place, Reset
from turnstream.streams.edge.reader import Decoder, Reader, Step
from turnstream.streams.edge.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    import msgspec

__all__ = ["Begins", "Directory", "Feed", "Log", "Place", "Reset", "Step", "Thread", "Watch"]

WATCH_STEPS_MAX = 1024
REPLAY_BATCH = 256


class Thread:
    """A watched thread: one live reader, many taps. `first_seen` is set until there is a reader.

    A tap is called with each step, and with None where it has to catch up anew.
    """

    def __init__(self, key: str, decoder: Decoder) -> None:
        self.key = key
        self.raw_key = key.encode("utf-8", "surrogatepass")
        self.partition: int | None = None
        self.reader: Reader | None = None
        self.first_seen: int | None = None
        self._timeline = 0
        self.taps: list[Callable[[Step | None], None]] = []
        self.expected: list[_Expectation] = []
        self.holders = 0
        self._decoder = decoder

    def sink(self, partition: int, offset: int, value: bytes) -> None:
        """Take a record from the tail and tell every tap."""
        if self.expected:
            self._meet(offset, value)
        if self.reader is None:
            if self.first_seen is None:
                self.partition, self.first_seen = partition, offset
            return
        timeline = self.reader.timeline
        step = self.reader.take(offset, value)
        if step is None:
            return
        if step.voids:
            self.lost()
            self._timeline, self.first_seen = timeline, offset
            return
        # a tap may leave while it is told
        for tap in tuple(self.taps):
            tap(step)

    def lost(self) -> None:
        """Send every tap back to catch up: records are missing, or what was shown is void."""
        self._timeline, self.reader = self.timeline, None
        for tap in tuple(self.taps):
            tap(None)

    @property
    def timeline(self) -> int:
        """Return the timeline of what watchers were shown so far; 0 where nobody knows."""
        return self._timeline if self.reader is None else self.reader.timeline

    def _meet(self, offset: int, value: bytes) -> None:
        try:
            record = self._decoder.decode(value)
        except UndecodableError:
            return
        for expectation in tuple(self.expected):
            expectation.meet(offset, record)


@dataclass(slots=True)
class _Expectation:
    turn_id: str
    future: asyncio.Future[tuple[int, Event]]
    past_start: bool
    offset: int = -1

    def meet(self, offset: int, record: msgspec.Struct) -> None:
        """Look at a record of the thread."""
        if not isinstance(record, Event) or record.turn_id != self.turn_id or self.future.done():
            return
        if self.offset < 0:
            self.offset = offset
        if not (self.past_start and isinstance(record, AttemptStarted)):
            self.future.set_result((self.offset, record))


@dataclass(slots=True)
class Feed:
    """All watched threads of this edge."""

    log: Log
    directory: Directory
    decoder: Decoder
    watch_steps_max: int = WATCH_STEPS_MAX
    threads: dict[str, Thread] = field(default_factory=dict)
    refills: int = 0
    resets: int = 0
    _beginnings: Beginnings = field(init=False)

    def __post_init__(self) -> None:
        """Hear of lost records."""
        self._beginnings = Beginnings(self.log)
        self.log.lost = self._lost

    def _lost(self, partition: int) -> None:
        for thread in tuple(self.threads.values()):
            if thread.partition in {None, partition}:
                thread.lost()

    @property
    def incarnation(self) -> int:
        """Return the incarnation of the log."""
        return self.log.incarnation

    @contextmanager
    def hold(self, key: str) -> Iterator[Thread]:
        """Keep a thread followed while the block runs."""
        thread = self.threads.get(key)
        if thread is None:
            thread = self.threads[key] = Thread(key, self.decoder)
            self.log.follow(thread.raw_key, thread.sink)
        thread.holders += 1
        try:
            yield thread
        finally:
            thread.holders -= 1
            if not thread.holders:
                del self.threads[key]
                self.log.unfollow(thread.raw_key)

    @contextmanager
    def expect(
        self, key: str, turn_id: str, *, past_start: bool = False
    ) -> Iterator[Awaitable[tuple[int, Event]]]:
        """Watch for a turn's first record from now on: enter before the turn is asked for.

        The awaitable gives the offset of the turn's first record, and that record; with
        `past_start` the first that is no `AttemptStarted` (it tells a refused resume).
        """
        future: asyncio.Future[tuple[int, Event]] = asyncio.get_running_loop().create_future()
        expectation = _Expectation(turn_id, future, past_start)
        with self.hold(key) as thread:
            thread.expected.append(expectation)
            try:
                yield future
            finally:
                thread.expected.remove(expectation)
                future.cancel()

    async def first_record(self, key: str, turn_id: str, timeout_s: float) -> Event | None:
        """Return the turn's first record from now on, or None if none comes in time."""
        with self.expect(key, turn_id) as first:
            try:
                async with asyncio.timeout(timeout_s):
                    return (await first)[1]
            except TimeoutError:
                return None

    def end_of(self, thread: Thread) -> int:
        """Return the offset after the last record of the partition where the thread lies."""
        known = thread.partition
        return self.log.end(self.log.partition_of(thread.raw_key) if known is None else known)

    def watch(
        self,
        key: str,
        since: Cursor | None = None,
        from_turn: str = "",
        *,
        whole_turn: bool = False,
    ) -> Watch:
        """Return a watch on a thread; see `Watch`."""
        return Watch(self, key, since, from_turn, whole_turn=whole_turn)

    async def catch_up(
        self,
        thread: Thread,
        tap: Callable[[Step | None], None],
        since: Cursor | None = None,
        from_turn: str = "",
        *,
        whole_turn: bool = False,
    ) -> AsyncGenerator[Reset | Begins | list[Step], None]:
        """Yield what a newcomer has missed, then attach `tap` and end, without an await between.

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
        place = await self.directory.place(thread.key)
        start, lost = await self._asked(thread, place, since, from_turn)
        partition = thread.partition if place is None else place.partition
        honoured = None if lost or start is None else since
        sift = _Sift(from_turn) if start is None else None
        if start is None and place is not None:
            start = await self._beginnings.of_alive(thread, place)
        if lost and start is not None:
            yield self._reset(start, place)
        if start is None and partition is None:
            yield self._begins(self.end_of(thread))
            if thread.partition is None:
                self._attach(thread, tap, Reader(self.log.incarnation, self.decoder), None)
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
        reader = Reader(self.log.incarnation, self.decoder, begins=start)
        position = start
        if not from_turn:
            position = _told_by(reader, thread, place, honoured)
        replay = self._replay(partition, thread.raw_key, reader, sift, position)
        async with aclosing(replay):
            async for steps in replay:
                if isinstance(steps, Begins):
                    yield steps
                    continue
                if (broken := _broken_at(steps, from_turn, lost=lost)) is not None:
                    lost, after = True, broken.offset
                    yield self._reset(after, None if broken.voids else place)
                shown = [step for step in steps if step.offset >= after]
                if shown:
                    yield shown
        self._attach(thread, tap, reader, partition)

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
            start = await self.directory.start_of(thread.key, from_turn)
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

    def _begins(self, offset: int) -> Begins:
        return Begins(Cursor(self.log.incarnation, offset - 1))

    def _reset(self, begins: int, place: Place | None) -> Reset:
        self.resets += 1
        alive = place is None or place.alive
        return Reset(Cursor(self.log.incarnation, begins - 1), alive=alive)

    def _attach(
        self,
        thread: Thread,
        tap: Callable[[Step | None], None],
        reader: Reader,
        partition: int | None,
    ) -> None:
        if thread.reader is None:
            thread.reader, thread.first_seen = reader, None
            thread.partition = partition
        thread.taps.append(tap)

    async def _replay(
        self, partition: int, key: bytes, reader: Reader, sift: _Sift | None, position: int
    ) -> AsyncGenerator[Begins | list[Step], None]:
        """Yield steps until ring and log hold no more; the end comes without an await."""
        while True:
            held = self.log.held(partition, key, position)
            if held is None:
                async with aclosing(self.log.read(partition, key, position)) as past:
                    async for reached, entries in past:
                        position = reached
                        if steps := _sifted(_take(reader, entries), sift):
                            yield steps
                continue
            batch = held[:REPLAY_BATCH]
            if batch:
                position = batch[-1][0] + 1
                if steps := _sifted(_take(reader, batch), sift):
                    yield steps
                await asyncio.sleep(0)  # a long replay must not stop the live ones
                continue
            if sift is None:
                return
            steps, sift = sift.release(), None
            yield self._begins(steps[0].offset if steps else max(position, self.log.end(partition)))
            if steps:
                yield steps


def _told_by(reader: Reader, thread: Thread, place: Place | None, since: Cursor | None) -> int:
    """Let the reader know the timeline of what its client was shown; returns where to read from.

    Records from the reader's beginning on tell it if the client has some of them; else the
    cursor's own record does, if it is one of the thread.
    """
    if since is not None and reader.begins < next_offset(since):
        return reader.begins
    reader.timeline = thread.timeline or (0 if place is None else place.timeline)
    return reader.begins if since is None else max(0, min(reader.begins, since.offset))


def _broken_at(steps: list[Step], turn_id: str, *, lost: bool) -> Step | None:
    """Return the last step that cannot follow on what was shown before it; None: all can.

    It is of a turn whose beginning is lost, which the ledger did not know; with `turn_id` of it
    only, and unless one was `lost` before. Or it voids what was shown.
    """
    broken = None
    for step in steps:
        turn = step.change.turn
        partial = turn is not None and turn.partial and turn_id in ("", turn.turn_id)
        if step.voids or (partial and not lost):
            broken, lost = step, True
    return broken


def _take(reader: Reader, entries: list[tuple[int, bytes]]) -> list[Step]:
    taken = (reader.take(offset, value) for offset, value in entries)
    return [step for step in taken if step is not None]


def _sifted(steps: list[Step], sift: _Sift | None) -> list[Step]:
    if sift is None:
        return steps
    for step in steps:
        sift.take(step)
    return []


class _Sift:
    """Keeps the steps of the turn that is alive, for a reader who has no cursor.

    With `from_turn`, whose beginning the ledger did not know yet: that turn's and what follows,
    also where it ends while the log is read.
    """

    def __init__(self, from_turn: str) -> None:
        self._from_turn = from_turn
        self._turn_id = ""
        self._steps: list[Step] = []

    def take(self, step: Step) -> None:
        record = step.record
        if self._from_turn:
            if self._steps or (isinstance(record, Event) and record.turn_id == self._from_turn):
                self._steps.append(step)
            return
        if not isinstance(record, Event) or isinstance(record, TurnEnded):
            return
        if record.turn_id != self._turn_id:
            self._turn_id = record.turn_id
            self._steps = []
        self._steps.append(step)
        if record.terminal and not isinstance(record, TurnInterrupted):
            self._steps = []

    def release(self) -> list[Step]:
        """Give the steps out."""
        steps, self._steps = self._steps, []
        return steps
