"""The edge's HTTP and WebSocket server: uvicorn inside the process's own loop.

To stop, the edge reports that it is not ready, takes no more connections, cuts event streams and
closes WebSockets with 1012, so that clients go on elsewhere. Requests under way have
`edge_stop_timeout_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

import structlog
import uvicorn
from fastapi_offline import FastAPIOffline

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.edge import routes
from turnstream.streams.edge.routes import thread_stream
from turnstream.streams.edge.routes.deps import PROBLEMS
from turnstream.streams.edge.server import entrance, health, problems
from turnstream.streams.edge.server.http_connection import EdgeHttpProtocol
from turnstream.streams.edge.server.limits import BodyLimit
from turnstream.streams.edge.server.websocket_connection import EdgeWebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.server.arrivals import Arrivals
    from turnstream.streams.edge.server.context import EdgeContext

_log = structlog.get_logger(__name__)
KEEP_ALIVE_S = 20
"""How long a connection may wait for its next request, longer than clients' pools keep one (httpx
5 s, aiohttp 15 s): a client may send a request just as the edge closes its connection."""

BACKLOG = 4096
PING_S = 20.0
OPEN_TO_ALL = ("health", "info")
"""Tags of the routes that need no token."""


def build_app(edge: EdgeContext) -> FastAPI:
    """Return the app with every route of the edge."""
    # the page's scripts and styles come from the package: there may be no internet
    app = FastAPIOffline(
        title="turnstream",
        version=version("turnstream"),
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to the host that the request names
    )
    app.state.edge = edge
    problems.install(app)
    app.add_middleware(thread_stream.CommandsFirst)
    app.add_middleware(BodyLimit, bytes_max=edge.settings.edge_body_bytes_max)
    entrance.install(app, edge.settings, dev=edge.auth.dev, door=edge.pressure)
    app.include_router(thread_stream.router, responses=PROBLEMS)
    for router in routes.ROUTERS:
        app.include_router(router)
    app.include_router(health.router)
    if not edge.auth.dev:
        _ask_for_tokens(app)
    return app


def _ask_for_tokens(app: FastAPI) -> None:
    """Name the token in the OpenAPI document; its page then has a button to enter one."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            schemes = plain()["components"].setdefault("securitySchemes", {})
            schemes["token"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            for operation in (one for path in plain()["paths"].values() for one in path.values()):
                if operation["tags"][0] not in OPEN_TO_ALL:
                    operation["security"] = [{"token": []}]
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this


def _with(protocol: Callable[..., asyncio.Protocol], arrivals: Arrivals) -> type[asyncio.Protocol]:
    """Return a protocol class as uvicorn calls it, with the argument that uvicorn does not know."""
    return cast("type[asyncio.Protocol]", functools.partial(protocol, arrivals=arrivals))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


class EdgeServer:
    """Listens from the start (`port` is then known), serves while `run` runs."""

    def __init__(self, edge: EdgeContext, settings: Settings) -> None:
        self._edge = edge
        self.app = build_app(edge)
        config = uvicorn.Config(
            self.app,
            loop="none",
            http=_with(EdgeHttpProtocol, edge.arrivals),
            ws=_with(EdgeWebSocketProtocol, edge.arrivals),
            ws_per_message_deflate=False,  # all sockets share a prepared frame
            ws_max_size=settings.edge_frame_bytes_max,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.edge_stop_timeout_s)),
        )
        self._server = _Server(config)
        try:
            family = socket.AF_INET6 if ":" in settings.edge_host else socket.AF_INET
            self._socket = socket.create_server(
                (settings.edge_host, settings.edge_port), family=family, backlog=BACKLOG
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {settings.edge_host}:{settings.edge_port}: {error.strerror}"
            ) from error
        self.port: int = self._socket.getsockname()[1]

    async def run(self) -> None:
        """Serve until `stop`."""
        _log.info("edge_listens", port=self.port)
        await self._server.serve(sockets=[self._socket])
        # a client that has not answered its close by now is not waited for
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        """Take no more connections and send all clients away; `run` then ends."""
        for server in getattr(self._server, "servers", ()):
            server.close()
        self._edge.sockets.close_all()
        self._server.should_exit = True
