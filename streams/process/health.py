"""Health ports: a worker's, and that of a process whose parts do not answer yet.

`/healthz` (it answers), `/readyz` (it takes turns), `/metrics`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from turnstream.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from turnstream.streams.worker.metrics import WorkerMetrics

_END_S = 1.0
_LATER = {"Retry-After": "2"}


@asynccontextmanager
async def health_port(
    host: str, port: int, *, ready: Callable[[], str], metrics: WorkerMetrics
) -> AsyncIterator[int]:
    """Serve until the context ends; yields the port. `ready` returns "" or why it is not."""

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(
            body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    async with _serving(app, host, port, ready) as bound:
        yield bound


@asynccontextmanager
async def waiting_port(host: str, port: int, waits_for: Callable[[], str]) -> AsyncIterator[None]:
    """Say at a worker's or an edge's port that it waits for a part; everything else is 503."""

    async def later(_request: web.Request) -> web.Response:
        body = {"code": "unavailable", "detail": f"waits for {waits_for()}", "status": 503}
        return web.json_response(
            body, status=503, headers=_LATER, content_type="application/problem+json"
        )

    app = web.Application()
    async with _serving(app, host, port, lambda: f"waits for {waits_for()}", otherwise=later):
        yield


@asynccontextmanager
async def _serving(
    app: web.Application,
    host: str,
    port: int,
    ready: Callable[[], str],
    otherwise: Callable[[web.Request], Awaitable[web.Response]] | None = None,
) -> AsyncIterator[int]:
    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        why = ready()
        if why:
            return web.json_response({"status": "not ready", "reason": why}, status=503)
        return web.json_response({"status": "ready"})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    if otherwise is not None:
        app.router.add_route("*", "/{path:.*}", otherwise)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
