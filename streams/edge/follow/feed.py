"""The threads that this edge follows; a watcher gets changes in log order, each once.

The feed reads the log through `Log` (the tail with its ring) and the ledger through `Places`. A
watcher that begins earlier than now, or that fell behind, catches up with a reader of its own: see
`catch_up`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.streams.edge.follow.catch_up import CatchUp
from turnstream.streams.edge.follow.expectation import Expectation
from turnstream.streams.edge.follow.thread import Thread
from turnstream.streams.edge.follow.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from turnstream.schemas.records.events import Event
    from turnstream.streams.edge.follow.cursor import Cursor
    from turnstream.streams.edge.follow.places import Log, Places
    from turnstream.streams.edge.follow.reader import Decoder

WATCH_STEPS_MAX = 1024
"""Steps that wait for one slow watcher; with more it catches up anew."""


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
        """Return how many readers got a `Reset`."""
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
        """Wait for a turn's first record from now on; enter before the turn is asked for.

        The awaitable gives the offset of the turn's first record, and that record. With
        `past_start` it gives the first record that is no `AttemptStarted`, which may refuse a
        resume.
        """
        future: asyncio.Future[tuple[int, Event]] = asyncio.get_running_loop().create_future()
        expectation = Expectation(turn_id, future, past_start)
        with self.hold(key) as thread:
            thread.expected.append(expectation)
            try:
                yield future
            finally:
                thread.expected.remove(expectation)
                future.cancel()

    async def first_record(self, key: str, turn_id: str, timeout_s: float) -> Event | None:
        """Return the turn's first record from now on; None if none comes within `timeout_s`."""
        with self.expect(key, turn_id) as first:
            try:
                async with asyncio.timeout(timeout_s):
                    return (await first)[1]
            except TimeoutError:
                return None

    def end_of(self, thread: Thread) -> int:
        """Return the offset after the last record of the thread's partition."""
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
