"""Threads as this edge sees them: a watcher gets changes in log order, without gap or double.

Reads the log through `Log` (the tail with its ring) and the ledger through `Places`. One live
reader a watched thread decodes and folds each record once for all its watchers, and renders
nothing: what surfaces show of a change is theirs to say, see `surface`. A watcher that begins
earlier, or that fell behind, catches up with a reader of its own: see `catch_up`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from turnstream.schemas.errors import UndecodableError
from turnstream.schemas.records.events import AttemptStarted, Event
from turnstream.schemas.unexpected import note
from turnstream.streams.edge.follow.catch_up import CatchUp
from turnstream.streams.edge.follow.places import Begins, Log, Places, Reset
from turnstream.streams.edge.follow.reader import Decoder, Reader, Step
from turnstream.streams.edge.follow.surface import Shared
from turnstream.streams.edge.follow.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence

    import msgspec

    from turnstream.streams.edge.follow.cursor import Cursor
    from turnstream.streams.edge.follow.surface import Projected, Shown

__all__ = ["Begins", "Feed", "Log", "Places", "Reset", "Step", "Thread", "Watch"]

WATCH_STEPS_MAX = 1024


class Thread:
    """A watched thread: one live reader, many taps. `first_seen` is set until there is a reader.

    A tap is called with each step, and with None where it has to catch up anew. `surfaces` are the
    projections that some reader of what is live asked for.
    """

    def __init__(self, key: str, decoder: Decoder) -> None:
        self.key = key
        self.raw_key = key.encode("utf-8", "surrogatepass")
        self.partition: int | None = None
        self.reader: Reader | None = None
        self.first_seen: int | None = None
        self._timeline = 0
        self.taps: list[Callable[[Step | None], None]] = []
        self.surfaces: dict[Hashable, Shared[Any]] = {}
        self.expected: list[_Expectation] = []
        self.holders = 0
        self._decoder = decoder

    def sink(self, partition: int, offset: int, value: bytes) -> None:
        """Take a record from the tail and tell every tap; never raises, as the tail is of all."""
        try:
            self._take(partition, offset, value)
        except Exception as error:  # noqa: BLE001  one record must not stop the edge
            note("edge_feed", error, thread=self.key, partition=partition, offset=offset)

    def _take(self, partition: int, offset: int, value: bytes) -> None:
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

    def attach(
        self, tap: Callable[[Step | None], None], reader: Reader, partition: int | None
    ) -> None:
        """Let a tap hear what comes; `reader` has read all that came so far."""
        if self.reader is None:
            self.reader, self.first_seen = reader, None
            self.partition = partition
        self.taps.append(tap)

    def join(
        self,
        name: Hashable,
        projected: Projected[Shown],
        tap: Callable[[Sequence[Shown] | None], None],
        reader: Reader,
        partition: int | None,
    ) -> None:
        """Let a tap hear what a surface shows of what comes.

        `projected` has seen all that `reader` has read. It is dropped where the surface is live:
        two that have seen the same turns from their beginnings show the same.
        """
        shared = self.surfaces.get(name)
        if shared is None:
            shared = self.surfaces[name] = Shared(projected)
            self.attach(shared.take, reader, partition)
        shared.taps.append(tap)

    def leave(self, name: Hashable, tap: Callable[[Any], None]) -> None:
        """Tell a surface's tap nothing more; a surface without one is rendered no more."""
        shared = self.surfaces.get(name)
        if shared is None or tap not in shared.taps:
            return
        shared.taps.remove(tap)
        if not shared.taps:
            del self.surfaces[name]
            self.taps.remove(shared.take)

    def missing(self, partition: int) -> None:
        """Send every tap back to catch up if the thread may lie in a partition with a gap."""
        if self.partition in {None, partition}:
            self.lost()

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
        except Exception as error:  # noqa: BLE001  one record must not stop the edge
            note("edge_expect", error, thread=self.key, offset=offset)
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
    places: Places
    decoder: Decoder
    watch_steps_max: int = WATCH_STEPS_MAX
    threads: dict[str, Thread] = field(default_factory=dict)
    refills: int = 0
    catch_up: CatchUp = field(init=False)

    def __post_init__(self) -> None:
        """Make what catches up."""
        self.catch_up = CatchUp(self.log, self.places, self.decoder)

    @property
    def incarnation(self) -> int:
        """Return the incarnation of the log."""
        return self.log.incarnation

    @property
    def resets(self) -> int:
        """Return how many readers were told that what they have is void."""
        return self.catch_up.resets

    @contextmanager
    def hold(self, key: str) -> Iterator[Thread]:
        """Keep a thread followed while the block runs."""
        thread = self.threads.get(key)
        if thread is None:
            thread = self.threads[key] = Thread(key, self.decoder)
            self.log.follow(thread.raw_key, thread.sink, thread.missing)
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
