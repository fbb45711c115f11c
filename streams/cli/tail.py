"""`turnstream tail`: the events of a thread, or of all, as they come. Needs Kafka only."""

import asyncio
import select
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.schemas.ids import check_tenant, check_thread_id, parse_turn_id, thread_key
from turnstream.streams.cli.options import HERE, Dir, parsed

if TYPE_CHECKING:
    from turnstream.streams.replay.event_lines import Wanted


def tail(
    *,
    thread: Annotated[
        str, typer.Option(help="Only events of this thread; default: of all threads.")
    ] = "",
    turn: Annotated[str, typer.Option(help="Only events of this turn, a UUID.")] = "",
    tenant: Annotated[
        str,
        typer.Option(help="Only events of this tenant; with --thread the default is `default`."),
    ] = "",
    types: Annotated[
        str,
        typer.Option(
            "--type", help="Only events of these types, such as TokensEmitted,ToolStarted."
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            help="Where to begin: `10m` ago, a time such as 2026-12-01T05:00 (UTC), or `start`."
        ),
    ] = "",
    follow: Annotated[bool, typer.Option(help="Keep printing until Ctrl-C.")] = True,
    folder: Dir = HERE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line; the default for pipes.")
    ] = False,
) -> None:
    """Print events from now on, or since a time. Events of a thread come in their order.

    On a terminal the lines are text; in a pipe or a file they are JSON.
    """
    from turnstream.streams.replay.event_lines import Wanted, parse_since, parse_types

    owner = parsed(check_tenant, tenant, "--tenant") if tenant else ""
    key = f"{owner}/" if owner else ""
    if thread:
        key = thread_key(owner or "default", parsed(check_thread_id, thread, "--thread"))
    wanted = Wanted(
        key=key,
        turn_id=str(parsed(parse_turn_id, turn, "--turn")) if turn else "",
        types=parsed(parse_types, types, "--type") if types else frozenset(),
    )
    now = datetime.now(UTC)
    begin = parsed(lambda text: parse_since(text, now), since, "--since") if since else None
    try:
        asyncio.run(
            _print(folder, wanted, begin, follow=follow, as_json=as_json or not sys.stdout.isatty())
        )
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _print(
    folder: Path, wanted: "Wanted", since: datetime | None, *, follow: bool, as_json: bool
) -> None:
    from turnstream.connectors.kafka.read.scan import LogScan
    from turnstream.connectors.registry import open_codec
    from turnstream.streams.cli.configured import configured

    settings = configured("kafka_bootstrap", folder=folder)
    codec = await open_codec(settings.schema_registry_url)
    topic = settings.topics.events
    async with LogScan(settings.kafka_bootstrap) as log:
        spans = await log.spans_since(topic, None if since is None else since.timestamp())
        reads = log.follow(topic, spans) if follow else log.read(topic, spans)
        async with aclosing(reads) as batches:
            async for batch in batches:
                lines = (wanted.line(raw, codec, as_json=as_json) for raw in batch)
                if text := "".join(f"{line}\n" for line in lines if line):
                    sys.stdout.write(text)
                    sys.stdout.flush()
                elif _reader_has_gone():
                    return


def _reader_has_gone() -> bool:
    """Return whether standard output is a pipe without a reader, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
