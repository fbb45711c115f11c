"""`turnstream edge`: hold the sockets of the clients."""

import asyncio
import gc
from typing import Annotated

import typer

# a pass over the oldest generation stops every stream for tens of milliseconds
_COLLECT = (50_000, 20, 1000)


def edge(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to bind (setting edge_host).")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port, 0 for any free one (setting edge_port).")
    ] = None,
) -> None:
    """Serve clients over HTTP and WebSocket until SIGTERM."""
    import uvloop

    from turnstream.streams.app import open_edge
    from turnstream.streams.cli.configured import configured

    given = {"edge_host": host, "edge_port": port}
    settings = configured("kafka_bootstrap", "database_url").model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )

    async def serve() -> None:
        async with open_edge(settings) as opened:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT)
            typer.echo(f"edge on http://{settings.edge_host}:{opened.port}", err=True)
            await opened.run_until_signal()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
