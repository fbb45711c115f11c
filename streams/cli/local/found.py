"""What runs on a folder, and how `turnstream status` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from turnstream.deploy.local.state import StackState, Status, read_state
from turnstream.streams.cli.local.display import address

if TYPE_CHECKING:
    from pathlib import Path

EXIT_FAILED = 1
EXIT_OTHERWISE = 3
"""A stack runs already, or no stack runs."""


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
