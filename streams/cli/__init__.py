"""The command line: `turnstream`. One module a command group, registered here.

Exit codes: 0 done; 1 an error, named on standard error; 2 the command line is wrong; 3 a check
found something. Modules import what they run inside their commands: help must be quick.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.cli import (
    chat,
    config,
    dead_letters,
    demo,
    edge,
    processor,
    replay,
    stack,
    topics,
    worker,
)

app = typer.Typer(
    name="turnstream",
    help="Event streaming for LLM agents on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("logs")(stack.logs)
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("worker")(worker.worker)
app.command("edge")(edge.edge)
app.add_typer(topics.app, name="topics")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(replay.app, name="replay")
app.add_typer(config.app, name="config")
app.add_typer(processor.app, name="processor")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"turnstream {version('turnstream')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; the errors of the project end it with their code and no traceback."""
    try:
        app()
    except TurnstreamError as error:
        typer.echo(f"error ({error.code}): {error}", err=True)
        sys.exit(1)
