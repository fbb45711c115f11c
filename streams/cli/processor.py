"""`turnstream processor`: streams derived from other streams. Needs Kafka and Postgres."""

import asyncio

import typer

from turnstream.streams.cli.options import HERE, Dir

app = typer.Typer(help="Run a processor: a stream derived from another one.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `usage` a command of its own, so that others can follow."""


@app.command()
def usage(*, folder: Dir = HERE) -> None:
    """Total the tokens of each tenant, hour and model into the topic `usage`.

    Any number may run; they share the partitions of `turn-results.<tenant>`. Stops on
    SIGTERM. At its start it waits for Kafka and Postgres, TURNSTREAM_START_TIMEOUT_S at most.
    Exit code 75: a server did not answer for minutes; start it again.
    """
    from turnstream.streams.app.contradictions import refuse_contradictions
    from turnstream.streams.cli.configured import configured

    settings = configured("kafka_bootstrap", "database_url", folder=folder)
    refuse_contradictions(settings)
    try:
        from turnstream.streams.usage.processor import build_usage_app, run_usage_app
    except ModuleNotFoundError as error:
        if error.name != "faust":
            raise
        typer.echo("the processor needs `pip install 'turnstream[processor]'`", err=True)
        raise typer.Exit(1) from None
    from turnstream.connectors.registry import open_codec
    from turnstream.streams.app.usage import open_usage_store
    from turnstream.streams.process.life import log_as_json
    from turnstream.streams.process.start import prepared

    log_as_json(settings.log_level, exception_text=settings.log_exception_text)
    codec = asyncio.run(prepared(settings, lambda: open_codec(settings.schema_registry_url)))
    if codec is None:
        return
    settings.processor_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_usage_app(
        build_usage_app(settings, codec, lambda: open_usage_store(settings)), settings.log_level
    )
