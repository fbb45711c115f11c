"""Where in the log a reader begins: at a turn's start, because the fold of a part would be wrong.

The log says which records it has; `Place` is what the ledger knows of the thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.streams.edge.follow.cursor import RECORD_EVENTS_MAX

if TYPE_CHECKING:
    from turnstream.schemas.places import Place
    from turnstream.streams.edge.follow.cursor import Cursor
    from turnstream.streams.edge.follow.places import Log
    from turnstream.streams.edge.follow.thread import Thread

CATCH_UP_WAIT_S = 2.0
"""Seconds that a cursor of another edge may be ahead of this edge's tail."""
CATCH_UP_POLL_S = 0.01
CLOCKS_APART_MS = 10_000
"""How far the clocks of the database and of a producer may lie apart."""


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Finds where readers begin."""

    log: Log

    async def of_alive(self, thread: Thread, place: Place) -> int:
        """Return where a reader without a cursor begins."""
        if not place.alive:
            live = thread.first_seen
            live = self.log.end(place.partition) if live is None else live
            # the ledger may know of an end that the tail has not shown yet
            return live if place.closed_to is None else max(live, place.closed_to + 1)
        if place.head_from is not None:
            return place.head_from
        if place.starts:
            return place.starts[0]
        if place.first is not None:
            return place.first
        return await self._created(place)

    async def _created(self, place: Place) -> int:
        return await self.log.at_time(place.partition, place.created_ms - CLOCKS_APART_MS)

    async def of_cursor(self, thread: Thread, place: Place, since: Cursor) -> int | None:
        """Return where the turn that contains the cursor begins; None if the cursor is void."""
        partition = place.partition
        if not await self.is_ours(partition, since):
            return None
        after = next_offset(since)
        start = _turn_start(place, after)
        if start is None:
            start = min(await self._created(place), after)
        if not await self.is_gone(thread, partition, start):
            return start
        # the turn before is gone; a turn that begins exactly here is whole
        here = after in (place.head_from, *place.starts)
        return after if here and not await self.is_gone(thread, partition, after) else None

    async def of_unplaced(self, thread: Thread, since: Cursor | None) -> int | None:
        """Return where a reader begins whose thread the ledger does not know; None: no cursor."""
        partition = self.log.partition_of(thread.raw_key)
        if since is None or not await self.is_ours(partition, since):
            return None
        start = next_offset(since)
        return None if await self.is_gone(thread, partition, start) else start

    async def is_ours(self, partition: int, cursor: Cursor) -> bool:
        """Return whether the cursor is of this log; waits if the tail is behind another edge."""
        if cursor.incarnation != self.log.incarnation:
            return False
        reached = cursor.offset < self.log.end(partition)
        return reached or await self._reaches(partition, cursor.offset + 1)

    async def is_gone(self, thread: Thread, partition: int, offset: int) -> bool:
        """Return whether retention has deleted the record at an offset."""
        if self.log.held(partition, thread.raw_key, offset) is not None:
            return False
        first, _ = await self.log.bounds(partition)
        return offset < first

    async def _reaches(self, partition: int, offset: int) -> bool:
        """Wait until the tail is at an offset; False if the log never had the offset."""
        _, end = await self.log.bounds(partition)
        if offset > end:
            return False
        deadline = asyncio.get_running_loop().time() + CATCH_UP_WAIT_S
        while self.log.end(partition) < offset:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(CATCH_UP_POLL_S)
        return True


def next_offset(since: Cursor) -> int:
    """Return the first offset to show: a reader may have been cut off inside a record."""
    return since.offset if since.k < RECORD_EVENTS_MAX - 1 else since.offset + 1


def fence_at(place: Place, start: int) -> int:
    """Return the epoch below which records are void for a reader from `start` on; 0: none (R1)."""
    over = not place.alive and place.closed_to is not None and start > place.closed_to
    return place.epoch + 1 if over else 0


def _turn_start(place: Place, after: int) -> int | None:
    """Return the start of the turn in which `after` lies; None if it is not known.

    A start at `after` itself does not count. It may be that of a later attempt, if the first one
    committed nothing, and the reader may have been shown what the first one said.
    """
    if place.head_from is not None and after > place.head_from:
        return place.head_from
    if not place.alive and place.closed_to is not None and after > place.closed_to:
        return after
    earlier = [start for start in place.starts if start < after]
    if earlier:
        return max(earlier)
    return place.first if place.first is not None and place.first < after else None
