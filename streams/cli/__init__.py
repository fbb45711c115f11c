"""The command line: `turnstream`. One module a command group, registered here.

Exit codes: 0 done; 1 an error, named on standard error; 2 the command line is wrong; 3 a check
found something. Modules import what they run inside their commands: help must be quick.
"""

import logging
from importlib.metadata import version
from typing import Annotated

import typer

from turnstream.streams.cli import (
    chat,
    config,
    dead_letters,
    edge,
    processor,
    replay,
    tail,
    topics,
    worker,
)
from turnstream.streams.cli.ending import end
from turnstream.streams.cli.local import demo, stack
from turnstream.streams.process.log_output import hold_standard_fds

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
app.command("restart")(stack.restart)
app.command("logs")(stack.logs)
app.command("tail")(tail.tail)
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
    """Run the command line; an error ends it with its code, one sentence and no traceback."""
    hold_standard_fds()
    # commands print for themselves; long-lived processes configure their log anew
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except Exception as error:  # noqa: BLE001  the last handler there is
        end(error)
