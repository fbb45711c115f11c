"""From a thread's steps to its sockets: prepared bytes, written straight to each transport.

A live event costs a reader one filter look-up and one write. A reader whose write buffer is full is
detached and refilled from ring or log once it reads again; its cursor is kept.
The watchdog aborts sockets that make no progress, and closes those whose token is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.schemas.errors import TooManyRequestsError, TurnstreamError, UnavailableError
from turnstream.streams.edge.connections import EdgeWebSocketProtocol
from turnstream.streams.edge.cursor import Cursor, first_seq
from turnstream.streams.edge.feed import Reset
from turnstream.streams.edge.frames import VALUES, ProtocolEvent, http_chunk, json_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.streams.edge.auth import Principal
    from turnstream.streams.edge.connections import Connection
    from turnstream.streams.edge.feed import Feed, Thread
    from turnstream.streams.edge.filters import Filter
    from turnstream.streams.edge.reader import Step

_log = structlog.get_logger(__name__)
_HEARTBEAT = http_chunk(b": keep-alive\n\n")
_WATCH_S = 1.0
_DRAIN_POLL_S = 0.02
DUE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """Bounds of the edge's sockets, each with its unit."""

    sockets_per_user_max: int = 100
    subscriptions_per_socket_max: int = 32
    buffer_slow_bytes: int = 128 << 10
    buffer_bytes_max: int = 1 << 20
    stall_timeout_s: float = 10.0
    heartbeat_s: float = 15.0
    queue_events_max: int = 1024
    commands_per_socket_max: int = 16


class Outlet:
    """Where one socket's events go: as WebSocket frames or as SSE chunks."""

    def __init__(self, connection: Connection, principal: Principal) -> None:
        self.connection = connection
        self.principal = principal
        self.frames = 0
        self.written = 0
        self.idle_since = time.monotonic()
        self._transport = connection.transport
        self._websocket = isinstance(connection, EdgeWebSocketProtocol)
        self._drained = 0
        self._progress_at = time.monotonic()

    @property
    def open(self) -> bool:
        """Say whether anything can still be written."""
        return self.connection.writable_now

    @property
    def buffered(self) -> int:
        """Return how many bytes the peer has not taken yet."""
        size: int = self._transport.get_write_buffer_size()
        return size

    def write(self, event: ProtocolEvent) -> None:
        """Write one event; one that comes after the end is dropped. The hot path of fan-out."""
        if not self.connection.writable_now:
            return
        data = event.frame if self._websocket else event.chunk
        try:
            self._transport.write(data)
        except RuntimeError:  # uvloop raises on a transport that is closed
            return
        self.frames += 1
        self.written += len(data)

    def write_raw(self, data: bytes) -> None:
        """Write whole frames or chunks; uvloop raises on a transport that is closed."""
        if not self.connection.writable_now:
            return
        try:
            self._transport.write(data)
        except RuntimeError:
            return
        self.frames += 1
        self.written += len(data)

    def close(self, code: int, reason: str) -> None:
        """End the socket for good or for now: a close frame, or a body that breaks off."""
        if isinstance(self.connection, EdgeWebSocketProtocol):
            self.connection.close_with(code, reason)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection and what it had not taken."""
        self._transport.abort()

    def stalled_s(self, now: float) -> float:
        """Return for how long the peer has taken nothing while there was something, in seconds."""
        buffered = self.buffered
        drained = self.written - buffered
        if buffered == 0 or drained > self._drained:
            self._drained, self._progress_at = drained, now
        return now - self._progress_at

    def beat(self, now: float, every_s: float) -> None:
        """Keep an SSE stream's proxies awake; WebSockets have pings."""
        if not self._websocket and now - self.idle_since >= every_s:
            self.idle_since = now
            self.write_raw(_HEARTBEAT)


class ReadsState(Protocol):
    """Reads a thread's committed state."""

    async def values(self, key: str) -> bytes:
        """Return the values as JSON text."""
        ...


class Snapshots:
    """States for `values` snapshots: readers of one event share one read."""

    def __init__(self, state: ReadsState) -> None:
        self._state = state
        self._reads: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def of(self, key: str, event_id: str) -> bytes:
        """Return the thread's values as JSON text; `{}` if they cannot be read now."""
        name = (key, event_id)
        read = self._reads.get(name)
        if read is None:
            read = self._reads[name] = asyncio.create_task(self._read(key))
            read.add_done_callback(lambda _read: self._reads.pop(name, None))
        return await asyncio.shield(read)

    async def _read(self, key: str) -> bytes:
        try:
            return await self._state.values(key)
        except TurnstreamError as error:
            _log.warning("state not read", thread=key, code=error.code)
            return b"{}"


class Subscription:
    """One filter on one thread, for one socket. `run` is its life.

    Live: the tap writes. Queued: a snapshot waits for its state, and what follows waits behind it.
    Behind: detached; refilled from `cursor` on once the socket has room.
    """

    def __init__(
        self,
        sockets: Sockets,
        thread: Thread,
        outlet: Outlet,
        wanted: Filter,
        since: Cursor | None,
    ) -> None:
        self._sockets = sockets
        self._thread = thread
        self._outlet = outlet
        self._filter = wanted
        self._whole = not wanted.namespaces and wanted.depth is None
        self._since = since
        self._cursor = -1 if since is None else since.seq
        self._queue: deque[ProtocolEvent] = deque()
        self._wake = asyncio.Event()
        self._behind = False

    async def run(self) -> None:
        """Deliver until cancelled."""
        feed = self._sockets.feed
        try:
            while True:
                self._behind = False
                missed = feed.catch_up(self._thread, self._tap, self._since)
                async with contextlib.aclosing(missed):
                    async for item in missed:
                        await self._refill(item)
                await self._drain()
                while not self._behind:
                    self._wake.clear()
                    await self._wake.wait()
                    await self._drain()
                self._sockets.refills += 1
                await self._room()
                self._since = self._stand()
        finally:
            self._leave()

    async def _refill(self, item: Reset | list[Step]) -> None:
        if isinstance(item, Reset):
            await self._reset(item)
            return
        for step in item:
            for event in step.events:
                await self._deliver(event)
        await self._room()

    def _stand(self) -> Cursor:
        if self._cursor >= 0:
            return Cursor.of_seq(self._cursor)
        partition = self._thread.partition or 0
        feed = self._sockets.feed
        return Cursor(feed.incarnation, feed.log.end(partition) - 1)

    def _tap(self, step: Step | None) -> None:
        if step is None or len(self._queue) > self._sockets.limits.queue_events_max:
            self._fall_behind()
            return
        outlet = self._outlet
        queue = self._queue
        # most subscriptions name channels only
        whole, wanted = self._whole, self._filter
        for event in step.events:
            if event.seq <= self._cursor:
                continue
            if not (whole and event.channel in wanted.channels) and not wanted.takes(event):
                continue
            if queue or event.data is None:
                queue.append(event)
                self._wake.set()
            else:
                self._cursor = event.seq
                outlet.write(event)
        if outlet.buffered > self._sockets.limits.buffer_slow_bytes:
            self._fall_behind()

    def _fall_behind(self) -> None:
        self._behind = True
        self._queue.clear()
        self._leave()
        self._wake.set()

    def _leave(self) -> None:
        if self._tap in self._thread.taps:
            self._thread.taps.remove(self._tap)

    async def _drain(self) -> None:
        """Write what waits behind a snapshot; the queue is left only when it is empty."""
        while self._queue:
            event = self._queue[0]
            if event.needs_state:
                values = await self._sockets.snapshots.of(self._thread.key, event.event_id)
                if not self._queue:  # fell behind meanwhile
                    return
                event = event.with_state(values)
            self._queue.popleft()
            self._cursor = event.seq
            self._outlet.write(event)

    async def _deliver(self, event: ProtocolEvent) -> None:
        if event.seq <= self._cursor:
            return
        if not self._filter.takes(event):
            return
        if event.needs_state:
            values = await self._sockets.snapshots.of(self._thread.key, event.event_id)
            event = event.with_state(values)
        self._cursor = event.seq
        self._outlet.write(event)

    async def _reset(self, reset: Reset) -> None:
        """Show the state as it is; with no turn alive, also that the run is over."""
        feed = self._sockets.feed
        at_ms = time.time_ns() // 1_000_000
        first = first_seq(feed.incarnation, reset.cursor.offset)
        event_id = f"reset-{self._thread.key}-{first}"
        values = await self._sockets.snapshots.of(self._thread.key, event_id)
        said = [ProtocolEvent(first, event_id, VALUES, VALUES, (), at_ms, values)]
        if not reset.alive:
            over = json_bytes({"event": "completed"})
            said.append(
                ProtocolEvent(first + 1, f"{event_id}:1", "lifecycle", "lifecycle", (), at_ms, over)
            )
        for event in said:
            if self._filter.takes(event):
                self._outlet.write(event)
        self._cursor = reset.cursor.seq

    async def _room(self) -> None:
        """Wait until the socket has taken most of what it was given."""
        limit = self._sockets.limits.buffer_slow_bytes
        while self._outlet.buffered > limit // 2 and self._outlet.open:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)  # a transport tells nobody of its buffer


@dataclass(slots=True)
class Sockets:
    """All open sockets and event streams of this edge, and their watchdog."""

    feed: Feed
    snapshots: Snapshots
    limits: SocketLimits = field(default_factory=SocketLimits)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    outlets: set[Outlet] = field(default_factory=set)
    frames: int = 0
    refills: int = 0
    aborted: int = 0
    _per_user: Counter[tuple[str, str]] = field(default_factory=Counter)
    _listeners: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _due: dict[tuple[str, str, str], Cursor] = field(default_factory=dict)

    @contextmanager
    def opened(self, connection: Connection, principal: Principal) -> Iterator[Outlet]:
        """Keep an outlet under the watchdog; raises `TooManyRequestsError` (`too_many_sockets`)."""
        self.check_room(principal)
        user = (principal.tenant, principal.user)
        outlet = Outlet(connection, principal)
        self._per_user[user] += 1
        self.outlets.add(outlet)
        try:
            yield outlet
        finally:
            self.frames += outlet.frames
            self.outlets.discard(outlet)
            self._per_user[user] -= 1
            if not self._per_user[user]:
                del self._per_user[user]

    def check_room(self, principal: Principal) -> None:
        """Raise where the caller has as many sockets as are allowed, or the edge is stopping."""
        if self.closing.is_set():
            raise UnavailableError("this edge is stopping", code="stopping")
        limit = self.limits.sockets_per_user_max
        if self._per_user[principal.tenant, principal.user] >= limit:
            raise TooManyRequestsError(
                f"{limit} open sockets are allowed for one user", code="too_many_sockets"
            )

    async def serve(self, key: str, outlet: Outlet, wanted: Filter, since: Cursor | None) -> None:
        """Deliver a thread's events to an outlet until cancelled."""
        listener = (key, outlet.principal.tenant, outlet.principal.user)
        listens = "lifecycle" in wanted.channels
        if listens:
            since = since or self._due.pop(listener, None)
            self._listeners[listener] += 1
        try:
            with self.feed.hold(key) as thread:
                await Subscription(self, thread, outlet, wanted, since).run()
        finally:
            if listens:
                self._listeners[listener] -= 1
                if not self._listeners[listener]:
                    del self._listeners[listener]

    def started(self, key: str, principal: Principal, applied_through: Cursor) -> None:
        """Remember that a caller started a turn while nobody of theirs listened to its thread.

        The SDK opens its lifecycle stream after `run.start` and without a cursor, by which time a
        quick turn is over: that one stream then begins before the turn. Only that one, for whoever
        comes later would take an older turn's end for the end of their own.
        """
        listener = (key, principal.tenant, principal.user)
        if listener in self._listeners:
            return
        self._due[listener] = applied_through
        asyncio.get_running_loop().call_later(DUE_S, self._expire, listener, applied_through)

    def _expire(self, listener: tuple[str, str, str], cursor: Cursor) -> None:
        if self._due.get(listener) is cursor:
            del self._due[listener]

    @property
    def frames_total(self) -> int:
        """Return how many frames were written since the start."""
        return self.frames + sum(outlet.frames for outlet in self.outlets)

    async def watch(self) -> None:
        """Look after every socket once a second, until cancelled."""
        limits = self.limits
        while True:
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            for outlet in tuple(self.outlets):
                if not outlet.open:
                    continue
                if (
                    outlet.buffered > limits.buffer_bytes_max
                    or outlet.stalled_s(now) > limits.stall_timeout_s
                ):
                    self.aborted += 1
                    outlet.abort()
                elif outlet.principal.expired:
                    outlet.close(4401, "token_expired")
                else:
                    outlet.beat(now, limits.heartbeat_s)

    def close_all(self) -> None:
        """Send everybody away to come back elsewhere: 1012, or a body that breaks off."""
        self.closing.set()
        for outlet in tuple(self.outlets):
            outlet.close(1012, "restart")
