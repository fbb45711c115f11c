"""All open sockets and streams of this edge, and their watchdog.

The watchdog aborts sockets that make no progress or are flooded, and closes those whose token has
expired.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnstream.schemas.errors import TooManyRequestsError, UnavailableError
from turnstream.streams.edge.ask.own_turns import Starts
from turnstream.streams.edge.deliver.socket import SSE_HEARTBEAT, Outlet
from turnstream.streams.edge.deliver.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from turnstream.streams.edge.ask.own_turns import Start
    from turnstream.streams.edge.deliver.filters import Filter
    from turnstream.streams.edge.deliver.snapshots import Snapshots
    from turnstream.streams.edge.follow.cursor import Cursor
    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.server.auth import Principal
    from turnstream.streams.edge.server.connections import Connection

_WATCH_S = 1.0


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
    unknown_thread_wait_s: float = 30.0


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
    starts: Starts = field(default_factory=Starts)
    _per_user: Counter[tuple[str, str]] = field(default_factory=Counter)

    @contextmanager
    def opened(
        self, connection: Connection, principal: Principal, heartbeat: bytes = SSE_HEARTBEAT
    ) -> Iterator[Outlet]:
        """Keep an outlet open under the watchdog; raises as `check_room` does."""
        self.check_room(principal)
        user = (principal.tenant, principal.user)
        outlet = Outlet(connection, principal, heartbeat)
        connection.settle()
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
        """Raise `TooManyRequestsError` (`too_many_sockets`) or `UnavailableError` (`stopping`)."""
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
        only = wanted.channels <= {"lifecycle", "input"}
        start = self.starts.opened(listener, only_lifecycle=only, resumes=since is not None)
        try:
            with self.feed.hold(key) as thread:
                subscription = Subscription(self, thread, outlet, wanted, since, start=start)
                with self.starts.coming(listener, subscription.stands):
                    await subscription.run()
        finally:
            self.starts.closed(listener, only_lifecycle=only)

    def asking(self, key: str, principal: Principal) -> AbstractAsyncContextManager[Start]:
        """Note that a caller asks for a turn; `starts.began` then takes where it begins."""
        return self.starts.asking((key, principal.tenant, principal.user))

    @property
    def frames_total(self) -> int:
        """Return how many frames were written since the start."""
        return self.frames + sum(outlet.frames for outlet in self.outlets)

    async def watch(self) -> None:
        """Check every socket once a second, until cancelled."""
        limits = self.limits
        while True:
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            for outlet in tuple(self.outlets):
                if not outlet.open:  # the peer may not read what is left
                    if outlet.stalled_s(now) > limits.stall_timeout_s:
                        self.aborted += 1
                        outlet.abort()
                    continue
                if (
                    outlet.flooded(limits.buffer_bytes_max)
                    or outlet.stalled_s(now) > limits.stall_timeout_s
                ):
                    self.aborted += 1
                    outlet.abort()
                elif outlet.principal.expired:
                    outlet.close(4401, "token_expired")
                else:
                    outlet.beat(now, limits.heartbeat_s)

    def close_all(self) -> None:
        """Close every stream, so that its client comes back elsewhere: 1012, or a cut body.

        Answers that clients wait for go on for the time that the server has to stop.
        """
        self.closing.set()
        for outlet in tuple(self.outlets):
            if outlet.streams:
                outlet.close(1012, "restart")
