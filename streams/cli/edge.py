"""`turnstream edge`: hold the sockets of the clients."""

import asyncio
from typing import Annotated

import typer


def edge(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to bind (setting edge_host).")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port, 0 for any free one (setting edge_port).")
    ] = None,
    create: Annotated[
        bool, typer.Option(help="Create missing topics and tables before the start.")
    ] = True,
) -> None:
    """Serve clients over HTTP and WebSocket until SIGTERM."""
    import uvloop

    from turnstream.streams.app import open_edge
    from turnstream.streams.cli.configured import configured
    from turnstream.streams.prepare import prepare
    from turnstream.streams.process import log_as_json, settle_memory

    given = {"edge_host": host, "edge_port": port}
    settings = configured("kafka_bootstrap", "database_url").model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )

    log_as_json(settings.log_level)

    async def serve() -> None:
        if create:
            await prepare(settings)
        async with open_edge(settings) as opened:
            settle_memory()
            typer.echo(f"edge on http://{settings.edge_host}:{opened.port}", err=True)
            await opened.run_until_signal()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
