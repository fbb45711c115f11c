"""`turnstream replay view`: a thread or a turn out of the log, with every digest checked."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.schemas.ids import check_tenant, check_thread_id, parse_turn_id
from turnstream.streams.cli.options import HERE, AsJson, Dir, parsed

if TYPE_CHECKING:
    from turnstream.streams.replay.view import ThreadReplay

app = typer.Typer(
    help="Show a thread or a turn from the log, and check its digests.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Keep `view` a command of its own, so that others can follow."""


@app.command()
def view(
    *,
    thread: Annotated[str, typer.Option(help="Thread id.", metavar="THREAD")] = "",
    turn: Annotated[str, typer.Option(help="Turn id, a UUID.", metavar="TURN")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the thread or turn.")] = "",
    folder: Dir = HERE,
    as_json: AsJson = False,
) -> None:
    """Fold the log and print the transcript. Needs Kafka only, no Postgres.

    Each text is checked against its recorded SHA-256. A turn is `partial` where the log no longer
    holds its beginning. Exit code 3: a digest differs, events are missing or cannot be read.
    """
    if bool(thread) == bool(turn):
        raise typer.BadParameter("give either --thread or --turn")
    if turn:
        turn = str(parsed(parse_turn_id, turn, "--turn"))
    else:
        parsed(check_thread_id, thread, "--thread")
    if tenant:
        parsed(check_tenant, tenant, "--tenant")
    found = asyncio.run(_replay(folder, thread, turn, tenant))
    from turnstream.streams.cli import transcript

    if as_json:
        typer.echo(json.dumps(transcript.as_json(found), indent=2, ensure_ascii=False))
    else:
        transcript.show(found)
    if found.problems:
        raise typer.Exit(3)


async def _replay(folder: Path, thread: str, turn: str, tenant: str) -> "ThreadReplay":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from turnstream.connectors.kafka.read.scan import LogScan, partition_of
    from turnstream.connectors.registry import open_codec
    from turnstream.schemas.ids import thread_key
    from turnstream.streams.cli.configured import configured
    from turnstream.streams.replay.log import Replayer

    settings = configured("kafka_bootstrap", folder=folder)
    codec = await open_codec(settings.schema_registry_url)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("records read", total=None)
        async with LogScan(
            settings.kafka_bootstrap, batch_bytes_max=settings.batch_bytes_max
        ) as log:
            replayer = Replayer(
                log,
                codec,
                settings.topics.events,
                partition_of,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
            if turn:
                return await replayer.turn(turn, tenant)
            return await replayer.thread(thread_key(tenant or "default", thread))
