"""`turnstream processor`: streams derived from other streams. Needs Kafka and Postgres."""

import asyncio
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from turnstream.connectors.avro import Codec
    from turnstream.streams.settings import Settings

app = typer.Typer(help="Run a processor: a stream derived from another one.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `usage` a command of its own: other processors stand beside it."""


@app.command()
def usage() -> None:
    """Total the tokens of each tenant, hour and model into the topic `usage`.

    Any number may run; the partitions of `turn-results.<tenant>` are shared between them. Stops on
    SIGTERM. Exit code 75: a server did not answer for minutes; start it again.
    """
    from turnstream.streams.cli.configured import configured

    settings = configured("kafka_bootstrap", "database_url")
    try:
        from turnstream.streams.usage import build_usage_app, run_usage_app
    except ModuleNotFoundError as error:
        if error.name != "faust":
            raise
        typer.echo("the processor needs `pip install 'turnstream[processor]'`", err=True)
        raise typer.Exit(1) from None
    from turnstream.streams.app import open_usage_store

    codec = asyncio.run(_prepare(settings))
    settings.processor_folder.mkdir(parents=True, exist_ok=True)
    run_usage_app(
        build_usage_app(settings, codec, lambda: open_usage_store(settings)), settings.log_level
    )


async def _prepare(settings: "Settings") -> "Codec":
    from turnstream.connectors.kafka.admin import TopicAdmin
    from turnstream.connectors.postgres.migrate import migrate
    from turnstream.connectors.registry import open_codec

    await asyncio.to_thread(migrate, settings.direct_url)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        await admin.create(settings.topics.all(settings.tenants, settings.partitions))
    return await open_codec(settings.schema_registry_url)
