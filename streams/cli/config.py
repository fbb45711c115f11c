"""`turnstream config`: what is set, where it comes from, and whether it works."""

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.streams.cli.options import HERE, AsJson, Dir

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from turnstream.streams.app.settings import Settings

app = typer.Typer(help="Show and check the settings.", no_args_is_help=True)

_CHECK_TIMEOUT_S = 10.0


@app.command()
def show(*, folder: Dir = HERE, as_json: AsJson = False) -> None:
    """Print every setting with its value and its source; passwords and secrets are hidden."""
    from turnstream.streams.app.hiding import shown
    from turnstream.streams.cli.configured import configured_with_sources

    settings, sources = configured_with_sources(folder)
    rows = [
        {"name": name, "value": shown(getattr(settings, name)), "source": sources[name]}
        for name in type(settings).model_fields
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "source"):
        table.add_column(title, overflow="fold")
    for row in rows:
        value = row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])
        name, source = str(row["name"]), str(row["source"])
        table.add_row(name, value, source, style=_style(source))
    Console().print(table)


@app.command()
def env() -> None:
    """Print every setting as a line of an `.env` file, with its default and what it means."""
    from turnstream.streams.app.hiding import shown
    from turnstream.streams.app.settings import Settings

    for name, field in Settings.model_fields.items():
        default = shown(field.get_default(call_default_factory=True))
        if isinstance(default, list):
            default = ",".join(map(str, default))
        text = default if isinstance(default, str) else json.dumps(default)
        text = "" if default is None else text
        if field.description:
            typer.echo(f"# {field.description}")
        typer.echo(f"#TURNSTREAM_{name.upper()}={text}")


@app.command()
def check(
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the values only, connect to nothing.")
    ] = False,
    folder: Dir = HERE,
    as_json: AsJson = False,
) -> None:
    """Check the settings, the graphs and the servers. Exit code 3: a check failed.

    Graphs are loaded as a worker loads them; those that are functions are called once, without a
    run's config.
    """
    from turnstream.streams.cli.configured import configured_with_sources

    settings, _ = configured_with_sources(folder)
    findings = [*_consistent(settings), *asyncio.run(_graphs(settings))]
    if not offline:
        findings += asyncio.run(_reachable(settings))
    if as_json:
        typer.echo(
            json.dumps(
                [{"check": f.what, "ok": f.ok, "detail": f.detail} for f in findings], indent=2
            )
        )
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(3)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    ok: bool
    detail: str


def _consistent(settings: "Settings") -> list[Finding]:
    from turnstream.schemas.errors import ConfigurationError
    from turnstream.streams.app.contradictions import contradictions
    from turnstream.streams.edge.server.auth import check_secret

    found = [Finding(name, ok=False, detail=text) for name, text in contradictions(settings)]
    secret = settings.jwt_secret.get_secret_value()
    if secret:
        try:
            check_secret(secret)
        except ConfigurationError as error:
            found.append(Finding("jwt_secret", ok=False, detail=str(error)))
    if not (secret or settings.jwks_url):
        local = settings.edge_host in {"127.0.0.1", "::1", "localhost"}
        where = "on loopback only" if local else f"on {settings.edge_host}"
        found.append(Finding("auth", ok=local, detail=f"requests need no token, {where}"))
    return found or [Finding("values", ok=True, detail="consistent")]


async def _graphs(settings: "Settings") -> list[Finding]:
    """Load the graphs as a worker does, and call those that are functions once."""
    from turnstream.graph.langgraph.catalog import Catalog
    from turnstream.schemas.errors import CatalogError

    if settings.langgraph_json is None:
        return []
    catalog = Catalog()
    try:
        catalog.load(settings.langgraph_json)
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            lacking = await catalog.probe()
    except CatalogError as error:
        return [Finding("graphs", ok=False, detail=str(error))]
    except TimeoutError:
        detail = f"a function that makes a graph takes longer than {_CHECK_TIMEOUT_S:g} s"
        return [Finding("graphs", ok=False, detail=detail)]
    return [Finding("graphs", ok=True, detail="; ".join((", ".join(catalog.names), *lacking)))]


async def _reachable(settings: "Settings") -> list[Finding]:
    checks: list[tuple[str, bool, Callable[[Settings], Awaitable[str]]]] = [
        ("kafka", bool(settings.kafka_bootstrap), _kafka),
        ("postgres", bool(settings.database_url.get_secret_value()), _postgres),
        ("model", bool(settings.model_url), _model),
    ]
    return [
        await _try(name, check, settings)
        if is_set
        else Finding(name, ok=False, detail="not set, and no local stack runs in this folder")
        for name, is_set, check in checks
    ]


async def _try(
    what: str, check: "Callable[[Settings], Awaitable[str]]", settings: "Settings"
) -> Finding:
    from turnstream.streams.app.hiding import hidden

    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return Finding(what, ok=True, detail=hidden(await check(settings)))
    except Exception as error:  # noqa: BLE001  any error is the check's result
        return Finding(what, ok=False, detail=hidden(f"{type(error).__name__}: {error}")[:300])


async def _kafka(settings: "Settings") -> str:
    from turnstream.connectors.kafka.admin import TopicAdmin
    from turnstream.schemas.errors import ConfigurationError

    wanted = settings.topics.all(settings.tenants, settings.partitions)
    async with TopicAdmin(settings.kafka_bootstrap, replication=settings.replication) as admin:
        brokers = await admin.brokers()
        drifts = await admin.check(wanted)
    if drifts:
        raise ConfigurationError("; ".join(map(str, drifts)))
    return f"{settings.kafka_bootstrap}, {brokers} broker(s), all topics as wanted"


async def _postgres(settings: "Settings") -> str:
    import asyncpg

    from turnstream.schemas.errors import ConfigurationError

    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        names = ("server_version", "synchronous_commit", "fsync", "synchronous_standby_names")
        version, commits, fsync, standbys = [
            await connection.fetchval("SELECT current_setting($1)", name) for name in names
        ]
    finally:
        await connection.close()
    if commits == "off" or fsync == "off":
        raise ConfigurationError(
            f"a crash of the server may undo committed transactions: "
            f"synchronous_commit={commits}, fsync={fsync} (docs/promises.md)"
        )
    return f"version {version}, synchronous_commit={commits}, standby: {standbys or 'none'}"


async def _model(settings: "Settings") -> str:
    import aiohttp

    key = settings.model_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{settings.model_url.rstrip('/')}/models") as response,
    ):
        response.raise_for_status()
        found = [model["id"] for model in (await response.json())["data"]]
    return f"{settings.model_url} serves {', '.join(found) or 'nothing'}"


def _style(source: str) -> str:
    return "dim" if source == "default" else ""
