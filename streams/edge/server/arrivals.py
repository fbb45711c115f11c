"""Bounds on the edge's connections: how many there are, and how long a request may take to arrive.

A connection is in `waiting` while the edge waits for its peer: for the head or the body of a
request, for the next request of a kept-alive connection, or for a WebSocket's caller to be known.
A waiting connection is ended at its deadline. When there are too many connections, the one that
has waited longest makes room for the new one, so that half requests never keep others out.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnstream.streams.app.settings import Settings

_log = structlog.get_logger(__name__)
WATCH_S = 0.5
FILES_KEPT = 256
"""Open files that connections leave to Kafka, Postgres, logs and the key server."""


class Arriving(Protocol):
    """A connection that waits for its peer."""

    def time_out(self) -> None:
        """End the connection: its deadline has passed."""
        ...

    def evict(self) -> None:
        """End the connection at once: another one needs its place."""
        ...


@dataclass(slots=True)
class Arrivals:
    """The waiting connections, the one that has waited longest first."""

    connections_max: int
    head_timeout_s: float
    body_timeout_s: float
    evicted: int = 0
    refused: int = 0
    timed_out: int = 0
    clock: Callable[[], float] = time.monotonic
    waiting: dict[Arriving, float] = field(default_factory=dict)

    def room(self, connections: int) -> bool:
        """Return whether a new connection may stay; `connections` counts it already."""
        if connections <= self.connections_max:
            return True
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            self.refused += 1
            return False
        del self.waiting[oldest]
        self.evicted += 1
        oldest.evict()
        return True

    def wait(self, connection: Arriving, timeout_s: float) -> None:
        """Begin to wait for a connection's peer."""
        self.waiting.pop(connection, None)
        self.waiting[connection] = self.clock() + timeout_s

    def settle(self, connection: Arriving) -> None:
        """Stop waiting: the peer has sent what it had to, or the connection is gone."""
        self.waiting.pop(connection, None)

    def sweep(self) -> None:
        """End every connection whose deadline has passed."""
        now = self.clock()
        late = [connection for connection, until in self.waiting.items() if now >= until]
        for connection in late:
            del self.waiting[connection]
            self.timed_out += 1
            connection.time_out()

    async def watch(self) -> None:
        """Sweep twice a second, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.sweep()


def arrivals_of(settings: Settings) -> Arrivals:
    """Return the bounds that the settings name."""
    return Arrivals(
        connections_max=_connections_max(settings.edge_connections_max),
        head_timeout_s=settings.edge_head_timeout_s,
        body_timeout_s=settings.edge_body_timeout_s,
    )


def _connections_max(wanted: int) -> int:
    """Return the bound of connections: `wanted`, or fewer if the limit of open files is low."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files - FILES_KEPT >= wanted:
        return wanted
    fewer = max(files - FILES_KEPT, files // 2)
    _log.warning("connections_limited_by_files", wanted=wanted, now=fewer, files=files)
    return fewer
