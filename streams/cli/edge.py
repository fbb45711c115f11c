"""`turnstream edge`: the process that clients connect to."""

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.streams.cli.options import HERE, Dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.app.settings import Settings
    from turnstream.streams.edge.server.process import Edge


def edge(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to bind (setting edge_host).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, help="Port, 0 for any free one (setting edge_port)."
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option(help="Create missing topics and tables before the start.")
    ] = True,
    folder: Dir = HERE,
) -> None:
    """Serve clients over HTTP and WebSocket until SIGTERM.

    At its start it waits for Kafka and Postgres, TURNSTREAM_START_TIMEOUT_S at most.
    """
    import uvloop

    from turnstream.streams.app.contradictions import refuse_contradictions
    from turnstream.streams.cli.configured import configured
    from turnstream.streams.process.life import log_as_json

    given = {"edge_host": host, "edge_port": port}
    settings = configured("kafka_bootstrap", "database_url", folder=folder).model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )

    refuse_contradictions(settings)
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, create=create))


async def _serve(settings: "Settings", *, create: bool) -> None:
    from turnstream.streams.app.edge import open_edge
    from turnstream.streams.process.start import run_until_signal

    @asynccontextmanager
    async def opened() -> "AsyncIterator[Edge]":
        async with open_edge(settings) as edge:
            typer.echo(f"edge on http://{settings.edge_host}:{edge.port}", err=True)
            yield edge

    await run_until_signal(
        settings, opened, create=create, host=settings.edge_host, port=settings.edge_port
    )
