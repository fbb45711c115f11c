"""`turnstream worker`: the process that runs turns. Needs Kafka, Postgres and a model server."""

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.streams.cli.options import HERE, Dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from turnstream.streams.app.settings import Settings
    from turnstream.streams.worker.worker import Worker


def worker(
    *,
    name: Annotated[
        str, typer.Option(help="Name in logs and records; default: host and process id.")
    ] = "",
    create: Annotated[
        bool, typer.Option(help="Create missing topics and tables before the start.")
    ] = True,
    folder: Dir = HERE,
) -> None:
    """Take turns from the input topics, run them, and publish their events.

    Any number may run; they divide the turns. SIGTERM hands over what still runs: turns get half
    of TURNSTREAM_DRAIN_TIMEOUT_S to end, then stop at a step's end, at last at a token. Above
    TURNSTREAM_WORKER_MEMORY_MAX_MIB it does the same and starts anew under the same process id.
    At its start it waits for Kafka and Postgres, TURNSTREAM_START_TIMEOUT_S at most. Exit code 1:
    the worker cannot go on; standard error has the reason.
    """
    import uvloop

    from turnstream.streams.app.contradictions import refuse_contradictions
    from turnstream.streams.cli.configured import configured
    from turnstream.streams.process.life import log_as_json

    settings = configured("kafka_bootstrap", "database_url", "model_url", folder=folder)
    refuse_contradictions(settings)
    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    uvloop.run(_run(settings, name, create=create))


async def _run(settings: "Settings", name: str, *, create: bool) -> None:
    from turnstream.streams.app.worker import open_worker
    from turnstream.streams.process.life import begin_anew
    from turnstream.streams.process.start import run_until_signal

    outgrown = False

    @asynccontextmanager
    async def opened() -> "AsyncIterator[Worker]":
        nonlocal outgrown
        async with open_worker(settings, name=name, replace=begin_anew) as worker:
            yield worker
            outgrown = worker.outgrown

    await run_until_signal(
        settings,
        opened,
        create=create,
        host=settings.worker_health_host,
        port=settings.worker_health_port,
    )
    if outgrown:  # here, because the loop's end would wait for code that is left in threads
        begin_anew()
