"""`turnstream demo`: the whole story on this machine, in about a minute."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def demo(
    *,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Scripted answers only, no llama.cpp.")
    ] = False,
) -> None:
    """Start a stack, run turns through Kafka, kill a worker in mid-turn, replay, stop.

    Kafka, Postgres and the model are real and come from packages; it leaves nothing running.
    Exit code 1: something was other than promised.
    """
    from turnstream.deploy.local import LocalStack, Plan
    from turnstream.deploy.local.state import PartState, Status
    from turnstream.schemas.errors import PartError
    from turnstream.streams.app.settings import load_settings
    from turnstream.streams.cli.local.demo_story import Doors, show

    began = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"[{time.monotonic() - began:5.1f} s] {line}")

    def report(part: PartState) -> None:
        if part.status in {Status.READY, Status.FAILED}:
            say(f"   {part.name} {part.status} {part.detail}")

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnstream-demo-")))
        scripted = stack.enter_context(_scripted_server(folder))
        env = {"TURNSTREAM_MODEL_ROUTES": json.dumps({"scripted": scripted})}
        servers = ("kafka", "postgres")
        services = ("worker", "edge")
        say("Starting Kafka, Postgres, a model, two workers, an edge (first time: fetched)")
        real = not no_model
        while True:
            parts = (*servers, *(("model",) if real else ()), *services)
            url = "" if real else scripted
            plan = Plan(parts=parts, workers=2, env=env, model_url=url)
            try:
                local = stack.enter_context(LocalStack(folder / "stack", plan=plan, report=report))
                break
            except PartError as error:
                if error.part != "model":
                    raise
                say(f"   no model runs here ({error.cause}): scripted answers instead")
                real = False
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
