"""The parts of an edge that its routes use, in one object that `open_edge` makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from starlette.requests import HTTPConnection  # noqa: TC002  FastAPI reads the annotation

from turnstream.schemas.errors import NotFoundError
from turnstream.schemas.ids import check_thread_id, thread_key
from turnstream.streams.edge.server.auth import Authenticator, Principal, bearer
from turnstream.streams.process.pace import LoopLag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
    from turnstream.connectors.postgres.ledger.ledger import Ledger
    from turnstream.connectors.postgres.stores.threads import Threads
    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.ask.pressure import Pressure
    from turnstream.streams.edge.ask.submit import Submit
    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.follow.feed import Feed
    from turnstream.streams.edge.server.arrivals import Arrivals
    from turnstream.streams.edge.server.limits import RequestRate
    from turnstream.streams.letters.dead_letters import DeadLetters


DEFAULT_GRAPH = "agent"
TURNS_LOOKED_AT = 10
"""Newest turns among which a question's turn is looked for; only refused turns can follow it."""


class StateReader(Protocol):
    """Reads a thread's committed state."""

    async def values(self, key: str) -> bytes:
        """Return the state's values as JSON text; `{}` for a thread without any."""
        ...


class TailView(Protocol):
    """The tail's counters."""

    @property
    def records(self) -> int:
        """How many records came."""
        ...

    @property
    def followed_records(self) -> int:
        """How many of them had a follower."""
        ...

    @property
    def fetches(self) -> int:
        """How many fetches were answered."""
        ...

    @property
    def ring_bytes(self) -> int:
        """Bytes of log in memory."""
        ...

    @property
    def lag_s(self) -> float:
        """Seconds since a broker answered."""
        ...


@dataclass(slots=True, kw_only=True)
class EdgeContext:
    """The edge's parts.

    `exists(key)` returns whether a thread is in the ledger or was made by `POST /threads`.
    """

    settings: Settings
    feed: Feed
    submit: Submit
    auth: Authenticator
    sockets: Sockets
    arrivals: Arrivals
    state: StateReader
    catalog: Catalog
    exists: Callable[[str], Awaitable[bool]]
    ledger: Ledger
    saver: FencedSaver
    threads: Threads
    letters: DeadLetters | None = None
    tail: TailView | None = None
    pressure: Pressure
    ready: Callable[[], Awaitable[dict[str, str]]]
    rate: RequestRate | None = None
    lag: LoopLag = field(default_factory=LoopLag)

    def count(self, principal: Principal, requests: int = 1) -> None:
        """Count requests and frames of a caller; raises `TooManyRequestsError`."""
        if self.rate is not None:
            self.rate.take(principal, requests)

    async def authorised(self, principal: Principal, thread_id: str) -> str:
        """Return the thread's key; raises `InvalidRequestError` (422), `NotFoundError` (404).

        The key begins with the caller's tenant, so a thread of another tenant does not exist.
        """
        key = thread_key(principal.tenant, check_thread_id(thread_id))
        if await self.knows(key):
            return key
        raise NotFoundError("there is no such thread", code="thread_not_found")

    async def graph_asking(self, key: str) -> str:
        """Return the graph that asked last on a thread; answers go to this graph."""
        turns = await self.ledger.turns_of(key, TURNS_LOOKED_AT)
        asking = [turn.graph for turn in turns if turn.status == "interrupted"]
        return next(iter(asking or [turn.graph for turn in turns]), DEFAULT_GRAPH)

    async def knows(self, key: str) -> bool:
        """Return whether a thread is known, or this edge has just sent its first turn."""
        return self.submit.is_recent(key) or await self.exists(key)


def edge_of(connection: HTTPConnection) -> EdgeContext:
    """FastAPI dependency: the edge's context."""
    return cast("EdgeContext", connection.app.state.edge)


async def principal_of(connection: HTTPConnection) -> Principal:
    """FastAPI dependency: the caller; raises `UnauthorizedError` (401), `TooManyRequestsError`."""
    edge = edge_of(connection)
    principal = await edge.auth.authenticate(bearer(connection.headers))
    edge.count(principal)
    return principal
