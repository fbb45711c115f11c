"""`turnstream up`, `down`, `status`, `restart` and `logs`: the local stack."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from turnstream.streams.cli.options import HERE, Dir

if TYPE_CHECKING:
    from turnstream.deploy.local.plan import Plan

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for a free port.")]


def up(
    *,
    folder: Dir = HERE,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Workers to start.")] = 1,
    only: Annotated[
        str,
        typer.Option(
            metavar="PARTS",
            help="Start only these: kafka,postgres,model,worker,edge,processor.",
        ),
    ] = "",
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Start no llama.cpp; needs TURNSTREAM_MODEL_URL.")
    ] = False,
    no_processor: Annotated[
        bool, typer.Option("--no-processor", help="Start no usage processor.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove all data first.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once all parts are ready; `down` stops them.")
    ] = False,
    kafka_port: Port = 0,
    postgres_port: Port = 0,
    model_port: Port = 0,
    edge_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="0 for the configured port, else 8123, else a free one."
        ),
    ] = 0,
    events_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Start a local stack: Kafka, Postgres, a model, workers, the edge and the usage processor.

    A server whose URL is configured is used, not started. Ctrl-C stops what was started and nothing
    else; the data is kept for the next start. Exit code 1: a part did not start; 3: a stack runs on
    this folder already.
    """
    from turnstream.streams.cli.local import runs

    unwanted = {"model": no_model, "processor": no_processor}
    ports = {"kafka": kafka_port, "postgres": postgres_port, "model": model_port, "edge": edge_port}
    wanted = [part.strip() for part in only.split(",") if part.strip()]
    plan = _plan(wanted, unwanted, ports, workers=workers, fresh=fresh)
    if "worker" in plan.parts and "model" not in plan.parts and not plan.model_url:
        raise typer.BadParameter("a worker needs a model: set TURNSTREAM_MODEL_URL to a server")
    if detach:
        raise typer.Exit(runs.start_apart(folder))
    if events_fd >= 0:
        raise typer.Exit(runs.run_apart(folder, plan, events_fd))
    raise typer.Exit(runs.run(folder, plan))


def down(*, folder: Dir = HERE) -> None:
    """Stop the stack that `up` started on this folder, and what a killed one has left."""
    from turnstream.streams.cli.local.orders import stop

    raise typer.Exit(stop(folder))


def status(
    *,
    folder: Dir = HERE,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the database's password.")
    ] = False,
) -> None:
    """Show the parts, their addresses, and whether they run.

    A part that ended by itself is started again, first after half a second, then after longer
    pauses. The table shows how often, and how it ended last. Exit code 0: all parts run; 1: a part
    does not; 3: no stack runs on this folder.
    """
    from turnstream.streams.cli.local.found import look

    found = look(folder)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        found.show()
    raise typer.Exit(found.code)


def restart(
    part: Annotated[
        str, typer.Argument(help="kafka, postgres, model, worker-1, …; worker: all in turn.")
    ],
    *,
    folder: Dir = HERE,
) -> None:
    """Stop a part of the running stack and start it again; a worker hands its turns over first.

    The part gets the environment of `up`, and reads `.env` again. Exit code 1: it did not become
    ready; 3: no stack runs on this folder.
    """
    from turnstream.streams.cli.local import orders

    raise typer.Exit(orders.restart(folder, part))


def logs(
    part: Annotated[str, typer.Argument(help="kafka, postgres, model, worker-1, …; all.")] = "",
    *,
    folder: Dir = HERE,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Lines of each log; 0 for all.")
    ] = 20,
) -> None:
    """Print the last lines that the parts logged. Exit code 3: there is no such log."""
    from turnstream.streams.cli.local.log_tail import print_logs

    paths = {path.stem: path for path in sorted((folder / "logs").glob("*.log"))}
    chosen = {name: path for name, path in paths.items() if part in {"", name}}
    if not chosen:
        there = ", ".join(paths) or "none"
        typer.echo(f"no log of {part or 'any part'} (there are: {there})", err=True)
        raise typer.Exit(3)
    print_logs(chosen, lines=lines, follow=follow)


def _plan(
    wanted: list[str],
    unwanted: dict[str, bool],
    ports: dict[str, int],
    *,
    workers: int,
    fresh: bool,
) -> "Plan":
    from turnstream.deploy.local.plan import PARTS, Plan
    from turnstream.schemas.errors import StackError
    from turnstream.streams.app.settings import load_settings, sources

    settings = load_settings()
    edge_is_set = sources()["edge_port"] != "default"
    try:
        return Plan(
            parts=tuple(part for part in wanted or PARTS if not unwanted.get(part)),
            workers=workers,
            worker_drain_s=settings.drain_timeout_s,
            fresh=fresh,
            kafka_bootstrap=settings.kafka_bootstrap,
            database_url=settings.database_url.get_secret_value(),
            model_url=settings.model_url,
            model_name=settings.model_name,
            kafka_port=ports["kafka"],
            postgres_port=ports["postgres"],
            model_port=ports["model"],
            edge_port=ports["edge"] or (settings.edge_port if edge_is_set else 0),
            edge_port_preferred=settings.edge_port,
        )
    except StackError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
