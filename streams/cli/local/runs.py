"""Run a local stack for the command line: in the foreground, or apart from the terminal.

Apart: the command starts itself once more as the supervisor. The supervisor writes every change
as a JSON line to a pipe until all parts are ready or one failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console

from turnstream.deploy.local.folder import SUPERVISOR_LOG, Folder, private
from turnstream.deploy.local.stack import LocalStack
from turnstream.deploy.local.state import PartState, StackState, read_state
from turnstream.deploy.local.supervise import supervise
from turnstream.schemas.errors import PartError, StackError, StackRunningError
from turnstream.streams.cli.local.display import Display
from turnstream.streams.cli.local.found import EXIT_FAILED, EXIT_OTHERWISE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from turnstream.deploy.local.plan import Plan


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
    """Be the supervisor of a detached start: write every change to its starter."""
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
    """Start the same command once more, without `--detach`, and show the changes it writes."""
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
    """Stop the supervisor when Ctrl-C interrupts the start."""
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
