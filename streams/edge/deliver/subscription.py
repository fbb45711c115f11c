"""One filter on one thread, for one socket: live events are written at once, others refilled.

A live event costs a reader one look-up in its filter and one write. A reader whose write buffer is
full is detached. Once it reads again, it is refilled from ring or log, from its cursor on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from turnstream.streams.edge.ask.own_turns import LINGER_S, STAND_WAIT_S
from turnstream.streams.edge.deliver.frames import VALUES
from turnstream.streams.edge.deliver.position_events import opened_event, reset_events
from turnstream.streams.edge.follow.cursor import Cursor, first_seq
from turnstream.streams.edge.follow.places import Begins, Reset
from turnstream.streams.edge.follow.surface import Projected
from turnstream.streams.edge.surfaces.protocol import Projection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnstream.streams.edge.ask.own_turns import Start
    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.deliver.filters import Filter
    from turnstream.streams.edge.deliver.frames import ProtocolEvent
    from turnstream.streams.edge.deliver.socket import Outlet
    from turnstream.streams.edge.follow.thread import Thread

SNAPSHOT_WAIT_S = 5.0
"""Seconds that a subscription waits for another one of its socket to write a snapshot."""


class Subscription:
    """One filter on one thread, for one socket; `run` delivers.

    It is in one of three states. Live: the tap writes. Queued: a snapshot waits for its state, and
    later events wait behind it. Behind: it is detached, and refilled once the socket has room.

    A client reads all subscriptions of a socket as one stream. So if one of them takes a snapshot,
    the others go on only after it is written. If an end came before the final values, the
    JavaScript SDK would stop without them.
    """

    def __init__(
        self,
        sockets: Sockets,
        thread: Thread,
        outlet: Outlet,
        wanted: Filter,
        since: Cursor | None,
        *,
        start: Start | None,
    ) -> None:
        self._sockets = sockets
        self._thread = thread
        self._outlet = outlet
        self._filter = wanted
        self._whole = not wanted.namespaces and wanted.depth is None
        self._start = start
        self._lingers_until = 0.0 if start is None else time.monotonic() + LINGER_S
        self._since = since
        self._cursor = -1 if since is None else since.seq
        self._queue: deque[ProtocolEvent] = deque()
        self._wake = asyncio.Event()
        self._behind = False
        self._refilling = True
        self.stands = asyncio.Event()
        """Set as soon as the stream's beginning is known; the caller's next turn waits for it."""
        if start is not None or since is not None:
            self.stands.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        feed = self._sockets.feed
        self._outlet.subscriptions.add(self)
        try:
            if self._start is not None:
                await self._begin_at(self._start)
            while True:
                self._behind = False
                projected = Projected(self._projection)
                attach = partial(self._thread.join, Projection, projected, self._tap)
                missed = feed.catch_up.missed(self._thread, projected.see, attach, self._since)
                async with contextlib.aclosing(missed):
                    async for item in missed:
                        await self._refill(item)
                self._refilling = False
                self.stands.set()
                await self._drain()
                while not self._behind:
                    self._wake.clear()
                    await self._wake.wait()
                    await self._drain()
                self._sockets.refills += 1
                await self._outlet.drained(self._sockets.limits.buffer_slow_bytes // 2)
                self._since = Cursor.of_seq(self._cursor)
        finally:
            self._leave()
            self._outlet.subscriptions.discard(self)
            self._outlet.moved.set()

    async def _begin_at(self, start: Start) -> None:
        """Begin at a turn's start; as without one, if the start is not known in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAND_WAIT_S):
                await start.known.wait()
        if start.cursor is None:
            self._start, self._lingers_until = None, 0.0
            return
        self._since, self._cursor = start.cursor, start.cursor.seq
        self._outlet.write(opened_event(start.cursor))

    def owes(self, snapshot: ProtocolEvent) -> bool:
        """Return whether the snapshot, or an event before it, is still to be written here."""
        return (
            self._cursor < snapshot.seq
            and (self._refilling or bool(self._queue))
            and self._filter.takes(snapshot)
        )

    def _projection(self) -> Projection:
        return Projection(self._sockets.feed.incarnation)

    async def _refill(self, item: Reset | Begins | list[Sequence[ProtocolEvent]]) -> None:
        if isinstance(item, Begins):
            if self._cursor < 0:
                self._cursor = item.cursor.seq
                self._outlet.write(opened_event(item.cursor))
            return
        if isinstance(item, Reset):
            await self._reset(item)
            return
        for events in item:
            for event in events:
                await self._deliver(event)
        await self._outlet.drained(self._sockets.limits.buffer_slow_bytes // 2)

    def _tap(self, events: Sequence[ProtocolEvent] | None) -> None:
        if events is None or len(self._queue) > self._sockets.limits.queue_events_max:
            self._fall_behind()
            return
        outlet = self._outlet
        queue = self._queue
        # most subscriptions filter by channel only
        whole, wanted = self._whole, self._filter
        for event in events:
            if event.seq <= self._cursor:
                continue
            if not (whole and event.channel in wanted.channels) and not wanted.takes(event):
                if event.data is None and len(outlet.subscriptions) > 1:
                    queue.append(event)
                    self._wake.set()
                continue
            if queue or event.data is None or (self._lingers_until and event.ends):
                queue.append(event)
                self._wake.set()
            else:
                self._cursor = event.seq
                outlet.write(event)
        if outlet.buffered > self._sockets.limits.buffer_slow_bytes:
            self._fall_behind()

    def _fall_behind(self) -> None:
        self._behind = self._refilling = True
        self._queue.clear()
        self._leave()
        self._wake.set()

    def _leave(self) -> None:
        self._thread.leave(Projection, self._tap)

    async def _drain(self) -> None:
        """Write what waits behind a snapshot, until the queue is empty."""
        while self._queue:
            waiting = self._queue[0]
            event = await self._ready(waiting)
            if not self._queue or self._queue[0] is not waiting:  # fell behind meanwhile
                continue
            self._queue.popleft()
            self._write(event)
        self._outlet.moved.set()

    async def _deliver(self, event: ProtocolEvent) -> None:
        if event.seq > self._cursor:
            self._write(await self._ready(event))

    async def _ready(self, event: ProtocolEvent) -> ProtocolEvent | None:
        """Wait until an event may be written, and return it; None if it is not taken."""
        if not self._filter.takes(event):
            if event.needs_state and len(self._outlet.subscriptions) > 1:
                await self._after_snapshot(event)
            return None
        if event.needs_state:
            values = await self._sockets.snapshots.of(self._thread.key, event.event_id)
            return event.with_state(values)
        if event.ends and self._lingers_until:
            await self._linger()
        return event

    def _write(self, event: ProtocolEvent | None) -> None:
        if event is None:
            return
        self._cursor = event.seq
        self._outlet.write(event)
        if event.channel == VALUES:
            self._outlet.moved.set()

    async def _after_snapshot(self, snapshot: ProtocolEvent) -> None:
        """Wait until every subscription of this socket that takes the snapshot has written it."""
        outlet = self._outlet
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SNAPSHOT_WAIT_S):
                while any(other.owes(snapshot) for other in outlet.subscriptions):
                    outlet.moved.clear()
                    await outlet.moved.wait()

    async def _linger(self) -> None:
        """Wait until the client has had time to open its other streams; see `own_turns`."""
        if self._start is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lingers_until - time.monotonic()):
                    await self._start.superseded.wait()
            self._start.over = True
        self._lingers_until = 0.0

    async def _reset(self, reset: Reset) -> None:
        """Show the thread's state, and if no turn is alive, that the run is over."""
        first = first_seq(self._sockets.feed.incarnation, reset.cursor.offset)
        values = await self._sockets.snapshots.of(self._thread.key, f"reset-{first}")
        for event in reset_events(first, values, alive=reset.alive):
            if self._filter.takes(event):
                self._outlet.write(event)
        self._cursor = reset.cursor.seq
