"""The edge as a process: its tasks, its readiness, its stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from turnstream.schemas.errors import ConfigurationError, TurnstreamError, UnavailableError
from turnstream.streams.edge.ask.pressure import TAIL_SILENT_MAX_S
from turnstream.streams.edge.server.auth import (
    ASYMMETRIC,
    SYMMETRIC,
    Authenticator,
    Claims,
    DevAuthenticator,
    JwtAuthenticator,
    check_secret,
)
from turnstream.streams.edge.server.origins import is_loopback

if TYPE_CHECKING:
    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.ask.pressure import Pressure
    from turnstream.streams.edge.deliver.fanout import Sockets
    from turnstream.streams.edge.server.context import EdgeContext
    from turnstream.streams.edge.server.serving import EdgeServer

_log = structlog.get_logger(__name__)


class RunningTail(Protocol):
    """The tail, as a part of the process."""

    ready: asyncio.Event

    @property
    def lag_s(self) -> float:
        """Seconds since a broker answered."""
        ...

    async def run(self) -> None:
        """Follow the log until cancelled."""
        ...


class Pings(Protocol):
    """A question that the database answers."""

    async def timeline(self) -> int:
        """Return the timeline."""
        ...


def authenticator_of(settings: Settings) -> Authenticator:
    """Return the authenticator; raises `ConfigurationError` for an open edge that others reach."""
    secret = settings.jwt_secret.get_secret_value()
    if secret and settings.jwks_url:
        raise ConfigurationError("set jwt_secret or jwks_url, not both")
    claims = Claims(
        audience=settings.jwt_audience or None,
        issuer=settings.jwt_issuer or None,
        leeway_s=settings.jwt_leeway_s,
    )
    if settings.jwks_url:
        return JwtAuthenticator(algorithms=ASYMMETRIC, jwks_url=settings.jwks_url, claims=claims)
    if secret:
        check_secret(secret)
        return JwtAuthenticator(algorithms=SYMMETRIC, secret=secret, claims=claims)
    if not is_loopback(settings.edge_host):
        raise ConfigurationError(
            f"edge_host {settings.edge_host} is reachable by others:"
            " set jwt_secret or jwks_url (without them the edge serves 127.0.0.1 only)"
        )
    _log.warning("DEV MODE: NO AUTHENTICATION. Every process on this machine is let in.")
    return DevAuthenticator(tenant=settings.tenants[0])


@dataclass(frozen=True, slots=True)
class Readiness:
    """Checks whether each part of the edge works."""

    tail: RunningTail
    database: Pings
    pressure: Pressure
    sockets: Sockets
    auth: Authenticator

    async def checks(self) -> dict[str, str]:
        """Return a text for each part: `ok`, `off: …` (on purpose), or what is wrong."""
        tail = "ok"
        if not self.tail.ready.is_set():
            tail = "catching up"
        elif self.tail.lag_s > TAIL_SILENT_MAX_S:
            tail = f"no answer from Kafka for {self.tail.lag_s:.0f} s"
        try:
            await self.database.timeline()
            database = "ok"
        except TurnstreamError as error:
            database = error.code
        return {
            "tail": tail,
            "database": database,
            "commands": self.pressure.broken or "ok",
            "workers": _workers(self.pressure.workers),
            "process": "stopping" if self.sockets.closing.is_set() else "ok",
            "auth": "off: DEV MODE, no authentication" if self.auth.dev else "ok",
        }


def _workers(alive: int | None) -> str:
    """Return the text for the workers; an edge without any is ready: turns wait in Kafka."""
    if alive is None:
        return "off: not known yet whether a worker holds a lease"
    return "ok" if alive else "off: no worker holds a lease, turns wait until one does"


@dataclass(slots=True)
class Edge:
    """An edge that listens: tail, pressure, watchdogs and server. A stop ends all of them."""

    context: EdgeContext
    tail: RunningTail
    pressure: Pressure
    server: EdgeServer

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self.server.port

    async def run(self) -> None:
        """Serve until `stop`; raises `UnavailableError` if the tail or another part ends before."""
        supporting = [
            asyncio.create_task(self.tail.run(), name="tail"),
            asyncio.create_task(self.pressure.watch(), name="pressure"),
            asyncio.create_task(self.context.sockets.watch(), name="watchdog"),
            asyncio.create_task(self.context.arrivals.watch(), name="arrivals"),
            asyncio.create_task(self.context.lag.watch(), name="lag"),
        ]
        serving = asyncio.create_task(self.server.run(), name="server")
        try:
            await asyncio.wait({serving, *supporting}, return_when=asyncio.FIRST_COMPLETED)
            self.server.stop()
            await serving
            for task in supporting:
                if task.done() and not task.cancelled():
                    task.result()
                    raise UnavailableError(f"the edge's {task.get_name()} ended")
        finally:
            for task in (serving, *supporting):
                task.cancel()
            await asyncio.gather(serving, *supporting, return_exceptions=True)

    def stop(self) -> None:
        """Begin a graceful stop; safe to call twice."""
        self.server.stop()
