"""`turnstream topics`: list, create and check the topics. Needs Kafka only."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from turnstream.streams.cli.options import HERE, AsJson, Dir

if TYPE_CHECKING:
    from turnstream.connectors.kafka.admin import TopicDrift, TopicState
    from turnstream.schemas.topics import Topic

app = typer.Typer(help="List, create and check the Kafka topics.", no_args_is_help=True)


@app.command("list")
def list_topics(*, folder: Dir = HERE, as_json: AsJson = False) -> None:
    """List every topic that turnstream needs, and what the brokers have."""
    wanted, found, _ = asyncio.run(_look(folder))
    rows = [_row(topic, found.get(topic.name)) for topic in wanted]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(rows)


@app.command()
def create(*, folder: Dir = HERE, as_json: AsJson = False) -> None:
    """Create the topics that are missing; leave those that exist as they are."""
    created, drifts = asyncio.run(_create(folder))
    if as_json:
        typer.echo(json.dumps({"created": created, "drift": _drift_rows(drifts)}, indent=2))
    else:
        for name in created:
            typer.echo(f"created {name}")
        if not created:
            typer.echo("all topics are there")
        _print_drifts(drifts)


@app.command()
def check(*, folder: Dir = HERE, as_json: AsJson = False) -> None:
    """Compare the topics with their settings. Exit code 3: a topic is missing or differs."""
    _, _, drifts = asyncio.run(_look(folder))
    if as_json:
        typer.echo(json.dumps(_drift_rows(drifts), indent=2))
    elif drifts:
        _print_drifts(drifts)
    else:
        typer.echo("all topics are as wanted")
    if drifts:
        raise typer.Exit(3)


async def _look(
    folder: Path,
) -> "tuple[tuple[Topic, ...], dict[str, TopicState], list[TopicDrift]]":
    from turnstream.connectors.kafka.admin import TopicAdmin
    from turnstream.streams.cli.configured import configured

    settings = configured("kafka_bootstrap", folder=folder)
    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        found = await admin.describe(topic.name for topic in wanted)
        return wanted, found, await admin.check(wanted)


async def _create(folder: Path) -> "tuple[list[str], list[TopicDrift]]":
    from turnstream.connectors.kafka.admin import TopicAdmin
    from turnstream.streams.cli.configured import configured

    settings = configured("kafka_bootstrap", folder=folder)
    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        created = await admin.create(wanted)
        return created, await admin.check(wanted)


def _row(topic: "Topic", state: "TopicState | None") -> dict[str, object]:
    if state is None:
        return {"name": topic.name, "exists": False, "wanted": topic.config}
    return {
        "name": topic.name,
        "exists": True,
        "id": str(state.topic_id),
        "partitions": state.partitions,
        "replication": state.replication,
        "config": {key: state.config.get(key, "") for key in topic.config},
        "wanted": topic.config,
    }


def _drift_rows(drifts: "list[TopicDrift]") -> list[dict[str, object]]:
    return [
        {"name": d.name, "key": d.key, "wanted": d.wanted, "found": d.found, "breaks": d.breaks}
        for d in drifts
    ]


def _print_drifts(drifts: "list[TopicDrift]") -> None:
    for drift in drifts:
        typer.echo(f"{'breaks ' if drift.breaks else 'differs'}  {drift}")


def _print_table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("topic", "partitions", "replicas", "clean-up", "retention", "record max"):
        table.add_column(title, overflow="fold")
    for row in rows:
        config = row["config"] if row["exists"] else {}
        assert isinstance(config, dict)  # noqa: S101  narrows what _row has made
        table.add_row(
            str(row["name"]),
            str(row.get("partitions", "missing")),
            str(row.get("replication", "")),
            config.get("cleanup.policy", ""),
            _days(config.get("retention.ms", "")),
            _bytes(config.get("max.message.bytes", "")),
        )
    Console().print(table)


def _days(ms: str) -> str:
    return f"{int(ms) / 86_400_000:g} d" if ms and int(ms) >= 0 else ("forever" if ms else "")


def _bytes(count: str) -> str:
    return f"{int(count) / (1 << 20):g} MiB" if count else ""
