"""`turnstream demo`: a stack, a crash and a replay on this machine, in about a minute."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from turnstream.deploy.local import LocalStack


def demo(
    *,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Use scripted answers only, no llama.cpp.")
    ] = False,
) -> None:
    """Start a stack, run turns through Kafka, kill a worker in mid-turn, replay, stop.

    Kafka, Postgres and the model are real and come from packages; it leaves nothing running.
    Exit code 1: a promise did not hold.
    """
    from turnstream.streams.app.settings import load_settings
    from turnstream.streams.cli.local.demo_story import Doors, show

    began = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"[{time.monotonic() - began:5.1f} s] {line}")

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnstream-demo-")))
        scripted = stack.enter_context(_scripted_server(folder))
        say("Starting Kafka, Postgres, a model, two workers, an edge (first time: fetched)")
        local = _local_stack(folder / "stack", scripted, say, no_model=no_model)
        stack.callback(local.stop)
        real = local.model_url != scripted
        workers = {p.pid for name, p in local.processes.items() if name.startswith("worker")}
        doors = Doors(
            kafka_bootstrap=local.kafka_bootstrap,
            edge_url=local.edge_url,
            topics=load_settings().topics,
            workers=frozenset(workers),
            say=say,
        )
        say(f"Ready: Kafka at {doors.kafka_bootstrap}, edge at {doors.edge_url}")
        asyncio.run(show(doors, real_model=real))
        say("Stopping everything")
    say("Done; nothing is left running.")
    for line in NEXT:
        typer.echo(line)


NEXT = (
    "",
    "Next:",
    "  make up                                the same stack, to stay; Ctrl-C stops it",
    "  .venv/bin/turnstream chat              talk to it (in another terminal)",
    "  .venv/bin/turnstream replay view --thread T   what the log holds of a thread",
    "  ARCHITECTURE.md                        how a turn survives",
)


def _local_stack(
    folder: Path, scripted: str, say: Callable[[str], None], *, no_model: bool
) -> "LocalStack":
    """Start the stack, with the scripted server where no model is wanted or none runs here."""
    from turnstream.deploy.local import LocalStack, Plan
    from turnstream.deploy.local.state import PartState, Status
    from turnstream.schemas.errors import PartError

    def report(part: PartState) -> None:
        if part.status in {Status.READY, Status.FAILED}:
            say(f"   {part.name} {part.status} {part.detail}")

    def started(*, model: bool) -> LocalStack:
        plan = Plan(
            parts=("kafka", "postgres", *(("model",) if model else ()), "worker", "edge"),
            workers=2,
            env={"TURNSTREAM_MODEL_ROUTES": json.dumps({"scripted": scripted})},
            model_url="" if model else scripted,
        )
        local = LocalStack(folder, plan=plan, report=report)
        local.start()
        return local

    try:
        return started(model=not no_model)
    except PartError as error:
        if error.part != "model":
            raise
        say(f"   no model runs here ({error.cause}): scripted answers instead")
        return started(model=False)


@contextlib.contextmanager
def _scripted_server(folder: Path) -> Iterator[str]:
    """Run the scripted model server as a child; gives its base URL."""
    from turnstream.deploy.local.machine import Ports, environment
    from turnstream.deploy.local.process import spawn

    port = Ports().take()
    command = [sys.executable, "-m", "turnstream.deploy.local.scripted.server", "--port", str(port)]
    child = spawn(command, log=folder / "scripted.log", env=environment())  # it dies with us
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait()
