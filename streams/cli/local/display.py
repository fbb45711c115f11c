"""Show how the parts of a local stack come and go.

On a terminal one line a part that changes in place; elsewhere one plain line a change.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from turnstream.deploy.local.state import Status
from turnstream.streams.app.hiding import HIDDEN, hidden

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from turnstream.deploy.local.state import PartState

BUSY = (Status.PREPARING, Status.STARTING, Status.STOPPING)
_MARKS = {
    Status.READY: Text("✔", "green"),
    Status.EXTERNAL: Text("→", "blue"),
    Status.ENDED: Text("✘", "red"),
    Status.FAILED: Text("✘", "red"),
    Status.STOPPED: Text("■", "dim"),
}


def address(part: PartState) -> str:
    """Return where a part is reached, without a password."""
    return hidden(part.url).replace(f"{HIDDEN}@", "")


class Display(AbstractContextManager["Display"]):
    """Gets every change of a part by being called with it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parts: dict[str, PartState] = {}
        self._began: dict[str, float] = {}
        self._said: dict[str, tuple[Status, bool]] = {}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=10)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Leave the table as it is; what comes now is a line each."""
        if self._live.is_started:
            self._live.stop()

    def __call__(self, part: PartState) -> None:
        """Take a part's new state."""
        self._parts[part.name] = part
        self._began.setdefault(part.name, time.monotonic())
        if not self._live.is_started:
            self._say(part)

    def _say(self, part: PartState) -> None:
        fetching = part.status is Status.PREPARING and bool(part.detail)
        if self._said.get(part.name) != (part.status, fetching):  # not every jar is a line
            self._said[part.name] = (part.status, fetching)
            words = (f"{part.name:<10} {part.status:<9}", part.detail, address(part))
            self._console.print("  ".join(filter(None, words)), soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, part in self._parts.items():
            busy = part.status in BUSY
            mark = Spinner("dots", style="cyan") if busy else _MARKS[part.status]
            waited = f"{time.monotonic() - self._began[name]:.0f} s" if busy else ""
            detail = part.detail or waited
            table.add_row(mark, name, part.status.value, detail, Text(address(part), "dim"))
        return table
