"""`turnstream up`, `down`, `status` and `logs`: the local stack from the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from turnstream.deploy.local.folder import DEFAULT_NAME, SUPERVISOR_LOG, Folder, stop_parts
from turnstream.deploy.local.process import wait_gone
from turnstream.deploy.local.stack import PARTS, LocalStack, Plan
from turnstream.deploy.local.state import (
    PartState,
    StackState,
    Status,
    read_state,
    write_state,
)
from turnstream.deploy.local.supervise import supervise
from turnstream.schemas.errors import PartError, StackError, StackRunningError
from turnstream.streams.cli.display import Display, address
from turnstream.streams.settings import Settings, load_settings

EXIT_FAILED = 1
EXIT_OTHERWISE = 3  # up: it runs already; down, status, logs: it does not run
_DOWN_TIMEOUT_S = 90.0
_FOLLOW_EVERY_S = 0.2

app = typer.Typer(help="The local stack.")

Dir = Annotated[
    Path, typer.Option("--dir", help="Folder of the stack: data, logs, state.", metavar="DIR")
]
HERE = Path(DEFAULT_NAME)


class _Outcome(msgspec.Struct):
    """How a detached start ended; the last line that the supervisor writes to its starter."""

    error: str = ""
    tail: tuple[str, ...] = ()
    log: str = ""
    code: int = 0


@app.command()
def up(  # noqa: PLR0917 - a command has as many options as it has
    folder: Dir = HERE,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Workers to start.")] = 1,
    only: Annotated[
        str, typer.Option(help=f"Start these parts only, of: {','.join(PARTS)}.", metavar="PARTS")
    ] = "",
    no_model: Annotated[bool, typer.Option("--no-model", help="Start no llama.cpp.")] = False,
    no_processor: Annotated[
        bool, typer.Option("--no-processor", help="Start no usage processor.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove all data first.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when all is ready; `down` stops it.")
    ] = False,
    kafka_port: Annotated[int, typer.Option(help="0: a free one.", max=65535)] = 0,
    postgres_port: Annotated[int, typer.Option(help="0: a free one.", max=65535)] = 0,
    model_port: Annotated[int, typer.Option(help="0: a free one.", max=65535)] = 0,
    edge_port: Annotated[
        int, typer.Option(help="0: as set, or 8123, or a free one.", max=65535)
    ] = 0,
    events_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Start all that a laptop needs: Kafka, Postgres, a model, workers, the edge, a processor.

    What is configured by URL is used, not started. Stays until Ctrl-C, which stops what it
    started and nothing else; the data is kept for the next start.
    """
    console = Console()
    if detach:
        raise typer.Exit(_detach(folder, console))
    parts = tuple(part.strip() for part in only.split(",") if part.strip()) or PARTS
    unwanted = {"model": no_model, "processor": no_processor}
    settings = load_settings()
    try:
        plan = Plan(
            parts=tuple(part for part in parts if not unwanted.get(part)),
            workers=workers,
            kafka_bootstrap=settings.kafka_bootstrap,
            database_url=settings.database_url.get_secret_value(),
            model_url=settings.model_url,
            model_name=settings.model_name,
            kafka_port=kafka_port,
            postgres_port=postgres_port,
            model_port=model_port,
            edge_port=edge_port or _edge_port_set(settings),
            edge_port_preferred=settings.edge_port,
            fresh=fresh,
        )
    except StackError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    if events_fd >= 0:
        raise typer.Exit(_run_detached(folder, plan, events_fd))
    raise typer.Exit(_run(folder, plan, console))


@app.command()
def down(folder: Dir = HERE) -> None:
    """Stop the stack that `up` started on this folder, and what a killed one has left."""
    console = Console()
    state = read_state(folder)
    if state is None:
        console.print(f"no stack ever ran on {folder}", soft_wrap=True)
        return
    supervisor = state.supervisor
    if supervisor is not None and state.running():
        if state.embedded:
            console.print(
                f"the stack on {folder} belongs to process {supervisor.pid}, "
                "which is more than a stack: end that one",
                soft_wrap=True,
            )
            raise typer.Exit(EXIT_OTHERWISE)
        names = [part.name for part in state.parts if part.process is not None]
        supervisor.send(signal.SIGTERM)
        if wait_gone([supervisor], _DOWN_TIMEOUT_S):
            supervisor.send(signal.SIGKILL)
            wait_gone([supervisor], _DOWN_TIMEOUT_S)
    else:
        names = []
    # only now: with its lock ours, nobody can start what we are about to stop
    place = Folder(folder)
    place.acquire()
    try:
        state = read_state(folder) or state
        names += [name for name in stop_parts(state) if name not in names]
        state.supervisor, state.ready = None, False
        write_state(place.path, state)
    finally:
        place.release()
    console.print(f"stopped {', '.join(names)}" if names else "nothing was running", soft_wrap=True)


@app.command()
def status(
    folder: Dir = HERE,
    as_json: Annotated[
        bool, typer.Option("--json", help="For scripts; includes the database's password.")
    ] = False,
) -> None:
    """Show the parts, where they are reached, and whether they live.

    Exit code 0: all is up; 1: a part is missing; 3: no stack runs on this folder.
    """
    state = read_state(folder) or StackState()
    running = state.running()
    for part in state.parts:
        if part.process is not None and not part.process.alive():
            part.status, part.process = Status.ENDED, None
    whole = running and state.ready and all(part.status is not Status.ENDED for part in state.parts)
    if as_json:
        found = {"running": running, "folder": str(folder.resolve()), **msgspec.to_builtins(state)}
        typer.echo(json.dumps({**found, "ready": whole}, indent=2))
    elif running and state.supervisor:
        console = Console()
        console.print(_table(state))
        console.print(f"supervisor: process {state.supervisor.pid}, folder {folder.resolve()}")
    else:
        typer.echo(f"no stack runs on {folder}; `turnstream up` starts one")
    raise typer.Exit(0 if whole else EXIT_FAILED if running else EXIT_OTHERWISE)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="kafka, postgres, model, worker-1, …; all.")] = "",
    folder: Dir = HERE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of each part.")] = 20,
) -> None:
    """Print the last lines that the parts logged."""
    paths = {path.stem: path for path in sorted((folder / "logs").glob("*.log"))}
    chosen = {name: path for name, path in paths.items() if part in ("", name)}
    if not chosen:
        typer.echo(
            f"no log of {part or 'any part'}; there are: {', '.join(paths) or 'none'}", err=True
        )
        raise typer.Exit(EXIT_OTHERWISE)
    width = max(map(len, chosen)) if len(chosen) > 1 else 0
    tails = {name: _Tail(path) for name, path in chosen.items()}
    for name, tail in tails.items():
        for line in tail.read()[-lines or sys.maxsize :]:
            typer.echo(f"{name:<{width}} | {line}" if width else line)
    try:
        while follow:
            for name, tail in tails.items():
                for line in tail.read():
                    typer.echo(f"{name:<{width}} | {line}" if width else line)
            time.sleep(_FOLLOW_EVERY_S)
    except KeyboardInterrupt:
        return


def _run(folder: Path, plan: Plan, console: Console) -> int:
    with Display(console) as display:
        try:
            stack = LocalStack(folder, plan=plan, embedded=False, report=display)
            supervise(stack, when_ready=lambda: _say_ready(console, stack.state))
        except (PartError, StackError) as error:
            outcome = _outcome(error)
        else:
            outcome = _Outcome()
    _say_outcome(outcome)
    return outcome.code


def _run_detached(folder: Path, plan: Plan, events_fd: int) -> int:
    """Be the supervisor of a detached start: tell its starter of every change, up to the end."""
    with os.fdopen(events_fd, "wb", buffering=0) as events:

        def tell(message: PartState | _Outcome) -> None:
            if not events.closed:
                try:
                    events.write(msgspec.json.encode(message) + b"\n")
                except BrokenPipeError:  # the starter has gone; the stack stays
                    events.close()

        def say_ready() -> None:
            tell(_Outcome())
            events.close()

        display = Display(Console())  # into the supervisor's log

        def report(part: PartState) -> None:
            display(part)
            tell(part)

        try:
            stack = LocalStack(folder, plan=plan, embedded=False, report=report)
            supervise(stack, when_ready=say_ready)
        except (PartError, StackError) as error:
            outcome = _outcome(error)
            _say_outcome(outcome)
            tell(outcome)
            return outcome.code
    return 0


def _detach(folder: Path, console: Console) -> int:
    """Start the same command once more, without `--detach`, and show what it tells."""
    log = Folder(folder).logs / SUPERVISOR_LOG
    read_fd, write_fd = os.pipe()
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    command = [sys.executable, "-m", "turnstream.streams.cli", *arguments]
    with log.open("ab") as output:
        supervisor = subprocess.Popen(  # noqa: S603 - ourselves
            [*command, f"--events-fd={write_fd}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(write_fd,),
        )
    os.close(write_fd)
    outcome = _Outcome(error="the supervisor ended without a word", log=str(log), code=EXIT_FAILED)
    with os.fdopen(read_fd, "rb") as events, Display(console) as display, _ending(supervisor):
        for line in events:
            message = msgspec.json.decode(line)
            if "status" in message:
                display(msgspec.convert(message, PartState))
            else:
                outcome = msgspec.convert(message, _Outcome)
                break
    _say_outcome(outcome)
    if not outcome.error:
        _say_ready(console, read_state(folder) or StackState(), detached=True)
    return outcome.code


@contextmanager
def _ending(supervisor: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a start under way when Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise


def _edge_port_set(settings: Settings) -> int:
    return settings.edge_port if "edge_port" in settings.model_fields_set else 0


def _outcome(error: StackError) -> _Outcome:
    if isinstance(error, PartError):
        return _Outcome(f"{error.part} did not start: {error.cause}", error.tail, error.log, 1)
    code = EXIT_OTHERWISE if isinstance(error, StackRunningError) else EXIT_FAILED
    return _Outcome(str(error), code=code)


def _say_outcome(outcome: _Outcome) -> None:
    if outcome.error:
        typer.echo(outcome.error, err=True)
        for line in outcome.tail:
            typer.echo(f"    {line}", err=True)
        if outcome.log:
            typer.echo(f"its log: {outcome.log}", err=True)


def _say_ready(console: Console, state: StackState, *, detached: bool = False) -> None:
    ends = "`turnstream down` stops it" if detached else "Ctrl-C stops it"
    where = f" at {state.edge_url} (API: /docs)" if state.edge_url else ""
    console.print(f"ready{where}; {ends}", soft_wrap=True, highlight=False)


def _table(state: StackState) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "status", "pid", "address"):
        table.add_column(heading, overflow="fold")
    for part in state.parts:
        pid = str(part.process.pid) if part.process else ""
        ports = ", ".join(f"{use} {port}" for use, port in part.ports.items())
        table.add_row(part.name, part.status.value, pid, address(part) or ports)
    return table


class _Tail:
    """The lines that a log gets; begins anew when the log does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0

    def read(self) -> list[str]:
        """Return the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines() if newline else []
