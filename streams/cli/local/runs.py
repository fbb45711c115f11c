"""Run a local stack for the command line: in the foreground, or apart from the terminal.

Apart: the command starts itself once more as the supervisor, which tells of every change in JSON
lines over a pipe until all is ready or something failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from turnstream.deploy.local.folder import SUPERVISOR_LOG, Folder, private, stop_parts
from turnstream.deploy.local.process import kill_group, wait_gone
from turnstream.deploy.local.stack import LocalStack
from turnstream.deploy.local.state import PartState, StackState, Status, read_state, write_state
from turnstream.deploy.local.supervise import supervise
from turnstream.schemas.errors import PartError, StackError, StackRunningError
from turnstream.streams.cli.local.display import Display, address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from turnstream.deploy.local.plan import Plan
    from turnstream.deploy.local.process import Identity

EXIT_FAILED = 1
EXIT_OTHERWISE = 3  # it runs already, or it does not run
_DOWN_TIMEOUT_S = 90.0
_RESTART_TIMEOUT_S = 180.0
_POLL_S = 0.1


class _Outcome(msgspec.Struct):
    """How a detached start ended; the last line that the supervisor writes to its starter."""

    error: str = ""
    tail: tuple[str, ...] = ()
    log: str = ""
    code: int = 0


def run(folder: Path, plan: Plan) -> int:
    """Run a stack here until a signal; return the exit code."""
    console = Console()
    with Display(console) as display:

        def say_ready() -> None:
            display.settle()
            _say_ready(console, stack.state)

        try:
            stack = LocalStack(folder, plan=plan, embedded=False, report=display)
            supervise(stack, when_ready=say_ready)
        except (PartError, StackError) as error:
            outcome = _outcome(error)
        else:
            outcome = _Outcome()
    _say_outcome(outcome)
    return outcome.code


def run_apart(folder: Path, plan: Plan, events_fd: int) -> int:
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


def start_apart(folder: Path) -> int:
    """Start the same command once more, without `--detach`, and show what it tells."""
    console = Console()
    log = private(Folder(folder).logs / SUPERVISOR_LOG)
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
def _ending(supervisor: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a start under way when Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise


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


def stop(folder: Path) -> int:
    """Stop what runs on a folder; return the exit code."""
    state = read_state(folder)
    if state is None:
        typer.echo(f"no stack ever ran on {folder}")
        return 0
    supervisor = state.supervisor
    names = []
    if supervisor is not None and supervisor.alive():
        if state.embedded:
            typer.echo(
                f"the stack on {folder} belongs to process {supervisor.pid}, "
                "which is more than a stack: end that one",
                err=True,
            )
            return EXIT_OTHERWISE
        names = [part.name for part in state.parts if part.process is not None]
        supervisor.send(signal.SIGTERM)
        if wait_gone([supervisor], _DOWN_TIMEOUT_S):
            supervisor.send(signal.SIGKILL)
            wait_gone([supervisor], _DOWN_TIMEOUT_S)
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
    typer.echo(f"stopped {', '.join(names)}" if names else "nothing was running")
    return 0


def restart(folder: Path, wanted: str) -> int:
    """Stop and start a part of a stack that runs, or all workers in turn; return the exit code."""
    state = read_state(folder)
    if state is None or state.supervisor is None or not state.running():
        typer.echo(f"no stack runs on {folder}; `turnstream up` starts one", err=True)
        return EXIT_OTHERWISE
    if state.embedded:
        typer.echo(f"the stack on {folder} belongs to process {state.supervisor.pid}", err=True)
        return EXIT_OTHERWISE
    chosen = [
        part
        for part in state.parts
        if part.name == wanted or (wanted == "worker" and part.name.startswith("worker-"))
    ]
    if not chosen:
        names = ", ".join(part.name for part in state.parts)
        raise typer.BadParameter(f"no such part: {wanted} (there are: {names})", param_hint="PART")
    for part in chosen:
        if part.status is Status.EXTERNAL:
            typer.echo(f"{part.name} was not started here: {address(part)} is used", err=True)
            return EXIT_FAILED
        code = _restart(folder, state.supervisor, part)
        if code:
            return code
    return 0


def _restart(folder: Path, supervisor: Identity, part: PartState) -> int:
    began = time.monotonic()
    note = private(Folder(folder).restart_note(part.name))
    try:
        if part.process is not None and part.process.send(part.stop_signal):
            for process in wait_gone([part.process], part.stop_timeout_s):
                kill_group(process)
        while time.monotonic() < began + _RESTART_TIMEOUT_S and supervisor.alive():
            state = read_state(folder)
            now = state.part(part.name) if state else None
            if now is not None and now.process not in {None, part.process}:
                if now.status is Status.READY:
                    took = time.monotonic() - began
                    typer.echo(f"{part.name} restarted in {took:.1f} s")
                    return 0
            elif now is not None and now.status is Status.ENDED and not note.exists():
                break  # it was started again, and has ended again
            time.sleep(_POLL_S)
    finally:
        note.unlink(missing_ok=True)
    typer.echo(f"{part.name} did not become ready; its log: {part.log}", err=True)
    return EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Found:
    """What was found on a folder."""

    folder: Path
    state: StackState
    running: bool
    whole: bool

    @property
    def code(self) -> int:
        """Return the exit code of `status`."""
        if self.whole:
            return 0
        return EXIT_FAILED if self.running else EXIT_OTHERWISE

    def as_json(self) -> dict[str, object]:
        """Return all of it for a script, with the database's password."""
        state = msgspec.to_builtins(self.state)
        return {"running": self.running, "folder": str(self.folder), **state, "ready": self.whole}

    def show(self) -> None:
        """Print it for a person."""
        if not self.running or self.state.supervisor is None:
            typer.echo(f"no stack runs on {self.folder}; `turnstream up` starts one")
            return
        table = Table(box=None, pad_edge=False)
        again = any(part.restarts or part.status is Status.ENDED for part in self.state.parts)
        for heading in ("part", "status", "pid", "address", *(("restarts",) if again else ())):
            table.add_column(heading, overflow="fold")
        for part in self.state.parts:
            pid = str(part.process.pid) if part.process else ""
            ports = ", ".join(f"{use} {port}" for use, port in part.ports.items())
            cause = part.detail if part.status is Status.ENDED else part.cause
            cause = f", {cause}" if cause else ""
            cells = [part.name, part.status.value, pid, address(part) or ports]
            table.add_row(*cells, *((f"{part.restarts}{cause}",) if again else ()))
        console = Console()
        console.print(table)
        pid = str(self.state.supervisor.pid)
        console.print(f"supervisor {pid}, folder {self.folder}", soft_wrap=True, highlight=False)


def look(folder: Path) -> Found:
    """Return what runs on a folder; a part counts as ended when its process has gone."""
    state = read_state(folder) or StackState()
    running = state.running()
    for part in state.parts:
        if part.process is not None and not part.process.alive():
            part.status, part.process = Status.ENDED, None
    lost = any(part.status is Status.ENDED for part in state.parts)
    return Found(folder.resolve(), state, running, running and state.ready and not lost)
