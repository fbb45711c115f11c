"""Orders to a stack that runs apart: `turnstream down` and `turnstream restart`."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import typer

from turnstream.deploy.local.folder import Folder, private, stop_parts
from turnstream.deploy.local.process import kill_group, wait_gone
from turnstream.deploy.local.state import PartState, Status, read_state, write_state
from turnstream.streams.cli.local.display import address
from turnstream.streams.cli.local.found import EXIT_FAILED, EXIT_OTHERWISE

if TYPE_CHECKING:
    from pathlib import Path

    from turnstream.deploy.local.process import Identity

_DOWN_TIMEOUT_S = 90.0
_RESTART_TIMEOUT_S = 180.0
_POLL_S = 0.1


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
    # only now: this process holds the lock, so no other can start what it is about to stop
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
